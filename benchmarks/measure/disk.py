"""What the spool's disk carries, and how many syncs an object needs."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

from dicomferry.dicom.part10 import file_header
from dicomferry.spool import durable, records
from dicomferry.spool.departures import Departure
from dicomferry.spool.instance import Instance, instance_id
from dicomferry.spool.spool import Spool

_ROUNDS = 5  # the slowest counts: others write to the same hardware
_SECONDS = 1.0  # of syncing
_AT_ONCE = 16  # threads that sync
_WRITTEN, _PIECE = 1 << 28, 1 << 23  # bytes


def disk_bytes_a_second(folder: Path) -> float:
    """Bytes a second of one large file until it is synced."""
    piece, path = os.urandom(_PIECE), folder / "large"
    began = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for _ in range(_WRITTEN // _PIECE):
            file.write(piece)
        os.fsync(file.fileno())
    seconds = time.monotonic() - began
    path.unlink()
    return _WRITTEN / seconds


def syncs_a_second(folder: Path) -> float:
    """Syncs a second of 16 threads, each of which replaces a small file durably again and again."""
    ends, done = time.monotonic() + _SECONDS, [0] * _AT_ONCE

    def replace(number: int) -> None:
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        while time.monotonic() < ends:
            durable.replace(place / "small", bytes(300))
            done[number] += 1

    threads = [threading.Thread(target=replace, args=[number]) for number in range(_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) * _syncs_of(lambda: durable.replace(folder / "small", b"")) / _SECONDS


def syncs_an_object(folder: Path) -> int:
    """Syncs of one object, from its reception to the mark of its delivery."""
    spool = Spool(folder / "spool")
    spool.prepare()
    staged = spool.incoming / "one"
    head = file_header("1.2", "1.2", "1.2", records.RECEIVED_ROOM)
    staged.write_bytes(head)
    fields = dict.fromkeys(Instance.__dataclass_fields__, "")
    one = Instance(**fields | {"id": instance_id("1.2", "", ("ws",)), "destinations": ("ws",)})  # type: ignore[arg-type]

    def pass_through() -> None:
        spool.commit(staged, one, len(head) - len(records.RECEIVED_ROOM))
        spool.depart(Departure(one.id, "ws", 0, None, 0.0))

    return _syncs_of(pass_through)


def slowest(measure: Callable[[Path], float], folder: Path) -> float:
    """The least of several measurements."""
    return min(measure(folder) for _ in range(_ROUNDS))


def _syncs_of(action: Callable[[], object]) -> int:
    with patch.object(os, "fsync", wraps=os.fsync) as sync:
        action()
    return sync.call_count
