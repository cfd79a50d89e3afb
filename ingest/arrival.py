"""Writes a data set that arrives to a file of the spool, in bounded memory.

The peer gets no answer before its last byte. So writing never raises: on a failure `Arrival` keeps the reason
for the answer and drops the rest of the object.
"""

import os
import shutil
import time
import uuid
from pathlib import Path
from typing import BinaryIO

from dicomferry.dicom.part10 import file_header
from dicomferry.spool import durable
from dicomferry.spool.digests import Digest
from dicomferry.spool.spool import Spool

_BUFFER = 1 << 16  # bytes; a longer fragment is written at once


class FreeSpace:
    """The spool's free space: `statvfs` once a second, less what we write in between."""

    def __init__(self, spool: Spool, min_free_mb: int) -> None:
        self._folder = spool.incoming
        self._minimum = min_free_mb * 1_000_000
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
                return _reason(error)
            self._free, self._measured_at = found.f_bavail * found.f_frsize, now
        if self._free < self._minimum:
            return f"spool has {self._free // 1_000_000} MB left, wants {self._minimum // 1_000_000}"
        return None


class Arrival:
    """A data set that arrives, in its own folder of ``incoming``, whose name begins with the receiver's."""

    def __init__(self, spool: Spool, receiver: str, free_space: FreeSpace) -> None:
        self.staging = spool.incoming / f"{receiver}{uuid.uuid4().hex}"
        self.size = 0  # bytes of the data set
        self.offset = 0  # of the data set in the file
        self.failure: str | None = None  # why the spool does not hold it
        self.started_at = time.monotonic()
        self._free_space = free_space
        self._digest = Digest()
        self._file: BinaryIO | None = None

    @property
    def path(self) -> Path:
        """Its Part 10 file."""
        return self.staging / "received.dcm"

    @property
    def digest(self) -> str:
        """Digest of the data set's bytes."""
        return str(self._digest)

    def open(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> None:
        """Write the preamble and File Meta Information (PS3.10 7.1)."""
        self.failure = self._free_space.shortage()
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
        self.failure = _reason(error)


def _reason(error: OSError) -> str:
    return f"spool: {error.strerror or error}"
