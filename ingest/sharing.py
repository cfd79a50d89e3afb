"""Memory and locks that the processes of one ingest share. A process may be killed at any instruction.

The memory is made before they are forked. Each writes cells of its own, which the hardware writes at once;
the kernel frees the locks of a process that ends.
"""

import errno
import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK_SECONDS = 5.0  # to wait for a lock; it is held for milliseconds, unless a process was stopped meanwhile
_LOCK_PAUSE = 0.001  # seconds between two attempts


def cells(number: int) -> memoryview:
    """So many whole numbers of 8 bytes, all 0, which processes forked from this one share."""
    return memoryview(mmap.mmap(-1, 8 * number)).cast("q")


class Rows:
    """Whole numbers of each process, which it alone writes and all may read.

    A process that ends leaves its row to the one that takes its place.
    """

    def __init__(self, processes: int, columns: int) -> None:
        self._columns = [cells(processes) for _ in range(columns)]

    def add(self, process: int, column: int, number: int) -> None:
        """Add to a cell of this process; its threads may do so at once."""
        self._columns[column][process] += number  # CPython changes threads at calls and jumps alone

    def set(self, process: int, column: int, number: int) -> None:
        """Set a cell of this process."""
        self._columns[column][process] = number

    def get(self, process: int, column: int) -> int:
        """A cell."""
        return int(self._columns[column][process])

    def total(self, column: int) -> int:
        """What the cells of all processes are together."""
        return sum(self._columns[column])

    def most(self, column: int) -> int:
        """The largest cell of all processes."""
        return max(self._columns[column])


@contextmanager
def locked(threads: threading.Lock, path: Path | None) -> Iterator[None]:
    """Exclude other threads and, by the lock of a file that has no other use, other processes.

    Raises:
        TimeoutError: another has held it for too long.
        OSError: the file cannot be opened.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    if not threads.acquire(timeout=_LOCK_SECONDS):
        raise _timeout()
    try:
        if path is None:
            yield
            return
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            while not _is_locked(descriptor):
                if time.monotonic() > deadline:
                    raise _timeout()
                time.sleep(_LOCK_PAUSE)
            yield
        finally:
            os.close(descriptor)
    finally:
        threads.release()


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _timeout() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, "another process of ingest is stopped, or the machine is very busy")
