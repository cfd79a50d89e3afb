"""A small workstation for the demo: an SCP that accepts only uncompressed images and stores them."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicomferry.dicom.syntaxes import EXPLICIT_LE, IMPLICIT_LE

TITLE = "WORKSTATION"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One object as it arrived."""

    path: Path
    syntax: str  # UID of the transfer syntax
    at: float  # time.monotonic()


class Workstation:
    """What the workstation has received; the threads of its associations add to it."""

    def __init__(self, folder: Path) -> None:
        self.port = 0
        self._folder = folder
        self._lock = threading.Lock()
        self._arrivals: dict[str, Arrival] = {}
        self._count = 0

    def arrivals(self) -> dict[str, Arrival]:
        """All arrivals until now, by SOP Instance UID; the first where an instance arrived twice."""
        with self._lock:
            return dict(self._arrivals)

    def keep(self, event: evt.Event) -> int:
        """Store the object of a C-STORE (PS3.7 9.1.1); returns the status."""
        with self._lock:
            self._count += 1
            # Not named by its UID, which comes from the network.
            path = self._folder / f"{self._count:06}.dcm"
        path.write_bytes(event.encoded_dataset())
        arrival = Arrival(path, str(event.context.transfer_syntax), time.monotonic())
        uid = str(getattr(event.request, "AffectedSOPInstanceUID", ""))
        with self._lock:
            self._arrivals.setdefault(uid, arrival)
        return 0x0000


@contextmanager
def listening(folder: Path) -> Iterator[Workstation]:
    """Run a workstation on a free port of loopback; it stores what it receives in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    workstation = Workstation(folder)
    entity = AE(TITLE)
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax), [EXPLICIT_LE, IMPLICIT_LE])
    entity.add_supported_context(Verification)
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, workstation.keep)]
    )
    assert server is not None  # noqa: S101  it does not block
    try:
        workstation.port = int(server.server_address[1])
        yield workstation
    finally:
        server.shutdown()
