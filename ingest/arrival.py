"""Writes a data set that arrives to a file of the spool, in bounded memory.

The peer gets no answer before its last byte. So writing never raises: on a failure `Arrival` keeps the reason
for the answer and drops the rest of the object.
"""

import shutil
import time
import uuid
from pathlib import Path
from typing import BinaryIO

from dicomferry.dicom.part10 import file_header
from dicomferry.spool import durable
from dicomferry.spool.digests import Digest
from dicomferry.spool.spool import Spool
from ingest.room import FreeSpace, reason_of

_BUFFER = 1 << 16  # bytes; a longer fragment is written at once


class Arrival:
    """A data set that arrives, in its own folder of ``incoming``, whose name begins with the receiver's."""

    def __init__(
        self, spool: Spool, receiver: str, free_space: FreeSpace, deliveries: int, max_object_mb: int = 0
    ) -> None:
        """`free_space` is shared by all arrivals; `deliveries` is to how many destinations it will go.

        With `max_object_mb` 0 an object may have any size.
        """
        self.staging = spool.incoming / f"{receiver}{uuid.uuid4().hex}"
        self.size = 0  # bytes of the data set
        self.offset = 0  # of the data set in the file
        self.failure: str | None = None  # why the spool does not hold it
        self.started_at = time.monotonic()
        self._free_space = free_space
        self._deliveries = deliveries
        self._most = max_object_mb * durable.MB
        self._digest = Digest()
        self._file: BinaryIO | None = None

    @property
    def path(self) -> Path:
        """Its Part 10 file."""
        return self.staging / "received.dcm"

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
            head = file_header(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
            self.staging.mkdir()
            self._file = self.path.open("xb", _BUFFER)
            self._file.write(head)
            self.offset = len(head)
        except OSError as error:
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
                    durable.begin_sync(file.fileno())
            except OSError as error:
                self._fail(error)
            self._file = None

    def discard(self) -> None:
        """Remove its folder from ``incoming``, unless it was moved to its place in the spool."""
        self.close()
        shutil.rmtree(self.staging, ignore_errors=True)

    def _fail(self, error: OSError) -> None:
        self.failure = reason_of(error)
