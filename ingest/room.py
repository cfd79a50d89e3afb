"""Whether there is room for another object: on the spool's disk, and in the quarantine."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dicomferry.settings import Ingest
from dicomferry.spool.spool import Spool
from dicomferry.spool.tally import Tally

_MB = 1_000_000


class FreeSpace:
    """The spool's free space: `statvfs` once a second, less what we write in between."""

    def __init__(self, spool: Spool, min_free_mb: int) -> None:
        self._folder = spool.incoming
        self._minimum = min_free_mb * _MB
        self._measured_at = float("-inf")
        self._free = 0

    def shortage(self, size: int = 0) -> str | None:
        """Count `size` bytes as written; why the spool takes no more, or None."""
        now = time.monotonic()
        self._free -= size
        if now - self._measured_at >= 1.0 or self._free < self._minimum:
            try:
                found = os.statvfs(self._folder)
            except OSError as error:
                return reason_of(error)
            self._free, self._measured_at = found.f_bavail * found.f_frsize, now
        if self._free < self._minimum:
            return f"spool has {self._free // _MB} MB left, wants {self._minimum // _MB}"
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
            elif held + size > self._most_mb * _MB:
                yield "quarantine_max_mb"
            else:
                yield None


def reason_of(error: OSError) -> str:
    """Why the spool cannot be written, for the answer to a sender."""
    return f"spool: {error.strerror or error}"
