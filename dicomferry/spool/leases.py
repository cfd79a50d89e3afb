"""Leases: files whose lock says that a batch is running, however long it takes.

Whoever is killed loses the lock and leaves the file; whoever ends a batch removes it. So nobody guesses
deadlines, and nobody runs a batch that was taken back.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_GLANCES = 5  # the dispatcher locks a lease for an instant when it looks whether somebody else does
_TO = "to "  # what no instance begins with


@dataclass(frozen=True, slots=True)
class Claim:
    """What a batch is about."""

    instances: tuple[str, ...] = ()
    destination: str | None = None  # to which it sends them


class Leases:
    """The leases of one spool, each named by its batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, batch: str, claim: Claim = Claim()) -> None:
        """Make the lease of a batch, before it is published; it says what the batch is about."""
        to = () if claim.destination is None else (_TO + claim.destination,)
        with (self.folder / batch).open("x") as file:
            file.write("\n".join(to + claim.instances))

    def claim(self, batch: str) -> Claim:
        """What a batch is about; nothing where its lease is gone."""
        try:
            lines = (self.folder / batch).read_text().splitlines()
        except FileNotFoundError:
            return Claim()
        if lines and lines[0].startswith(_TO):
            return Claim(tuple(lines[1:]), lines[0].removeprefix(_TO))
        return Claim(tuple(lines))

    @contextmanager
    def hold(self, batch: str) -> Iterator[bool]:
        """Hold the lease of a batch while it runs; yields False where the batch must be dropped.

        On a clean end the lease is removed, which says "finished"; a killed process leaves it unlocked.
        """
        path = self.folder / batch
        descriptor = _lock_linked(path)
        for _ in range(_GLANCES):
            if descriptor is not None or not path.exists():
                break
            time.sleep(0.01)
            descriptor = _lock_linked(path)
        if descriptor is None:
            yield False
            return
        try:
            yield True
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def state(self, batch: str) -> str:
        """Tell who has a batch: "running" (locked), "idle" (nobody) or "gone" (finished or taken back)."""
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

    def stands(self, batch: str) -> bool:
        """Whether a batch has neither ended nor been taken back."""
        return (self.folder / batch).exists()

    def take_back(self, batch: str) -> bool:
        """Cancel a batch that nobody runs; False where somebody does after all."""
        path = self.folder / batch
        descriptor = _lock_linked(path)
        if descriptor is None:
            return not path.exists()
        path.unlink(missing_ok=True)
        os.close(descriptor)
        return True

    def batches(self) -> list[str]:
        """The batches that have a lease."""
        return os.listdir(self.folder)


def _lock_linked(path: Path) -> int | None:
    """Lock a lease without making it; None where it is gone, held, or unlinked while we waited for it."""
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
