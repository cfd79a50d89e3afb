"""Who gets an association with ingest, in which contexts, and what slow peers cost the others."""

import ctypes
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pydicom._uid_dict import UID_dictionary
from pynetdicom import AE
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    _STORAGE_CLASSES,
    CTImageStorage,
    PatientRootQueryRetrieveInformationModelFind,
    Verification,
)

from dicomferry.dicom.part10 import file_header
from dicomferry.dicom.syntaxes import EXPLICIT_BE, EXPLICIT_LE, GROUPS, IMPLICIT_LE, TABLE, resolve
from dicomferry.errors import Misconfigured
from tests.support.images.files import shipped
from tests.support.peers.dcmtk import send
from tests.support.peers.raw import RJ, RQ, Raw, association_request, pdu
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.running.services import program
from tests.support.running.traces import calls_in, stop_traced
from tests.support.stages.ingesting import Ingest, IngestProcess, an_ingest, associated

CT = str(CTImageStorage)
J2K = resolve(["JPEG2000Lossless"])[0]
PRIVATE = "1.2.826.0.1.3680043.9.9999.1"


@pytest.fixture(scope="module")
def ingest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ingest]:
    aes = [
        {"title": "FERRY"},
        {"title": "NATIVE", "accept": ["uncompressed"]},
        {"title": "CLOSED", "callers": [{"title": "PACS", "host": "127.0.0.1"}]},
        {"title": "OPEN", "unknown_sop_classes": True},
    ]
    with an_ingest(tmp_path_factory.mktemp("ingest"), ae=aes) as running:
        yield running


def rejection(port: int, called: bytes, calling: bytes = b"PACS") -> tuple[int, ...]:
    """The three numbers of the A-ASSOCIATE-RJ."""
    with Raw(port) as peer:
        peer.send(pdu(RQ, association_request(called=called, calling=calling)))
        kind, content = peer.read()
        assert kind == RJ
        return tuple(content[1:])


def accepted(port: int, *contexts: tuple[str, list[str]], called: str = "FERRY") -> list[tuple[str, str]]:
    with associated(port, *contexts, called=called) as association:
        found = association.accepted_contexts
        return [(str(context.abstract_syntax), str(context.transfer_syntax[0])) for context in found]


