"""One association with real peers: what leaves, what is understood of the answers, and what is waited for."""

import os
import select
import socket
import struct
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dicomferry.dicom.part10 import Meta, file_header, read_meta
from dicomferry.dicom.syntaxes import EXPLICIT_LE, GROUPS, resolve
from dicomferry.settings import Destination
from forwarder.dimse import connection
from forwarder.dimse.connection import PeerClosed, PeerFailure
from forwarder.dimse.proposal import ECHO, Context
from forwarder.dimse.scu import Association
from tests.support.images.files import fresh_copies, shipped
from tests.support.peers.dcmtk import Workstation
from tests.support.peers.raw import AC, association_acceptance, item, p_data, pdu
from tests.support.peers.scps import black_hole, orthanc, pynetdicom_scp, raw_peer, relay
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until

CT = "1.2.840.10008.5.1.4.1.1.2"
NATIVE_CT: Context = (CT, EXPLICIT_LE)


def to(port: int, *, timeout: float = 10.0, **keys: Any) -> Destination:
    return Destination(
        **({"name": "ws", "title": "WS", "host": "127.0.0.1", "port": port, "timeout": timeout} | keys)
    )


def context_of(path: Path) -> Context:
    meta = read_meta(path)
    return meta.sop_class_uid, meta.transfer_syntax_uid


def encoded(path: Path) -> bytes:
    return path.read_bytes()[read_meta(path).offset :]


def store(association: Association, path: Path, meta: Meta | None = None) -> int:
    with path.open("rb") as file:
        return association.store(file, meta or read_meta(path))


def send(destination: Destination, *paths: Path) -> list[int]:
    contexts = list(dict.fromkeys(context_of(path) for path in paths))
    association = Association.request(destination, "FERRY", contexts)
    try:
        return [store(association, path) for path in paths]
    finally:
        association.release()


def synthetic(folder: Path, size: int, name: str = "large.dcm") -> Path:
    """A CT in Explicit VR Little Endian whose data set is one private element, `size` bytes long in all."""
    path = folder / name
    uid = f"1.2.826.0.1.3680043.8.498.{os.getpid()}{time.monotonic_ns()}"
    element = struct.pack("<HH2sHI", 0x0009, 0x1001, b"OB", 0, size - 12)
    path.write_bytes(file_header(CT, uid, EXPLICIT_LE) + element + os.urandom(size - 12))
    return path


@pytest.fixture
def ct(tmp_path: Path) -> Path:
    return fresh_copies("CT_small.dcm", 1, tmp_path / "ct")[0]


@pytest.mark.parametrize("maximum_pdu", [0, 16382, 4097])
def test_the_bytes_of_the_data_set_arrive_as_they_are_in_the_file(tmp_path: Path, maximum_pdu: int) -> None:
    files = [
        shipped(name)
        for name in ("CT_small.dcm", "MR2_J2KR.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm", "MR_small_RLE.dcm")
    ]
    files += [synthetic(tmp_path, size, f"{size}.dcm") for size in (12, 4090 * 2, 4090 * 2 + 2, 3_000_000)]
    with pynetdicom_scp(resolve(["all"]), maximum_pdu=maximum_pdu) as peer:
        assert send(to(peer.port), *files) == [0] * len(files)
    # A deflated data set without its padding (PS3.5 A.5) gets it.
    sent = [encoded(path) + b"\0" * (len(encoded(path)) % 2) for path in files]
    assert [bytes_ for _, _, bytes_ in peer.datasets] == sent
    assert sent[2] != encoded(files[2])
    assert [syntax for _, syntax, _ in peer.datasets] == [context_of(path)[1] for path in files]
    assert all(length <= (maximum_pdu or length) for length, _ in peer.pdus)
    assert not [fragment for _, fragment in peer.pdus if fragment % 2]  # PS3.8 E.1


def test_a_file_that_becomes_shorter_is_no_success(tmp_path: Path) -> None:
    path = synthetic(tmp_path, 3_000_000)
    with pynetdicom_scp(resolve(["all"])) as peer:
        association = Association.request(to(peer.port), "FERRY", [context_of(path)])
        meta = read_meta(path)
        association.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        sent = association.sock.sendall

        class Cutting:
            """Its socket, which sees the file cut when the first block has left."""

            def __getattr__(self, name: str) -> Any:
                return getattr(association_socket, name)

            def sendall(self, content: bytes) -> None:
                sent(content)
                os.truncate(path, 1_000_000)

        association_socket = association.sock
        association._connection.sock = Cutting()  # type: ignore[assignment]
        with pytest.raises(OSError, match="became shorter"):
            store(association, path, meta)
        association.abort()
    assert peer.datasets == []


