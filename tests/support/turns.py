"""Who may run while whom: tests in several processes, of which some must have the machine to themselves."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any


class Turns:
    """A lock that is shared or exclusive, among all processes that name the same `run`; none without one.

    Who wants it exclusively holds the entrance meanwhile, so that others cannot keep it waiting for ever.
    Locks of lockf(3) belong to a process: what a test forks does not hold them.
    """

    def __init__(self, run: str | None) -> None:
        self._name = Path(tempfile.gettempdir()) / f"dicomferry-tests-{run}" if run else None

    def together(self) -> Any:
        """Run beside others."""
        return self._held(fcntl.LOCK_SH) if self._name else nullcontext()

    def alone(self) -> Any:
        """Run while nobody else does."""
        return self._held(fcntl.LOCK_EX) if self._name else nullcontext()

    @contextmanager
    def _held(self, how: int) -> Iterator[None]:
        with _locked(f"{self._name}.entrance", how):
            room = _open(f"{self._name}.room")
            fcntl.lockf(room, how)
        try:
            yield
        finally:
            os.close(room)


@contextmanager
def _locked(path: str, how: int) -> Iterator[None]:
    descriptor = _open(path)
    try:
        fcntl.lockf(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
