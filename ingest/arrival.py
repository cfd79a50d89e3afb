"""A data set while it arrives: from the wire to a file of the spool, bounded in memory.

Nothing can be said to the peer before its last byte, so no write raises: what failed is kept, the rest of the
object is read and dropped, and whoever answers the request finds the reason.
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

_BUFFER = 1 << 16  # bytes that short fragments are gathered in; longer ones are written as they come


class Room:
    """Whether the spool has room: `statvfs`, asked once a second, and where our own writes use it up."""

    def __init__(self, spool: Spool, min_free_mb: int) -> None:
        self._folder = spool.incoming
        self._wanted = min_free_mb * 1_000_000
        self._asked_at = float("-inf")
        self._free = 0

    def lack(self, coming: int = 0) -> str | None:
        """Why nothing more is taken; None where there is room, in which `coming` bytes are written now."""
        now = time.monotonic()
        self._free -= coming
        if now - self._asked_at >= 1.0 or self._free < self._wanted:
            try:
                found = os.statvfs(self._folder)
            except OSError as error:
                return _words(error)
            self._free, self._asked_at = found.f_bavail * found.f_frsize, now
        if self._free < self._wanted:
            return f"spool has {self._free // 1_000_000} MB left, wants {self._wanted // 1_000_000}"
        return None


class Arrival:
    """One data set that arrives, in a folder of its own in ``incoming``, whose name tells the receiver."""

    def __init__(self, spool: Spool, receiver: str, room: Room) -> None:
        self.staging = spool.incoming / f"{receiver}{uuid.uuid4().hex}"
        self.size = 0  # bytes of the data set
        self.offset = 0  # of the data set in the file
        self.failure: str | None = None  # why the spool has not taken it
        self.started_at = time.monotonic()
        self._room = room
        self._digest = Digest()
        self._file: BinaryIO | None = None

    @property
    def path(self) -> Path:
        """The file that holds it: Part 10."""
        return self.staging / "received.dcm"

    @property
    def digest(self) -> str:
        """Of the data set's bytes."""
        return str(self._digest)

    def open(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> None:
        """Begin the file with its header (PS3.10 7.1)."""
        self.failure = self._room.lack()
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
        """Take the next bytes of the data set."""
        self.size += len(part)
        if self._file is None:
            return
        try:
            self.failure = self._room.lack(len(part))
            if self.failure is None:
                self._file.write(part)
                self._digest.update(part)
        except OSError as error:
            self._fail(error)
        if self.failure is not None:
            self.discard()

    def close(self) -> None:
        """End the file; every byte is with the kernel then."""
        if self._file is not None:
            try:
                with self._file as file:
                    file.flush()
                    durable.begin_sync(file.fileno())
            except OSError as error:
                self._fail(error)
            self._file = None

    def discard(self) -> None:
        """Leave nothing of it in ``incoming``; nothing is done where it went to its place in the spool."""
        self.close()
        shutil.rmtree(self.staging, ignore_errors=True)

    def _fail(self, error: OSError) -> None:
        self.failure = _words(error)


def _words(error: OSError) -> str:
    return f"spool: {error.strerror or error}"