def test_storescp_gets_exactly_what_was_sent(tmp_path: Path) -> None:
    files = fresh_copies("CT_small.dcm", 3, tmp_path / "ct")
    with Workstation(tmp_path / "ws", free_port(), "+B") as peer:
        assert send(to(peer.port), *files) == [0, 0, 0]
        sent = {read_meta(path).sop_instance_uid: encoded(path) for path in files}
        # storescp answers before the last bytes have left its buffer for the file.
        wait_until(lambda: {uid: encoded(path) for uid, path in peer.by_uid().items()} == sent, "equal files")


def test_an_odd_data_set_reaches_peers_that_abort_over_an_odd_fragment(tmp_path: Path) -> None:
    path = Path(__file__).parents[3] / "data" / "cases" / "wire" / "oddfrag.dcm"
    at = encoded(path).index(b"\xfe\xff\x00\xe0\xfd\0\0\0")  # its fragment of 253 bytes
    odd = encoded(path)
    legal = odd[: at + 4] + b"\xfe" + odd[at + 5 : at + 261] + b"\0" + odd[at + 261 :]
    with (
        Workstation(tmp_path / "ws", free_port(), "+B", "+xa") as peer,
        pynetdicom_scp(resolve(["all"])) as seen,
    ):
        association = Association.request(to(peer.port), "FERRY", [context_of(path)])
        assert store(association, path) == 0
        assert "(7FE0,0010) padded" in association.changed
        association.release()
        wait_until(lambda: [encoded(p) for p in peer.by_uid().values()] == [legal], "the padded file")
        assert send(to(seen.port), path) == [0]
        assert seen.datasets[0][2] == legal
    with orthanc(tmp_path / "orthanc") as (dicom, _):
        assert send(to(dicom, title="ORTHANC"), path) == [0]


def test_orthanc_takes_compressed_and_native_objects(tmp_path: Path) -> None:
    files = fresh_copies("CT_small.dcm", 1, tmp_path) + fresh_copies("MR2_J2KR.dcm", 1, tmp_path)
    with orthanc(tmp_path / "orthanc") as (dicom, _):
        assert send(to(dicom, title="ORTHANC"), *files) == [0, 0]
        with pytest.raises(PeerFailure, match="called AE title not recognised"):
            send(to(dicom, title="SOMEBODY"), *files)


def test_what_a_peer_accepts_is_known_for_each_transfer_syntax(tmp_path: Path) -> None:
    contexts = [(CT, syntax) for syntax in resolve(["all"])]
    with Workstation(tmp_path / "ws", free_port()) as peer:
        association = Association.request(to(peer.port), "FERRY", contexts)
        association.release()
    assert {syntax for _, syntax in association.accepted} == set(GROUPS["uncompressed"])


def test_a_peer_that_accepts_nothing_is_still_an_association() -> None:
    with pynetdicom_scp(sop_classes=["1.2.840.10008.5.1.4.1.1.4"]) as peer:
        association = Association.request(to(peer.port), "FERRY", [NATIVE_CT])
        assert association.accepted == {}
        association.release()


@pytest.mark.parametrize("status", [0x0000, 0xB007, 0xA700, 0xC123, 0x0110])
def test_the_status_is_the_one_that_the_peer_answered(ct: Path, status: int) -> None:
    with pynetdicom_scp(answer=lambda _: status) as peer:
        assert send(to(peer.port), ct) == [status]


def test_verification_is_answered() -> None:
    with pynetdicom_scp() as peer:
        association = Association.request(to(peer.port), "FERRY", [ECHO])
        assert association.echo() == 0x0000
        association.release()


def test_large_objects_leave_from_disk_and_not_from_memory(tmp_path: Path) -> None:
    large = synthetic(tmp_path, 48 << 20)
    with Workstation(tmp_path / "ws", free_port(), "--ignore") as peer:
        association = Association.request(to(peer.port), "FERRY", [NATIVE_CT])
        tracemalloc.start()
        store(association, large)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        association.release()
    assert peak < 4 << 20


# Peers that do not behave


def silent(_: socket.socket) -> None:
    time.sleep(60)


def dribbling(connection: socket.socket) -> None:
    """The start of an A-ASSOCIATE-AC, a byte at a time, without end."""
    connection.sendall(b"\x02\x00\x00\x00\x40\x00")
    while True:
        connection.sendall(b"\x00")
        time.sleep(0.1)


def gibberish(connection: socket.socket) -> None:
    connection.recv(10)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    time.sleep(60)


def aborting(connection: socket.socket) -> None:
    connection.recv(10)
    connection.sendall(b"\x07\x00\x00\x00\x00\x04\x00\x00\x02\x00")


def closing(connection: socket.socket) -> None:
    connection.recv(10)


