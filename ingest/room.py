"""Whether there is room for another object: on the spool's disk, and in the quarantine."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dicomferry.settings import Ingest
from dicomferry.spool import durable
from dicomferry.spool.spool import Spool
from dicomferry.spool.tally import Tally
from ingest.sharing import Rows, locked

# Inodes, and blocks beyond its content:
_PER_INSTANCE = 2  # as it is committed: its file, and the folder of markers if it will have several
_PER_DELIVERY = 2  # kept for each that is pending: a marker, and perhaps the folder
_LEAST_INODES = 1000
# What each process of ingest has counted: what it took, and how often it found that there is too little. Then
# its note of the dispatcher's count of pending deliveries: that, all that had come when it was seen and when
# the one before was, and its time in microseconds.
_BYTES, _INSTANCES, _DELIVERIES, _SHORTAGES, _PENDING, _SEEN, _SEEN_BEFORE, _TOLD_AT = range(8)


class Counts(Rows):
    """What the processes of one ingest take of the spool."""

    def __init__(self, processes: int = 1) -> None:
        super().__init__(processes, 8)


class FreeSpace:
    """What is free on the spool: asked of the file system once a second, less what we take in between.

    "We" are all processes of this ingest: each counts what it takes, and looks at all `counts`. What is left
    below the marks is for those who work on what is here already: markers, leases, renditions, orders and
    history. What each pending delivery may need for its marker is kept for it besides.
    """

    def __init__(self, spool: Spool, ingest: Ingest, counts: Counts | None = None, process: int = 0) -> None:
        self._spool = spool
        self._minimum = ingest.min_free_mb * durable.MB
        self._least_inodes = ingest.min_free_inodes
        self._counts, self._process = counts or Counts(), process
        self._measured_at = float("-inf")
        self._free = durable.FreeRoom(0, None, 0)
        self._bytes = self._instances = 0  # that had been taken when it was measured
        self._shortages = 0  # that any of us had found then
        self._is_short = False

    def shortage(self, size: int = 0, deliveries: int = 0) -> str | None:
        """Count `size` bytes as taken, or an instance with so many; why the spool takes no more, or None."""
        counts, process = self._counts, self._process
        if size:
            counts.add(process, _BYTES, size)
        if deliveries:
            counts.add(process, _INSTANCES, 1)
            counts.add(process, _DELIVERIES, deliveries)
        now, shortages = time.monotonic(), counts.total(_SHORTAGES)
        if now - self._measured_at < 1.0 and shortages == self._shortages and self._lacks() is None:
            return None
        taken = counts.total(_BYTES), counts.total(_INSTANCES)
        try:
            self._free = durable.free_room(self._spool.incoming)
            self._note_pending()
        except OSError as error:
            return reason_of(error)
        self._bytes, self._instances = taken
        self._measured_at = now
        lacks = self._lacks()
        if lacks is not None and not self._is_short:
            counts.add(process, _SHORTAGES, 1)  # so that the others look at once
            shortages += 1
        self._is_short, self._shortages = lacks is not None, shortages
        return lacks

    def _note_pending(self) -> None:
        """Note the dispatcher's count of pending deliveries, if it is a new one.

        The process that takes the place of this one goes on with the note.
        """
        status, counts, process = self._spool.status(), self._counts, self._process
        told_at = 0 if status is None else int(1e6 * status["at"])
        if status is not None and told_at != counts.get(process, _TOLD_AT):
            counts.set(process, _TOLD_AT, told_at)
            # In this order: whoever is killed between two leaves a number that is too large, not too small.
            counts.set(process, _PENDING, sum(lane["pending"] for lane in status["lanes"]))
            counts.set(process, _SEEN_BEFORE, counts.get(process, _SEEN))
            counts.set(process, _SEEN, counts.total(_DELIVERIES))

    def _markers(self) -> int:
        """To be written for pending deliveries; while no dispatcher tells, our count goes on.

        What came since its count before the last may not be in it yet.
        """
        counts, process = self._counts, self._process
        since = counts.total(_DELIVERIES) - counts.get(process, _SEEN_BEFORE)
        return counts.get(process, _PENDING) + since

    def _lacks(self) -> str | None:
        free, markers = self._free, self._markers()
        instances = self._counts.total(_INSTANCES) - self._instances
        taken = self._counts.total(_BYTES) - self._bytes + _PER_INSTANCE * free.block * instances
        left = free.bytes - taken
        wanted = max(self._minimum, durable.working_bytes(free.all_bytes))
        wanted += _PER_DELIVERY * markers * free.block
        if left < wanted:
            left, wanted = left // durable.MB, -(-wanted // durable.MB)
            return f"spool has {left} MB left, wants {wanted} (ingest.min_free_mb)"
        if free.inodes is None:
            return None
        least = self._least_inodes
        if least is None:
            least = min(_LEAST_INODES, free.all_inodes // 4)
        least += _PER_DELIVERY * markers
        inodes = free.inodes - _PER_INSTANCE * instances
        if inodes < least:
            return f"spool has {inodes} inodes left, wants {least} (ingest.min_free_inodes)"
        return None


class QuarantineRoom:
    """The bounds of the quarantine: of a sender whose every object is damaged, it keeps only so many."""

    def __init__(self, spool: Spool, ingest: Ingest) -> None:
        self._tally = Tally(spool.quarantine)
        self._most, self._most_mb = ingest.quarantine_max_count, ingest.quarantine_max_mb
        self._lock_file = spool.root / "quarantine.lock"
        self._threads = threading.Lock()

    @contextmanager
    def held_for(self, size: int) -> Iterator[str | None]:
        """The key of the bound that an object of `size` bytes would exceed, or None.

        Within the block no other thread gets room, nor another ingest of the spool: so the bounds hold to the
        object.

        Raises:
            OSError: the spool cannot be written, or another has held it for too long.
        """
        with locked(self._threads, self._lock_file):
            number, held = self._tally.count()
            if number >= self._most:
                yield "quarantine_max_count"
            elif held + size > self._most_mb * durable.MB:
                yield "quarantine_max_mb"
            else:
                yield None


def reason_of(error: OSError) -> str:
    """Why the spool cannot be written, for the answer to a sender."""
    return f"spool: {error.strerror or error}"