def echo(port: int, called: str) -> "subprocess.CompletedProcess[str]":
    command = [program("echoscu"), "-aet", "PACS", "-aec", called, "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("called", ["FERRY", "NATIVE", "CLOSED"])
def test_each_of_our_ae_titles_answers_an_echo(ingest: Ingest, called: str) -> None:
    assert echo(ingest.port, called).returncode == 0


def test_dcmtk_is_told_that_the_called_ae_title_is_not_recognised(ingest: Ingest) -> None:
    answer = echo(ingest.port, "NOBODY")
    assert answer.returncode != 0
    assert "Called AE Title Not Recognized" in answer.stdout + answer.stderr


def test_rejections_carry_the_reason_of_the_standard(ingest: Ingest) -> None:
    assert rejection(ingest.port, b"NOBODY") == (1, 1, 7)
    assert rejection(ingest.port, b"CLOSED", calling=b"OTHER") == (1, 1, 3)


def test_an_association_too_many_is_rejected_and_the_next_after_one_has_gone_is_not(tmp_path: Path) -> None:
    echo_context = (str(Verification), [IMPLICIT_LE])
    with an_ingest(tmp_path, ingest={"max_associations": 1}) as ingest:
        with associated(ingest.port, echo_context) as first:
            assert first.is_established
            assert rejection(ingest.port, b"FERRY") == (2, 3, 2)
        wait_until(lambda: echo(ingest.port, "FERRY").returncode == 0, "the place to be free again")


@pytest.mark.parametrize("syntax", TABLE, ids=lambda syntax: syntax.keyword)
def test_every_syntax_of_the_table_is_accepted_where_all_are(ingest: Ingest, syntax: object) -> None:
    uid: str = syntax.uid  # type: ignore[attr-defined]
    assert accepted(ingest.port, (CT, [uid])) == [(CT, uid)]


def test_an_ae_accepts_only_the_syntaxes_of_its_groups(ingest: Ingest) -> None:
    assert accepted(ingest.port, (CT, [J2K]), called="NATIVE") == []
    assert accepted(ingest.port, (CT, [J2K, IMPLICIT_LE]), called="NATIVE") == [(CT, IMPLICIT_LE)]


@pytest.mark.parametrize(
    "order", [[IMPLICIT_LE, EXPLICIT_LE, J2K], [J2K, EXPLICIT_LE], [EXPLICIT_BE, IMPLICIT_LE]]
)
def test_the_requestors_first_syntax_is_chosen(ingest: Ingest, order: list[str]) -> None:
    assert accepted(ingest.port, (CT, order)) == [(CT, order[0])]


def test_each_context_of_one_sop_class_gets_its_own_first_syntax(ingest: Ingest) -> None:
    orders = [[IMPLICIT_LE, J2K], [J2K, IMPLICIT_LE], [EXPLICIT_BE]]
    contexts = [build_context(CT, order) for order in orders]
    association = AE("PACS").associate("127.0.0.1", ingest.port, contexts=contexts, ae_title="FERRY")
    chosen = [str(context.transfer_syntax[0]) for context in association.accepted_contexts]
    association.release()
    assert chosen == [IMPLICIT_LE, J2K, EXPLICIT_BE]


NO_STORAGE = {  # for all their names
    "1.2.840.10008.1.3.10": "Media Storage Directory Storage",
    "1.2.840.10008.1.20.1": "Storage Commitment Push Model SOP Class",
    "1.2.840.10008.1.20.2": "Storage Commitment Pull Model SOP Class",
}


def test_every_storage_sop_class_of_the_standard_is_accepted(ingest: Ingest) -> None:
    named = {
        uid for uid, entry in UID_dictionary.items() if "Storage" in entry[0] and entry[1] == "SOP Class"
    }
    assert {"1.2.840.10008.5.1.4.1.1.6", "1.2.840.10008.5.1.4.38.1"} < named
    classes = sorted((named | set(_STORAGE_CLASSES.values())) - NO_STORAGE.keys())
    for start in range(0, len(classes), 128):
        some = classes[start : start + 128]
        found = accepted(ingest.port, *((uid, [EXPLICIT_LE]) for uid in some))
        assert [uid for uid, _ in found] == some


def test_verification_is_accepted_in_uncompressed_syntaxes_alone(ingest: Ingest) -> None:
    assert accepted(ingest.port, (str(Verification), [J2K])) == []
    for uid in GROUPS["uncompressed"]:
        assert accepted(ingest.port, (str(Verification), [uid])) == [(str(Verification), uid)]


def test_what_is_no_storage_gets_no_context_whatever_the_ae_takes(ingest: Ingest) -> None:
    find = str(PatientRootQueryRetrieveInformationModelFind)
    for called in ("FERRY", "OPEN"):
        assert accepted(ingest.port, (find, [EXPLICIT_LE]), (CT, [EXPLICIT_LE]), called=called) == [
            (CT, EXPLICIT_LE)
        ]


def test_an_unknown_sop_class_gets_a_context_only_where_unknown_ones_are_taken(ingest: Ingest) -> None:
    assert accepted(ingest.port, (PRIVATE, [EXPLICIT_LE])) == []
    assert accepted(ingest.port, (PRIVATE, [EXPLICIT_LE]), called="OPEN") == [(PRIVATE, EXPLICIT_LE)]


def test_what_is_refused_is_named_in_the_log(ingest: Ingest, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    contexts = [(uid, [EXPLICIT_LE]) for uid in (*NO_STORAGE, PRIVATE, CT)]
    assert accepted(ingest.port, *contexts, (CT, [J2K]), called="NATIVE") == [(CT, EXPLICIT_LE)]
    (line,) = (record.getMessage() for record in caplog.records if "ContextsRefused" in record.getMessage())
    for uid, name in NO_STORAGE.items():
        assert f"{name} ({uid})" in line
    assert PRIVATE in line
    assert "ae.unknown_sop_classes" in line
    assert f"(ae.accept): CT Image Storage ({CT})" in line


def test_a_request_that_is_refused_throughout_makes_no_endless_line(
    ingest: Ingest, caplog: pytest.LogCaptureFixture
) -> None:
    accepted(ingest.port, *((f"{PRIVATE}.{number}", [EXPLICIT_LE]) for number in range(100)))
    (line,) = (record.getMessage() for record in caplog.records if "ContextsRefused" in record.getMessage())
    assert line.endswith(" and 92 more (ae.unknown_sop_classes takes unknown ones)")


def test_peers_that_say_nothing_or_stop_in_the_middle_do_not_hold_up_others(ingest: Ingest) -> None:
    silent = [socket.create_connection(("127.0.0.1", ingest.port)) for _ in range(5)]
    for index, sock in enumerate(silent):
        sock.sendall(b"\x01\x00\x00\x00\x10\x00 half of a request"[: 4 * index])
    try:
        assert send(ingest.port, [shipped("CT_small.dcm")]).returncode == 0
    finally:
        for sock in silent:
            sock.close()


def test_a_pdu_larger_than_any_allowed_ends_the_connection_before_it_is_read(ingest: Ingest) -> None:
    with socket.create_connection(("127.0.0.1", ingest.port), timeout=10) as sock:
        sock.sendall(b"\x01\x00\xff\xff\xff\xff")
        assert sock.recv(100) == b"\x07\x00\x00\x00\x00\x04\x00\x00\x00\x00"  # A-ABORT (PS3.8 AA-1)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(100) == b""


def test_a_busy_port_is_refused_with_what_to_do(tmp_path: Path, ingest: Ingest) -> None:
    with (
        pytest.raises(Misconfigured, match=rf"port {ingest.port} .*in use.*choose another"),
        an_ingest(tmp_path, ingest={"port": ingest.port}),
    ):
        pass


def test_ingests_that_share_a_port_share_its_connections(tmp_path: Path) -> None:
    shared = {"port": free_port(), "shared_port": True}
    with (
        an_ingest(tmp_path, ingest=shared) as one,
        an_ingest(tmp_path, ingest=shared) as other,
        ExitStack() as peers,
    ):
        for _ in range(40):
            peers.enter_context(socket.create_connection(("127.0.0.1", one.port)))
        taken = lambda: [len(ingest.listener.connections()) for ingest in (one, other)]  # noqa: E731
        wait_until(lambda: sum(taken()) == 40, "all to be accepted")
        assert min(taken()) > 0


def test_sigterm_ends_ingest_though_associations_stand(tmp_path: Path) -> None:
    part = IngestProcess(tmp_path)
    with associated(part.port, (str(Verification), [IMPLICIT_LE])) as association:
        assert association.is_established
        assert part.stop() == 0
    assert "Stopped" in part.log.read_text()


def test_ingest_stops_whichever_of_its_threads_is_given_the_signal(tmp_path: Path) -> None:
    part = IngestProcess(tmp_path)
    try:
        main = part.process.pid
        other = next(int(t.name) for t in Path(f"/proc/{main}/task").iterdir() if int(t.name) != main)
        assert ctypes.CDLL(None).tgkill(main, other, signal.SIGTERM) == 0
        assert part.process.wait(80) == 0
    finally:
        part.process.kill()


# Sends the signal where the main thread, if it waits for an event, holds the event's lock.
INTERRUPTS = """
import os, signal, threading
wait = threading.Condition.wait
def interrupted(condition, timeout=None):
    woken = wait(condition, timeout)
    if timeout is not None and threading.current_thread() is threading.main_thread():
        os.kill(os.getpid(), signal.SIGTERM)
    return woken
threading.Condition.wait = interrupted
"""


def test_ingest_stops_though_the_signal_interrupts_a_thread_that_holds_a_lock(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTS)
    part = IngestProcess(tmp_path, "env", f"PYTHONPATH={tmp_path}")
    try:
        assert part.stop() == 0
    finally:
        part.process.kill()


def peak_kb(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def test_a_large_object_is_received_in_bounded_memory(tmp_path: Path) -> None:
    size = 300 << 20
    large = tmp_path / "large.dcm"
    header = b"".join(
        element + len(value).to_bytes(2, "little") + value
        for element, value in (
            (b"\x08\x00\x16\x00UI", CT.encode() + b"\0" * (len(CT) % 2)),
            (b"\x08\x00\x18\x00UI", b"1.2.3\0"),
            (b"\x20\x00\x0d\x00UI", b"1.2.4\0"),
            (b"\x20\x00\x0e\x00UI", b"1.2.5\0"),
        )
    )
    with large.open("wb") as file:
        file.write(file_header(CT, "1.2.3", EXPLICIT_LE) + header)
        file.write(b"\xe0\x7f\x10\x00OW\0\0" + size.to_bytes(4, "little"))
        file.truncate(file.tell() + size)
    part = IngestProcess(tmp_path)
    try:
        assert send(part.port, [shipped("CT_small.dcm")]).returncode == 0
        before = peak_kb(part.process.pid)
        assert send(part.port, [large]).returncode == 0
        grown = peak_kb(part.process.pid) - before
    finally:
        part.stop()
    assert grown < 40_000, f"{grown} kB more than before, for an object of {size >> 10} kB"
    assert any(path.stat().st_size > size for path in tmp_path.glob("spool/instances/*/*.dcm"))


def test_success_is_sent_after_file_and_shard_are_synced(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "trace=fsync,rename,renameat2,pwrite64,sendto,openat"
    part = IngestProcess(tmp_path, program("strace"), "-f", "-y", "-s", "64", "-e", calls, "-o", str(trace))
    try:
        assert send(part.port, [shipped("CT_small.dcm")]).returncode == 0
    finally:
        stop_traced(part.process)
    steps = [
        r'pwrite64\(\d+<[^>]*/incoming/\w+/\w+>, "\{\\"schema',
        r"fsync\(\d+<[^>]*/incoming/\w+/\w+>\) += 0",
        r"rename(at2)?\(.*instances.*= 0",
        r"fsync\(\d+<[^>]*/instances/\w\w>\) += 0",
        r'sendto\(\d+<[^>]*>, "\\4\\0',  # a P-DATA-TF: the response
    ]
    made = calls_in(trace.read_text(), when_begun={"sendto"})
    for step in steps:
        assert any(re.search(step, call) for _, call in made), f"{step} is missing or comes too early"