def damaged(connection: socket.socket) -> None:
    connection.recv(10)
    connection.sendall(b"\x02\x00\x00\x00\x00\x50" + b"\xff" * 0x50)
    time.sleep(60)


@pytest.mark.parametrize(
    ("talk", "timeout", "words"),
    [
        (silent, 1.0, "no answer"),
        (dribbling, 1.0, "no answer"),
        (gibberish, 30.0, "no DICOM"),
        (aborting, 30.0, "aborted by the destination"),
        (closing, 30.0, "connection closed"),
        (damaged, 30.0, "damaged acceptance"),
    ],
)
def test_whoever_gives_no_association_is_named_and_never_waited_for_long(
    talk: Callable[[socket.socket], None], timeout: float, words: str
) -> None:
    # That it ends at all is the point: the dribbling peer would go on for ever.
    with raw_peer(talk) as port, pytest.raises(PeerFailure, match=words):
        Association.request(to(port, timeout=timeout), "FERRY", [NATIVE_CT])


NATIVE = EXPLICIT_LE.encode()
ODD = {
    "a version that is too long": association_acceptance(extra=item(0x50, item(0x55, b"V" * 40))),
    "a version that ends with NUL": association_acceptance(extra=item(0x50, item(0x55, b"DCMTK_36\0"))),
    "a version that is not ASCII": association_acceptance(extra=item(0x50, item(0x55, b"V\xc4"))),
    "an empty version": association_acceptance(extra=item(0x50, item(0x55, b""))),
    "a class that is no UID": association_acceptance(extra=item(0x50, item(0x52, b"\xffclass"))),
    "a class that is too long": association_acceptance(extra=item(0x50, item(0x52, b"1." * 40 + b"1"))),
    "a role for what was not asked": association_acceptance(extra=item(0x50, item(0x54, b"\0\31.2\7\7"))),
    "a damaged role": association_acceptance(extra=item(0x50, item(0x54, b"\0\x501.2"))),
    "asynchronous operations": association_acceptance(extra=item(0x50, item(0x53, b"\0\0\0\0"))),
    "an identity that nobody gave": association_acceptance(extra=item(0x50, item(0x59, b"\0\3yes"))),
    "a sub-item that nobody knows": association_acceptance(extra=item(0x50, item(0x7F, b"of tomorrow"))),
    "an item that nobody knows": association_acceptance(extra=item(0x60, b"of tomorrow")),
    "zeros at its end": association_acceptance(extra=bytes(8)),
    "a title of NULs": association_acceptance(called=bytes(16)),
    "a title that is not ASCII": association_acceptance(called=b"\xc4\xd6"),
    "an application context padded with NUL": association_acceptance(application=b"1.2.840.10008.3.1.1.1\0"),
    "a syntax padded with NUL": association_acceptance([(1, 0, NATIVE + b"\0"), (3, 4, NATIVE)]),
    "no syntax of a rejected context": association_acceptance([(1, 0, NATIVE), (3, 4, b"")]),
    "a rejected syntax that is not ASCII": association_acceptance([(3, 3, b"\xff\xfe"), (1, 0, NATIVE)]),
    "a rejected syntax that is too long": association_acceptance([(3, 4, b"1." * 40 + b"1"), (1, 0, NATIVE)]),
    "a rejected context of nothing": association_acceptance(extra=item(0x21, b"\3\0\4\0")),
    "a context that was not proposed": association_acceptance([(1, 0, NATIVE), (77, 0, NATIVE)]),
    "a context twice": association_acceptance([(1, 0, NATIVE), (1, 4, NATIVE)]),
    "an accepted syntax that is not ASCII": association_acceptance([(1, 0, NATIVE), (3, 0, b"\xff")]),
}


