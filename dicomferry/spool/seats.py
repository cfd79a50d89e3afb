"""Who uses the cores of a host: a batch that runs codecs has a seat, and a helper may borrow a free one.

Each seat is two files whose locks say who sits there: a batch, a helper, or both until the helper notices. A
batch never waits for a seat. A lock ends with its process, so a killed one leaves no seat taken. Hosts may
share a spool, and containers of one host do: seats are named by the boot of their host.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_HELPER = ".helper"


@dataclass(frozen=True, slots=True)
class Loan:
    """A seat that a helper has: its lock is that of `descriptor`, and passes to whoever inherits that."""

    descriptor: int
    _batch: Path

    def wanted(self) -> bool:
        """Whether a batch has come to this seat, so that its helper must leave."""
        descriptor = _try_lock(self._batch)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is None


@dataclass(frozen=True, slots=True)
class Seats:
    """The first `count` seats of this host; processes that see fewer of them share these with the others."""

    folder: Path
    count: int
    host: str = ""

    @contextmanager
    def seated(self) -> Iterator[None]:
        """Sit while a batch runs. Where every seat has a batch, and where nothing can be locked, stand."""
        descriptor = self._sit()
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def borrow(self) -> Loan | None:
        """Take a free seat for a helper without waiting: the last, since batches begin with the first."""
        for number in reversed(range(self.count)):
            batch = self._path(number)
            descriptor = _try_lock(batch)
            if descriptor is None:
                continue
            helper = _try_lock(batch.with_suffix(_HELPER))
            os.close(descriptor)
            if helper is not None:
                return Loan(helper, batch)
        return None

    def _sit(self) -> int | None:
        """Lock a seat, if possible one without a helper."""
        shared = None
        for number in range(self.count):
            descriptor = _try_lock(self._path(number))
            if descriptor is None:
                continue
            helper = _try_lock(self._path(number).with_suffix(_HELPER))
            if helper is not None:
                os.close(helper)
                if shared is not None:
                    os.close(shared)
                return descriptor
            if shared is None:
                shared = descriptor
            else:
                os.close(descriptor)
        return shared

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.host}-{number}"


def sweep(folder: Path) -> None:
    """Remove the files of seats that nobody has; they are made again."""
    for path in folder.iterdir():
        descriptor = _try_lock(path)
        if descriptor is not None:
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """Lock a file, made if it is missing; None where another has the lock, or nothing can be locked."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # swept meanwhile
