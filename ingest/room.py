"""Whether there is room for another object: on the spool's disk, and in the quarantine."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dicomferry.settings import Ingest
from dicomferry.spool import durable
from dicomferry.spool.spool import Spool
from dicomferry.spool.tally import Tally

# Inodes, and blocks beyond its content:
_PER_INSTANCE = 2  # as it is committed: its file, and the folder of markers if it will have several
_PER_DELIVERY = 2  # kept for each that is pending: a marker, and perhaps the folder
_LEAST_INODES = 1000


class FreeSpace:
    """What is free on the spool: asked of the file system once a second, less what we take in between.

    What is left below the marks is for those who work on what is here already: markers, leases, renditions,
    orders and history. What each pending delivery may need for its marker is kept for it besides.
    """

    def __init__(self, spool: Spool, ingest: Ingest) -> None:
        self._spool = spool
        self._minimum = ingest.min_free_mb * durable.MB
        self._least_inodes = ingest.min_free_inodes
        self._measured_at = float("-inf")
        self._free = durable.FreeRoom(0, None, 0)
        self._markers = 0  # to be written for pending deliveries
        self._untold = 0  # of these, what came since it last told
        self._told_at = 0.0  # when the dispatcher last told how many are pending

    def shortage(self, size: int = 0, deliveries: int = 0) -> str | None:
        """Count `size` bytes as taken, or an instance with so many; why the spool takes no more, or None."""
        now, free = time.monotonic(), self._free
        inodes = None if free.inodes is None else free.inodes - (_PER_INSTANCE if deliveries else 0)
        if deliveries:
            size += _PER_INSTANCE * free.block
        self._free = free._replace(bytes=free.bytes - size, inodes=inodes)
        self._markers += deliveries
        self._untold += deliveries
        if now - self._measured_at >= 1.0 or self._lacks() is not None:
            try:
                self._free = durable.free_room(self._spool.incoming)
                self._count_markers()
            except OSError as error:
                return reason_of(error)
            self._measured_at = now
        return self._lacks()

    def _count_markers(self) -> None:
        """Take the dispatcher's count of pending deliveries; while none runs, ours goes on.

        What came since its count before the last may not be in it yet.
        """
        status = self._spool.status()
        if status is not None and status["at"] != self._told_at:
            self._told_at = status["at"]
            self._markers = sum(lane["pending"] for lane in status["lanes"]) + self._untold
            self._untold = 0

    def _lacks(self) -> str | None:
        free = self._free
        wanted = max(self._minimum, durable.working_bytes(free.all_bytes))
        wanted += _PER_DELIVERY * self._markers * free.block
        if free.bytes < wanted:
            left, wanted = free.bytes // durable.MB, -(-wanted // durable.MB)
            return f"spool has {left} MB left, wants {wanted} (ingest.min_free_mb)"
        least = self._least_inodes
        if least is None:
            least = min(_LEAST_INODES, free.all_inodes // 4)
        least += _PER_DELIVERY * self._markers
        if free.inodes is not None and free.inodes < least:
            return f"spool has {free.inodes} inodes left, wants {least} (ingest.min_free_inodes)"
        return None


class QuarantineRoom:
    """The bounds of the quarantine: of a sender whose every object is damaged, it keeps only so many."""

    def __init__(self, spool: Spool, ingest: Ingest) -> None:
        self._tally = Tally(spool.quarantine)
        self._most, self._most_mb = ingest.quarantine_max_count, ingest.quarantine_max_mb
        self._lock = threading.Lock()

    @contextmanager
    def held_for(self, size: int) -> Iterator[str | None]:
        """The key of the bound that an object of `size` bytes would exceed, or None.

        Within the block no other thread gets room, so that the bounds hold to the object.
        """
        with self._lock:
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