@pytest.mark.parametrize("name", ODD)
def test_what_odd_peers_answer_is_understood_as_dcmtk_understands_it(name: str) -> None:
    def answer(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        peer.sendall(pdu(AC, ODD[name]))
        peer.recv(1)

    contexts = [NATIVE_CT, (CT, "1.2.840.10008.1.2.4.90")]
    with raw_peer(answer) as port:
        association = Association.request(to(port), "FERRY", contexts)
        assert association.accepted == {NATIVE_CT: 1}
        association.abort()


def test_a_response_without_an_end_is_not_read_for_ever() -> None:
    def answer(peer: socket.socket) -> None:
        peer.recv(1 << 16)
        peer.sendall(pdu(AC, association_acceptance()))
        with suppress(OSError):
            while True:
                peer.sendall(p_data(1, 1, bytes(1000)))

    with raw_peer(answer) as port:
        association = Association.request(to(port), "FERRY", [ECHO])
        association.accepted = {ECHO: 1}
        with pytest.raises(PeerFailure, match="without an end"):
            association.echo()
        association.abort()


def test_nobody_there_is_told_from_nobody_of_that_name() -> None:
    with pytest.raises(PeerFailure, match="connection refused"):
        Association.request(to(free_port()), "FERRY", [NATIVE_CT])
    with pytest.raises(PeerFailure, match=r"host not found: no-such-host\.invalid"):
        Association.request(to(104, host="no-such-host.invalid"), "FERRY", [NATIVE_CT])


@pytest.mark.parametrize(
    ("result", "source", "reason", "words"),
    [
        (1, 1, 3, "calling AE title not recognised"),
        (1, 1, 7, "called AE title not recognised"),
        (2, 3, 1, "temporary congestion"),
        (2, 3, 2, "local limit exceeded"),
    ],
)
def test_a_rejection_says_its_reason(result: int, source: int, reason: int, words: str) -> None:
    def reject(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(bytes((3, 0, 0, 0, 0, 4, 0, result, source, reason)))
        connection.recv(1)

    with raw_peer(reject) as port, pytest.raises(PeerFailure, match=words):
        Association.request(to(port), "FERRY", [NATIVE_CT])


def test_a_stock_pynetdicom_that_requires_its_title_says_so() -> None:
    with pynetdicom_scp(require_called_aet=True) as peer:
        Association.request(to(peer.port), "FERRY", [NATIVE_CT]).release()
        with pytest.raises(PeerFailure, match="called AE title not recognised"):
            Association.request(to(peer.port, title="OTHER"), "FERRY", [NATIVE_CT])


def test_a_peer_that_aborts_over_an_object_is_told_from_one_that_is_silent(tmp_path: Path, ct: Path) -> None:
    aborts_after = Workstation(tmp_path / "a", free_port(), "--abort-after")
    with aborts_after, pytest.raises(PeerClosed, match="aborted by the destination"):
        send(to(aborts_after.port), ct)
    aborts_during = Workstation(tmp_path / "b", free_port(), "--abort-during")
    with aborts_during, pytest.raises(PeerClosed, match="by the destination"):
        send(to(aborts_during.port), synthetic(tmp_path, 8 << 20))
    sleeps = Workstation(tmp_path / "c", free_port(), "--sleep-during", "30")
    with sleeps, pytest.raises(PeerFailure, match="no answer") as silence:
        send(to(sleeps.port, timeout=1.0), ct)
    assert not isinstance(silence.value, PeerClosed)


def test_a_peer_that_stops_reading_is_not_waited_for_long() -> None:
    with black_hole() as hole:
        opened = connection.Connection.connect("127.0.0.1", hole, 1.0, lambda _: None)
        with pytest.raises(PeerFailure, match="no answer"):
            opened.send(b"\0" * (64 << 20))
        opened.close()


def test_a_cut_after_the_last_byte_before_the_response_is_no_success(ct: Path) -> None:
    def without_answers(requestor: socket.socket, acceptor: socket.socket) -> None:
        _forward_pdu(requestor, acceptor)
        _forward_pdu(acceptor, requestor)
        while acceptor not in select.select([requestor, acceptor], [], [])[0]:
            acceptor.sendall(requestor.recv(1 << 20))
        acceptor.recv(1)  # The response has come; it goes nowhere.

    with pynetdicom_scp() as peer, relay(peer.port, without_answers) as port:
        with pytest.raises(PeerClosed, match="connection closed"):
            send(to(port), ct)
        assert len(peer.datasets) == 1


def _forward_pdu(source: socket.socket, target: socket.socket) -> None:
    header = source.recv(6, socket.MSG_WAITALL)
    target.sendall(header + source.recv(struct.unpack(">I", header[2:])[0], socket.MSG_WAITALL))


@pytest.fixture
def stalling(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def stall() -> None:
        monkeypatch.setattr(connection, "no_delay", lambda _: None)
        monkeypatch.setattr(connection, "quick_ack", lambda _: None)

    return stall


@pytest.mark.alone
def test_no_object_waits_for_a_delayed_acknowledgement(tmp_path: Path, stalling: Callable[[], None]) -> None:
    files = fresh_copies("CT_small.dcm", 40, tmp_path / "ct")

    def seconds(folder: Path) -> float:
        with Workstation(folder, free_port()) as peer:
            start = time.perf_counter()
            assert send(to(peer.port), *files) == [0] * len(files)
            return time.perf_counter() - start

    # An idle machine shows 30 times; the better of two, and 2 times, holds on one that is overloaded.
    prompt = min(seconds(tmp_path / "prompt1"), seconds(tmp_path / "prompt2"))
    stalling()
    stalled = seconds(tmp_path / "stalled")
    assert stalled > 2 * prompt, (stalled, prompt)
