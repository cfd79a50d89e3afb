"""Leases: files whose lock says that a batch is running, however long it takes.

A process that is killed loses the lock and leaves the file; one that finishes its batch removes the file. So
no deadline has to be guessed, and no process runs a batch whose lease was revoked.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_LOCK_TRIES = 5  # the dispatcher locks a lease for an instant to see whether another process holds it
_DESTINATION = "to "  # prefix of the line that names the destination; no instance id begins so


@dataclass(frozen=True, slots=True)
class LeaseContent:
    """The instances of a batch and its destination."""

    instances: tuple[str, ...] = ()
    destination: str | None = None  # None: the batch sends nothing


class Leases:
    """The leases of one spool, each named by its batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, batch: str, content: LeaseContent = LeaseContent()) -> None:
        """Create the lease of a batch, before the batch is published."""
        to = () if content.destination is None else (_DESTINATION + content.destination,)
        with (self.folder / batch).open("x") as file:
            file.write("\n".join(to + content.instances))

    def read(self, batch: str) -> LeaseContent:
        """The content of a lease; empty where the lease is gone."""
        try:
            lines = (self.folder / batch).read_text().splitlines()
        except FileNotFoundError:
            return LeaseContent()
        if lines and lines[0].startswith(_DESTINATION):
            return LeaseContent(tuple(lines[1:]), lines[0].removeprefix(_DESTINATION))
        return LeaseContent(tuple(lines))

    @contextmanager
    def acquire(self, batch: str) -> Iterator[bool]:
        """Hold the lease of a batch while it runs; yields False where the batch must be dropped.

        A clean end removes the lease, which means "finished"; a killed process leaves it unlocked.
        """
        path = self.folder / batch
        descriptor = _try_lock(path)
        for _ in range(_LOCK_TRIES):
            if descriptor is not None or not path.exists():
                break
            time.sleep(0.01)
            descriptor = _try_lock(path)
        if descriptor is None:
            yield False
            return
        try:
            yield True
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def state(self, batch: str) -> str:
        """The state of a batch: "running" (locked), "idle" (not locked) or "gone" (finished or revoked)."""
        try:
            descriptor = os.open(self.folder / batch, os.O_RDWR)
        except FileNotFoundError:
            return "gone"
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "running"
        else:
            return "idle"
        finally:
            os.close(descriptor)

    def exists(self, batch: str) -> bool:
        """Whether a batch has neither finished nor been revoked."""
        return (self.folder / batch).exists()

    def revoke(self, batch: str) -> bool:
        """Remove the lease of a batch that no process runs; False where one runs it after all."""
        path = self.folder / batch
        descriptor = _try_lock(path)
        if descriptor is None:
            return not path.exists()
        path.unlink(missing_ok=True)
        os.close(descriptor)
        return True

    def batches(self) -> list[str]:
        """The batches that have a lease."""
        return os.listdir(self.folder)


def _try_lock(path: Path) -> int | None:
    """Lock a lease that exists; None where it is gone, locked, or was unlinked while we opened it."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    # flock and not lockf: a POSIX lock is shared by the threads of a process.
    if os.fstat(descriptor).st_nlink == 0:
        os.close(descriptor)
        return None
    return descriptor
