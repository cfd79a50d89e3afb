"""Destinations on loopback besides storescp (see `dcmtk`): pynetdicom's, Orthanc, and ill-behaved ones."""

import json
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.pdu import A_RELEASE_RQ
from pynetdicom.sop_class import Verification

from dicomferry.dicom.syntaxes import GROUPS
from tests.support.peers.raw import ABORT, RELEASE_RQ, pdu
from tests.support.running.ports import free_port, is_listening
from tests.support.running.processes import wait_until
from tests.support.running.services import program


@dataclass
class Seen:
    """What a `pynetdicom_scp` met."""

    port: int = 0
    datasets: list[tuple[str, str, bytes]] = field(default_factory=list)  # UID, transfer syntax, bytes
    callers: list[str] = field(default_factory=list)  # calling AE title of each association requested
    proposed: list[int] = field(default_factory=list)  # number of contexts in each
    pdus: list[tuple[int, int]] = field(default_factory=list)  # of P-DATA-TF: its length, its fragment's
    most_at_once: int = 0
    now: int = 0
    released: int = 0
    aborted: int = 0


@contextmanager
def pynetdicom_scp(
    syntaxes: Sequence[str] = GROUPS["uncompressed"],
    answer: Callable[[Any], int] = lambda _: 0x0000,
    requested: Callable[[Any], None] = lambda _: None,
    *,
    maximum_pdu: int = 16382,
    sop_classes: Sequence[str] | None = None,
    port: int = 0,
    **attributes: Any,
) -> Iterator[Seen]:
    """An SCP that answers as told; `attributes` are set on its AE (`require_called_aet` and the like)."""
    seen = Seen()

    def on_request(event: Any) -> None:
        seen.callers.append(event.assoc.requestor.primitive.calling_ae_title.strip())
        seen.proposed.append(len(event.assoc.requestor.requested_contexts))
        requested(event)

    def on_established(_: Any) -> None:
        seen.now += 1
        seen.most_at_once = max(seen.most_at_once, seen.now)

    def on_released(_: Any) -> None:
        seen.released += 1  # after the answer was sent: by then the next may stand

    def on_aborted(_: Any) -> None:
        seen.now -= 1
        seen.aborted += 1

    def on_pdu(event: Any) -> None:
        if isinstance(event.pdu, A_RELEASE_RQ):
            seen.now -= 1
        for item in getattr(event.pdu, "presentation_data_value_items", ()):
            seen.pdus.append((event.pdu.pdu_length, len(item.presentation_data_value) - 1))

    def on_store(event: Any) -> int:
        status = answer(event)
        encoded = event.encoded_dataset(include_meta=False)
        seen.datasets.append((event.request.AffectedSOPInstanceUID, event.context.transfer_syntax, encoded))
        return status

    ae = AE(ae_title="WS")
    for uid in sop_classes or [context.abstract_syntax for context in AllStoragePresentationContexts]:
        ae.add_supported_context(uid, list(syntaxes))
    ae.add_supported_context(Verification)
    ae.maximum_pdu_size = maximum_pdu
    for name, value in attributes.items():
        setattr(ae, name, value)
    listeners = [
        (evt.EVT_REQUESTED, on_request), (evt.EVT_ESTABLISHED, on_established),
        (evt.EVT_RELEASED, on_released), (evt.EVT_ABORTED, on_aborted), (evt.EVT_C_STORE, on_store),
        (evt.EVT_PDU_RECV, on_pdu),
    ]  # fmt: skip
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=listeners)
    seen.port = server.socket.getsockname()[1]
    try:
        yield seen
    finally:
        # Where one of its threads is in a handler, shutdown would not wait until the A-ABORT has left.
        for association in ae.active_associations:
            association._abort_blocking()
        ae.shutdown()


@contextmanager
def raw_peer(talk: Callable[[socket.socket], object]) -> Iterator[int]:
    """A listener whose connections `talk` serves, each in a thread; one closes when its `talk` returns."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                talk(connection)
            except OSError:
                return

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=serve, args=[connection], daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        ended.set()
        # shutdown wakes accept(), which close alone does not.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            connection.close()


@contextmanager
def black_hole() -> Iterator[int]:
    """Accepts connections and never answers."""
    with raw_peer(lambda _: time.sleep(60)) as port:
        yield port


@contextmanager
def unreachable() -> Iterator[int]:
    """Does not even answer who connects, as a host that is off: the queue of a listener is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # One has a place there (listen(2)); the second waits, like all that come after it.
        for _ in range(2):
            filling = stack.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(listener.getsockname())
        yield int(listener.getsockname()[1])


@contextmanager
def relay(target: int, spoil: Callable[[socket.socket, socket.socket], object]) -> Iterator[int]:
    """Gives `spoil` both ends: the requestor's connection and one to `target`."""

    def talk(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", target)) as onward:
            spoil(connection, onward)

    with raw_peer(talk) as port:
        yield port


def ends_after(most: int, way: str) -> Callable[[socket.socket, socket.socket], None]:
    """For `relay`: ends an association when `most` objects of it are answered, or is muddled from then on."""

    def carry(requestor: socket.socket, acceptor: socket.socket) -> None:
        _carry_pdu(requestor, acceptor)
        _carry_pdu(acceptor, requestor)
        for _ in range(most):
            while acceptor not in select.select([requestor, acceptor], [], [])[0]:
                if not (content := requestor.recv(1 << 20)):
                    return
                acceptor.sendall(content)
            answer = _carry_pdu(acceptor, requestor)
        if way in {"repeats", "babbles"}:
            requestor.settimeout(60)
            if requestor.recv(1):
                requestor.sendall(answer if way == "repeats" else pdu(0x55, b"what?"))
            while requestor.recv(1 << 20):
                pass
        elif way == "aborts":
            requestor.sendall(pdu(ABORT, bytes(4)))
        elif way == "releases":
            requestor.sendall(pdu(RELEASE_RQ, bytes(4)))
            requestor.settimeout(60)
            requestor.recv(1 << 20)

    return carry


def _carry_pdu(source: socket.socket, target: socket.socket) -> bytes:
    header = source.recv(6, socket.MSG_WAITALL)
    if len(header) < 6:
        raise OSError
    carried = header + source.recv(struct.unpack(">2xI", header)[0], socket.MSG_WAITALL)
    target.sendall(carried)
    return carried


@contextmanager
def orthanc(folder: Path, title: str = "ORTHANC") -> Iterator[tuple[int, int]]:
    """Debian's Orthanc; its DICOM port and its HTTP port."""
    folder.mkdir(exist_ok=True)
    dicom, http = free_port(), free_port()
    configuration = {
        "Name": "test", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
        "DicomAet": title, "DicomPort": dicom, "HttpPort": http, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "DicomCheckCalledAet": True, "Plugins": [],
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    log = (folder / "log").open("wb")
    peer = subprocess.Popen([program("Orthanc"), str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        wait_until(lambda: is_listening(dicom) and is_listening(http), "Orthanc to listen", seconds=30)
        yield dicom, http
    finally:
        peer.kill()
        peer.wait()
        log.close()
