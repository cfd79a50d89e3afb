"""A data set while it arrives: from the wire to a file of the spool, bounded in memory.

The network's thread writes it and cannot say anything to the peer, so that no write raises: what failed is
kept, the rest of the object is read and dropped, and whoever answers the request finds the reason.
"""

import os
import shutil
import threading
import time
import uuid
from io import BufferedWriter
from pathlib import Path

from dicomferry.part10 import frame
from dicomferry.spool import Spool, digest_of


class Room:
    """Whether the spool has room: `statvfs`, asked at most once a second."""

    def __init__(self, spool: Spool, min_free_mb: int) -> None:
        self._folder = spool.incoming
        self._wanted = min_free_mb * 1_000_000
        self._asked_at = float("-inf")
        self._free = 0

    def lack(self) -> str | None:
        """Why nothing more is taken; None where there is room.

        Raises:
            OSError: the spool is not there.
        """
        now = time.monotonic()
        if now - self._asked_at >= 1.0:
            found = os.statvfs(self._folder)
            self._free, self._asked_at = found.f_bavail * found.f_frsize, now
        if self._free < self._wanted:
            return f"spool has {self._free // 1_000_000} MB left, wants {self._wanted // 1_000_000}"
        return None


class Arrival:
    """One data set that arrives, in a folder of its own in ``incoming``."""

    def __init__(self, spool: Spool, room: Room) -> None:
        self.staging = spool.incoming / uuid.uuid4().hex
        self.size = 0  # bytes of the data set
        self.offset = 0  # of the data set in the file
        self.failure: str | None = None  # why the spool has not taken it
        self.started_at = time.monotonic()
        self._room = room
        self._digest = digest_of()
        self._file: BufferedWriter | None = None
        self._closed = False
        # The association's thread may give up while the network's thread still writes.
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file that holds it: Part 10."""
        return self.staging / "received.dcm"

    @property
    def digest(self) -> str:
        """Of the data set's bytes."""
        return self._digest.hexdigest()

    def open(self, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> None:
        """Begin the file with its frame (PS3.10 7.1)."""
        with self._lock:
            if self._closed:
                return
            try:
                self.failure = self._room.lack()
                if self.failure is None:
                    head = frame(sop_class_uid, sop_instance_uid, transfer_syntax_uid)
                    self.staging.mkdir()
                    self._file = self.path.open("xb")
                    self._file.write(head)
                    self.offset = len(head)
            except OSError as error:
                self._fail(error)

    def write(self, part: bytes) -> None:
        """Take the next bytes of the data set."""
        with self._lock:
            self.size += len(part)
            if self._file is None:
                return
            try:
                self.failure = self._room.lack()
                if self.failure is None:
                    self._file.write(part)
                    self._digest.update(part)
            except OSError as error:
                self._fail(error)
            if self.failure is not None:
                self._drop()

    def close(self) -> None:
        """End the file; every byte is with the kernel then."""
        with self._lock:
            if self._file is not None:
                try:
                    self._file.close()
                except OSError as error:
                    self._fail(error)
                self._file = None

    def discard(self) -> None:
        """Leave nothing of it in ``incoming``; nothing is done where it went to its place in the spool."""
        with self._lock:
            self._closed = True
            self._drop()

    def _fail(self, error: OSError) -> None:
        self.failure = f"spool: {error.strerror or error}"

    def _drop(self) -> None:
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:
                self._fail(error)
            self._file = None
        shutil.rmtree(self.staging, ignore_errors=True)
