"""The places of associations, in a table that the processes of one ingest share.

Whoever takes a place locks the table. Otherwise each process writes the cells of its own places alone. What
is killed leaves no trace that counts: a place belongs to a life of a process, and its parent ends that life.
"""

import itertools
import os
import threading
import time
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path

from ingest.admission import Standing
from ingest.sharing import cells, locked

_HOST_BYTES = 64  # of the address in a place; IPv6 takes 45
_NOT_SILENT = (1 << 63) - 1  # since then, while a message is in progress
_LIFE_BITS = 32  # a serial is the number of its life, then its own within it


class Places:
    """`most` places for the associations of `processes`; this is the first, unless `enter` says otherwise."""

    def __init__(self, most: int, processes: int = 1) -> None:
        self.processes = processes
        self.process = 0  # which of them this one is
        self._life = self._births = self._count = 0
        # Of each process: the number of its life, 0 where it has ended, and of its connections.
        self._lives, self._connections = cells(processes), cells(processes)
        # Of each place: the serials of who took it last and who left it last, since when it is silent (the
        # monotonic clock, which processes share), whether the configuration names its caller, whose address.
        self._taken, self._left, self._silent_since, self._named = (cells(most) for _ in range(4))
        self._hosts = cells(most * _HOST_BYTES // 8).cast("B")
        self._threads = threading.Lock()
        # Each lock opens it anew: what is inherited would share its lock (flock(2)).
        self._lock_file = Path(f"/proc/self/fd/{os.memfd_create('places')}") if processes > 1 else None
        self.enter(0)

    def enter(self, process: int) -> None:
        """Begin a life of `process`: of this one, or of the child to be forked next."""
        self._births += 1
        self.process, self._life = process, self._births
        self._connections[process] = 0
        self._lives[process] = self._life

    def bury(self, process: int) -> None:
        """Free the places of a process that has ended."""
        self._lives[process] = 0

    def lock(self) -> AbstractContextManager[None]:
        """Exclude all others that want a place.

        Raises:
            TimeoutError: another has held it for too long.
        """
        return locked(self._threads, self._lock_file)

    def standing(self) -> dict[int, Standing]:
        """The places that are taken, by number."""
        lives, now = set(self._lives) - {0}, time.monotonic_ns()
        return {
            number: Standing(
                bytes(self._host(number)).rstrip(b"\0").decode(),
                bool(self._named[number]),
                max(0, now - self._silent_since[number]) / 1e9,
            )
            for number, (taken, left) in enumerate(
                zip(self._taken.tolist(), self._left.tolist(), strict=True)
            )
            if taken != left and taken >> _LIFE_BITS in lives
        }

    def take(self, held: Standing, ended: Collection[int], standing: Collection[int]) -> "Place":
        """Take a place for an association, while they are locked; those at the `ended` places lose theirs."""
        for number in ended:
            self._taken[number] = 0
        number = next(n for n in itertools.count() if n in ended or n not in standing)
        self._count += 1
        serial = self._life << _LIFE_BITS | self._count
        self._taken[number] = 0  # nobody's until all of it is written
        self._host(number)[:] = held.host.encode()[:_HOST_BYTES].ljust(_HOST_BYTES, b"\0")
        self._named[number], self._silent_since[number] = held.named, _NOT_SILENT
        self._taken[number] = serial
        return Place(number, serial, self._taken, self._left, self._silent_since)

    def count_connections(self, number: int) -> None:
        """Say how many connections this process has."""
        self._connections[self.process] = number

    def is_ahead(self) -> bool:
        """Whether this process has more connections than another one."""
        if self.processes == 1:
            return False
        living = zip(self._connections, self._lives, strict=True)
        return bool(self._connections[self.process] > min(number for number, life in living if life))

    def _host(self, number: int) -> memoryview:
        return self._hosts[number * _HOST_BYTES :][:_HOST_BYTES]


class Place:
    """A place that was taken; only its own process uses this."""

    def __init__(
        self, number: int, serial: int, taken: memoryview, left: memoryview, silent_since: memoryview
    ) -> None:
        self._number, self._serial = number, serial
        self._taken, self._left, self._silent_since = taken, left, silent_since

    @property
    def is_lost(self) -> bool:
        """Whether another has taken it."""
        return bool(self._taken[self._number] != self._serial)

    def begin_message(self) -> None:
        """It is not silent from now on."""
        self._silent_since[self._number] = _NOT_SILENT

    def end_message(self) -> None:
        """It is silent from now on."""
        self._silent_since[self._number] = time.monotonic_ns()

    def leave(self) -> None:
        """Give it back, unless another has taken it."""
        if not self.is_lost:
            self._left[self._number] = self._serial
