"""What stands on both sides of every contender: DCMTK's dcmsend and storescp, as Debian ships them.

TUNED is the environment that switches Nagle's algorithm off in whatever is made with DCMTK.
"""

import ctypes
import os
import select
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from machine import Environment, Failure, Programs, free_port, is_listening, tool, wait_until
from pydicom import dcmread

from dicomferry.dicom.part10 import read_meta
from dicomferry.errors import FerryError
from dicomferry.settings import Destination
from forwarder.dimse.scu import Association

TUNED: Environment = {"TCP_NODELAY": "1"}
_STALLED = 30.0  # seconds without an arrival
_LONGEST = 120.0  # seconds for a sender to end when all has arrived
_IN_CLOSE_WRITE = 0x8  # inotify(7)
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Sink:
    """A storescp, and when each of its files was complete."""

    def __init__(self, folder: Path, port: int, session: int) -> None:
        self.folder, self.port, self.session = folder, port, session
        self._descriptor = _libc.inotify_init1(os.O_CLOEXEC)
        if (
            self._descriptor < 0
            or _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _IN_CLOSE_WRITE) < 0
        ):
            raise Failure("no inotify here")

    def wait(self, count: int, sender: "Sender") -> list[float]:
        """When each of the next `count` files was closed by storescp (time.monotonic()), in order.

        Raises:
            Failure: the sender failed, or nothing has come for a while.
        """
        closed: dict[str, float] = {}
        moved = time.monotonic()
        while len(closed) < count:
            if found := self._read(1.0):
                closed |= found
                moved = time.monotonic()
                continue
            sender.check()
            if time.monotonic() - moved > _STALLED:
                raise Failure(f"{len(closed)} of {count} objects arrived, then none for {_STALLED:g} s")
        return sorted(closed.values())

    def _read(self, patience: float) -> dict[str, float]:
        if not select.select([self._descriptor], [], [], patience)[0]:
            return {}
        content, now, at, found = os.read(self._descriptor, 1 << 16), time.monotonic(), 0, {}
        while at < len(content):
            *_, length = _EVENT.unpack_from(content, at)
            at += _EVENT.size + length
            found[os.fsdecode(content[at - length : at].rstrip(b"\0"))] = now
        return found

    def files(self) -> dict[str, Path]:
        """What it holds, by SOP Instance UID."""
        return {
            str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path
            for path in self.folder.iterdir()
        }

    def clear(self) -> None:
        """Forget everything."""
        for path in self.folder.iterdir():
            path.unlink()
        while self._read(0):
            pass

    def close(self) -> None:
        """Look no longer."""
        os.close(self._descriptor)


@contextmanager
def sink(programs: Programs, folder: Path, environment: Environment, *options: str) -> Iterator[Sink]:
    """A stock storescp that takes what is uncompressed, and what `options` add, and keeps every file."""
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


class Sender:
    """Sends files as they are, from the moment that it is made."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing more is sent."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise Failure where it has failed."""
        raise NotImplementedError

    def finish(self) -> None:
        """Wait for its end, then `check`."""
        raise NotImplementedError


class Dcmsend(Sender):
    """One association of a stock dcmsend."""

    def __init__(self, port: int, paths: Sequence[Path], environment: Environment) -> None:
        command = [tool("dcmsend"), "-dn", "-aet", "PACS", "-aec", "FERRY", "127.0.0.1", str(port)]
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  closed in `finish`
        self._process = subprocess.Popen(
            [*command, *map(str, paths)],
            stdout=self._words,
            stderr=self._words,
            env=os.environ | dict(environment),
        )

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def check(self) -> None:
        if self._process.poll():
            self._words.seek(0)
            lines = self._words.read().decode(errors="replace").splitlines()
            raise Failure(f"dcmsend failed: {lines[-1] if lines else self._process.returncode}")

    def finish(self) -> None:
        try:
            self._process.wait(_LONGEST)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.check()
        self._words.close()


class OwnSender(Sender):
    """The forwarder's requestor, for what dcmsend does not know and for many associations at once."""

    def __init__(self, port: int, paths: Sequence[Path], associations: int = 1) -> None:
        self._peer = Destination(name="contender", title="FERRY", host="127.0.0.1", port=port)
        self._failure: str | None = None
        shares = [paths[n::associations] for n in range(min(associations, len(paths)))]
        self._threads = [threading.Thread(target=self._run, args=[share], daemon=True) for share in shares]
        for thread in self._threads:
            thread.start()

    def _run(self, paths: Sequence[Path]) -> None:
        try:
            metas = [read_meta(path) for path in paths]
            contexts = sorted({(meta.sop_class_uid, meta.transfer_syntax_uid) for meta in metas})
            association = Association.request(self._peer, "PACS", contexts)
            for path, meta in zip(paths, metas, strict=True):
                status = association.store(path, meta)
                if status != 0:
                    raise Failure(f"C-STORE was answered with 0x{status:04X}")  # noqa: TRY301
            association.release()
        except KeyError:
            self._failure = "the transfer syntax is not accepted"
        except (Failure, FerryError, OSError) as error:
            self._failure = str(error)

    @property
    def has_ended(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)

    def check(self) -> None:
        if self._failure is not None:
            raise Failure(self._failure)

    def finish(self) -> None:
        for thread in self._threads:
            thread.join(_LONGEST)
        self.check()
        if not self.has_ended:
            raise Failure(f"still sending after {_LONGEST:g} s")


def send(port: int, paths: Sequence[Path], environment: Environment) -> Sender:
    """Begin to send `paths`: by dcmsend, unless it does not know their transfer syntax."""
    syntax = read_meta(paths[0]).transfer_syntax_uid
    known = not syntax.startswith(_UNKNOWN_TO_DCMTK)
    return Dcmsend(port, paths, environment) if known else OwnSender(port, paths)


_UNKNOWN_TO_DCMTK = ("1.2.840.10008.1.2.4.20",)  # HTJ2K, before 3.6.9
