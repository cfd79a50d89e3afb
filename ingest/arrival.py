"""Writes a data set that arrives to a file of the spool, in bounded memory.

The peer gets no answer before its last byte. So writing never raises: on a failure `Arrival` keeps the reason
for the answer and drops the rest of the object.
"""

import time
from contextlib import suppress
from typing import BinaryIO

from dicomferry.dicom.part10 import file_header
from dicomferry.spool import durable, records
from dicomferry.spool.digests import Digest
from ingest.room import FreeSpace, reason_of
from ingest.staging import Staging

_BUFFER = 1 << 16  # bytes; a longer fragment is written at once
_HEAD = 1 << 12  # bytes, in which the record has its room: they are written once more, in the end


class Arrival:
    """A data set that arrives, as a Part 10 file in ``incoming``."""

    def __init__(
        self, staging: Staging, free_space: FreeSpace, deliveries: int, max_object_mb: int = 0
    ) -> None:
        """All arrivals share `staging` and `free_space`; it will go to `deliveries` destinations.

        With `max_object_mb` 0 an object may have any size.
        """
        self.path = staging.new_path()
        self.size = 0  # bytes of the data set
        self.offset = 0  # of the data set in the file
        self.failure: str | None = None  # why the spool does not hold it
        self.moved = False  # the file is in its place on the spool
        self.started_at = time.monotonic()
        self._staging, self._free_space = staging, free_space
        self._deliveries = deliveries
        self._most = max_object_mb * durable.MB
        self._digest = Digest()
        self._file: BinaryIO | None = None

    @property
    def record_at(self) -> int:
        """Offset of the room for its record in the file."""
        return self.offset - len(records.RECEIVED_ROOM)

    @property
    def is_too_large(self) -> bool:
        """Whether it has more bytes than an object may have; no more than these were written."""
        return 0 < self._most < self.size

    @property
    def digest(self) -> str:
        """Digest of the data set's bytes."""
        return str(self._digest)

    def open(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> None:
        """Write the preamble and File Meta Information (PS3.10 7.1)."""
        self.failure = self._free_space.shortage(deliveries=self._deliveries)
        if self.failure is not None:
            return
        try:
            room = records.RECEIVED_ROOM
            head = file_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid, room)
            self._file = self.path.open("xb", _BUFFER)
            self._file.write(head)
            self.offset = len(head)
        except OSError as error:
            self._staging.renew()
            self._fail(error)

    def write(self, part: memoryview) -> None:
        """Append bytes of the data set."""
        self.size += len(part)
        if self._file is None:
            return
        if self.is_too_large:
            self.discard()
            return
        try:
            self.failure = self._free_space.shortage(len(part))
            if self.failure is None:
                self._file.write(part)
                self._digest.update(part)
        except OSError as error:
            self._fail(error)
        if self.failure is not None:
            self.discard()

    def close(self) -> None:
        """Close the file; the kernel then has every byte."""
        if self._file is not None:
            try:
                with self._file as file:
                    file.flush()
                    if self.size > _BUFFER:  # else the fsync follows at once
                        durable.begin_sync(file.fileno(), _HEAD)
            except OSError as error:
                self._fail(error)
            self._file = None

    def discard(self) -> None:
        """Remove it from ``incoming``, unless it was moved to its place."""
        self.close()
        if not self.moved:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _fail(self, error: OSError) -> None:
        self.failure = reason_of(error)
