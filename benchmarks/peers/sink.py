"""The receiving end of every contender: DCMTK's storescp, as Debian ships it, watched by inotify(7)."""

import ctypes
import os
import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import dcmread

from benchmarks.machine.programs import (
    Environment,
    Failure,
    Programs,
    free_port,
    is_listening,
    tool,
    wait_until,
)
from benchmarks.peers.sender import Sender

_STALLED = 30.0  # seconds without an arrival
_IN_CLOSE_WRITE = 0x8  # inotify(7)
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Sink:
    """A running storescp, and the times at which its files were complete."""

    def __init__(self, folder: Path, port: int, session: int) -> None:
        self.folder, self.port, self.session = folder, port, session
        self._descriptor = _libc.inotify_init1(os.O_CLOEXEC)
        if (
            self._descriptor < 0
            or _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _IN_CLOSE_WRITE) < 0
        ):
            raise Failure("no inotify here")

    def wait(self, count: int, sender: "Sender") -> list[float]:
        """The times (time.monotonic()) at which storescp closed each of the next `count` files, in order.

        Raises:
            Failure: the sender failed, or no file has arrived for 30 s.
        """
        closed: dict[str, float] = {}
        last_arrival = time.monotonic()
        while len(closed) < count:
            if found := self._closed_files(1.0):
                closed |= found
                last_arrival = time.monotonic()
                continue
            sender.check()
            if time.monotonic() - last_arrival > _STALLED:
                raise Failure(f"{len(closed)} of {count} objects arrived, then none for {_STALLED:g} s")
        return sorted(closed.values())

    def _closed_files(self, timeout: float) -> dict[str, float]:
        if not select.select([self._descriptor], [], [], timeout)[0]:
            return {}
        content, now, at, found = os.read(self._descriptor, 1 << 16), time.monotonic(), 0, {}
        while at < len(content):
            *_, length = _EVENT.unpack_from(content, at)
            at += _EVENT.size + length
            found[os.fsdecode(content[at - length : at].rstrip(b"\0"))] = now
        return found

    def files(self) -> dict[str, Path]:
        """The received files by SOP Instance UID."""
        return {
            str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path
            for path in self.folder.iterdir()
        }

    def clear(self) -> None:
        """Delete the received files, and discard events not yet read."""
        for path in self.folder.iterdir():
            path.unlink()
        while self._closed_files(0):
            pass

    def close(self) -> None:
        """Stop watching the folder."""
        os.close(self._descriptor)


@contextmanager
def sink(programs: Programs, folder: Path, environment: Environment, *options: str) -> Iterator[Sink]:
    """A stock storescp that accepts uncompressed objects and what `options` add, and keeps every file."""
    received = folder / "received"
    received.mkdir(parents=True)
    port = free_port()
    command = [tool("storescp"), "-aet", "SINK", "-od", str(received), "+uf", *options, str(port)]
    with programs.running(command, folder / "storescp.log", environment) as program:
        wait_until(lambda: is_listening(port), "storescp to listen")
        found = Sink(received, port, program.pid)
        try:
            yield found
        finally:
            found.close()
