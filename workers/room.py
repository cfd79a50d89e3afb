"""Room for renditions on the disk that they share with what ingest receives.

The file system is the account: what stands is measured, and a large file is allocated before it is written,
under a lock, so that worker processes never promise the same bytes twice. For nameless scratch files stands a
sparse file of their size. What a killed process leaves is found by its name.

Renditions together get half of what is free above ingest's mark, and never less than half of the mark itself:
else a spool that is full of received objects could never be emptied.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from dicomferry.errors import Transient
from dicomferry.spool import durable

LARGE = 16 << 20  # bytes; a smaller rendition is written before anybody could count it
_LARGE_PART = 256  # of a small disk: there a rendition is large from this part of it on
_FLOOR = 64 << 20  # bytes that renditions may take in any case where the disk has them
_FLOOR_PART = 4  # but never more than this part of the disk
_MEASURE_EVERY = 10.0  # seconds; in between, what has gone from the free space counts as renditions
_MB = durable.MB


class NoRoom(Transient):
    """There is no room for the rendition now."""

    first = False  # whether this process had room when it last asked


class TooLarge(NoRoom):
    """The rendition is larger than the room that all of them may ever have."""


class Room:
    """The room for the files that one process makes in `folder`.

    With `shared`, `folder` holds a folder of renditions for each boot, `reserve_mb` is ingest's `min_free_mb`
    and `most_mb` bounds all renditions together; else only what the disk has is respected.
    """

    def __init__(
        self, folder: Path, *, shared: bool = False, reserve_mb: int = 0, most_mb: int | None = None
    ) -> None:
        self._folder, self._shared = folder, shared
        self._reserve = reserve_mb * _MB
        self._most = None if most_mb is None else most_mb * _MB
        self._measured_at = float("-inf")
        self._standing = self._free = 0  # bytes as measured
        self._told = False  # whether the last check was refused

    @cached_property
    def large(self) -> int:
        """Bytes from which on a rendition's size is held against the room as it is written."""
        found = os.statvfs(self._folder)
        return min(LARGE, found.f_blocks * found.f_frsize // _LARGE_PART)

    @contextmanager
    def claim(self, target: Path) -> Iterator["Claim"]:
        """The claim of a rendition that is being made."""
        temporary = durable.temporary_path(target)
        claim = Claim(self, temporary.with_suffix(".scratch.tmp") if self._shared else None)
        try:
            yield claim
        finally:
            claim.end()

    def check(self, more: int, held: int = 0, *, exactly: bool = False) -> None:
        """Check whether there is room for `more` bytes of a rendition that has `held` ones already.

        Raises:
            NoRoom: there is none now; `TooLarge`: or ever.
        """
        found = os.statvfs(self._folder)
        free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        standing = self._standing + max(0, self._free - free)
        old = time.monotonic() - self._measured_at >= _MEASURE_EVERY
        if self._shared and (exactly or old or not self._fits(more, free, standing, total)):
            standing = self._standing = _size_of(self._folder)
            self._free, self._measured_at = free, time.monotonic()
        if self._fits(more, free, standing, total):
            self._told = False
            return
        error = self._refusal(more, held, free, standing, total)
        error.first, self._told = not self._told, True
        raise error

    def _refusal(self, more: int, held: int, free: int, standing: int, total: int) -> NoRoom:
        if held + more > min(self._share(total, total), total - self._kept(total)):
            return TooLarge(
                f"a rendition of {_mb(held + more)} is over what all renditions may take, "
                f"{_mb(self._share(total, total))}: {self._remedy}"
            )
        return NoRoom(
            f"no room for {_mb(more)}: renditions take {_mb(standing)} "
            f"of {_mb(self._share(free + standing, total))}, and {_mb(free)} are free"
        )

    def _fits(self, more: int, free: int, standing: int, total: int) -> bool:
        within = standing + more <= self._share(free + standing, total)
        return within and more <= free - self._kept(total)

    def _kept(self, total: int) -> int:
        """Bytes of a disk that renditions leave free in any case."""
        return max(self._reserve // 8, durable.working_bytes(total) // 2) if self._shared else 0

    def _share(self, room: int, total: int) -> int:
        """Bytes that renditions may have of `room`, what is free without them, on a disk of `total`."""
        if not self._shared:
            return room
        floor = max(self._reserve // 2, min(_FLOOR, total // _FLOOR_PART))
        share = max(floor, (room - self._reserve) // 2)
        return share if self._most is None else min(self._most, share)

    @property
    def _remedy(self) -> str:
        if not self._shared:
            return "the disk is too small"
        if self._most is None:
            return "the spool needs a larger disk, or a lower [ingest] min_free_mb"
        return "if it is sound, raise [worker] renditions_mb, or remove it and give the spool a larger disk"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this machine from allocating meanwhile."""
        if not self._shared:
            yield
            return
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems lock no folders
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class Claim:
    """What one rendition takes, told as soon as it is known."""

    def __init__(self, room: Room, shown: Path | None = None) -> None:
        """Show the size of nameless files by that of the sparse file `shown`."""
        self._room, self._shown = room, shown
        self._held = 0  # bytes in nameless files
        self._unseen = 0  # of these, not held against the room yet

    def grow(self, count: int) -> None:
        """Count bytes that are about to be written to a nameless file.

        Raises:
            NoRoom: there is no room for them.
        """
        self._unseen += count
        if self._unseen < self._room.large:
            return
        with self._room.locked():
            self._room.check(self._unseen, self._held, exactly=True)
            self._held += self._unseen
            self._unseen = 0
            self._show()

    def _show(self) -> None:
        if self._shown is None:
            return
        if not self._held:
            self._shown.unlink(missing_ok=True)
            return
        with self._shown.open("ab") as file:
            file.truncate(self._held)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Give back at the end what nameless files took in the block: all of them are closed by then."""
        before = self._held, self._unseen
        yield
        changed = self._held != before[0]
        self._held, self._unseen = before
        if changed:
            self._show()

    def demand(self, total: int) -> None:
        """Check whether there is room for nameless files of `total` bytes in all.

        Raises:
            NoRoom: there is none; `TooLarge`: or ever.
        """
        self._room.check(max(total - self._held, 0), self._held)

    def allocate(self, length: int, out: BinaryIO | None) -> None:
        """Take the room of `length` bytes for the rendition, whose file `out` will have more than that.

        Without `out` nothing is allocated.

        Raises:
            NoRoom: there is none.
            OSError: the disk is full.
        """
        if length < self._room.large or out is None:
            self._room.check(length, self._held)
            return
        with self._room.locked():
            self._room.check(length, self._held, exactly=True)
            try:
                os.posix_fallocate(out.fileno(), 0, length)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise

    def end(self) -> None:
        """Take back what stands for nameless files, which are gone."""
        if self._held and self._shown is not None:
            self._shown.unlink(missing_ok=True)


def _size_of(folder: Path) -> int:
    """Bytes of all files below `folder`, whether they are written yet or not."""
    total = 0
    pending = [str(folder)]
    while pending:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with suppress(OSError):  # gone meanwhile
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
    return total


def _mb(size: int) -> str:
    return f"{size / _MB:,.0f} MB" if size >= 10 * _MB else f"{size / _MB:.1f} MB"
