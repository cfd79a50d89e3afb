"""Durable writes: all calls of fsync are here.

Relies on POSIX: rename(2) replaces atomically within a file system, a file's content is on disk after
fsync(2) of the file, and its name after fsync(2) of its folder.
"""

import ctypes
import errno
import fcntl
import os
import shutil
import threading
from array import array
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import NamedTuple

from dicomferry.crashpoints import reach

MB = 1_000_000  # bytes, in the settings that bound space on the disk
_MIN_FREE_INODES = 64
_WORKING_BYTES, _WORKING_PART = 32 << 20, 16
_MARKERS = 1 << 20  # bytes: enough for the markers of all objects being sent
# Only Linux has sync_file_range(2): elsewhere fsync does all of the work.
_libc = ctypes.CDLL(None, use_errno=True)
_sync_file_range = getattr(_libc, "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_SYNC_FILE_RANGE_WRITE = 2
# So has renameat2(2), which not every file system knows.
_renameat2 = getattr(_libc, "renameat2", None)
if _renameat2 is not None:
    _renameat2.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1
# Of ioctl_iflags(2); the size of a long is part of the request number.
_FS_IOC_GETFLAGS = 2 << 30 | array("l").itemsize << 16 | ord("f") << 8 | 1
_FS_IOC_SETFLAGS = 1 << 30 | array("l").itemsize << 16 | ord("f") << 8 | 2
_FS_TOPDIR_FL = 0x00020000


def sync_file(path: Path | str) -> None:
    """Put the content of `path` on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Linux syncs a folder exactly as it does a file: the names in it are its content.
sync_folder = sync_file


def begin_sync(descriptor: int, start: int = 0) -> None:
    """Start writing a file to disk, so that a later fsync has less to wait for; does not wait itself.

    What precedes `start` may still be written to.
    """
    if _sync_file_range is not None:
        _sync_file_range(descriptor, start, 0, _SYNC_FILE_RANGE_WRITE)


def rename_new(source: Path, target: Path | str) -> bool:
    """Rename a file unless there is one at `target`; False then, and `source` stays."""
    if _renameat2 is not None:
        names = os.fsencode(source), os.fsencode(target)
        if _renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
            return True
        number = ctypes.get_errno()
        if number == errno.EEXIST:
            return False
        if number not in {errno.EINVAL, errno.ENOSYS}:  # else this file system does not know it: NFS, say
            raise OSError(number, os.strerror(number), str(source), None, str(target))
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    source.unlink()
    return True


def enfold(file: Path, name: str) -> Path:
    """Move `file` into a new folder beside it, under `name`; the folder's path begins like the file's."""
    folder = file.with_name(f"{file.name}.folder")
    folder.mkdir()
    file.rename(folder / name)
    return folder


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and put its content on disk; its name is not safe yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_within(path: Path, at: int, content: bytes) -> None:
    """Write `content` at that offset of a file, and put all of the file on disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        while content:
            written = os.pwrite(descriptor, content, at)
            content, at = content[written:], at + written
        reach("reception.recorded")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_synced(path: Path, content: bytes) -> int:
    """Append to a file, which is made where it is missing, and put it on disk; its length then, in bytes."""
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def replace(path: Path, content: bytes) -> None:
    """Put `content` at `path`, durably and all at once: a reader sees the old file or the new one."""
    temporary = temporary_path(path)
    # A killed process left it that had our process and thread id: in a container these come again soon.
    temporary.unlink(missing_ok=True)
    try:
        write_synced(temporary, content)
        reach("replacement.written")
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    reach("replacement.renamed")
    sync_folder(path.parent)


def remove(folder: Path) -> None:
    """Remove a folder and its content, or a file, as far as possible; fast where it has files alone."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        folder.unlink(missing_ok=True)
        return
    with suppress(OSError):
        for name in names:
            os.unlink(f"{folder}/{name}")  # noqa: PTH108  a path costs more than the call
        folder.rmdir()
        return
    shutil.rmtree(folder, ignore_errors=True)


def spread_subfolders(folder: Path) -> None:
    """Make ext4 without a journal place new folders in `folder` far from each other on the disk (chattr +T).

    For folders of which hundreds a second are made and removed: such an ext4 checks, for each new file, every
    inode nearby that was deleted in the last minutes, which takes milliseconds.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if _has_journal(descriptor):
                return
            flags = array("l", [0])
            fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, flags)
            flags[0] |= _FS_TOPDIR_FL
            fcntl.ioctl(descriptor, _FS_IOC_SETFLAGS, flags)
        finally:
            os.close(descriptor)


def _has_journal(descriptor: int) -> bool:
    device = os.fstat(descriptor).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    return Path(f"/proc/fs/jbd2/{name}-8").exists()


def has_room(folder: Path, inodes: int = _MIN_FREE_INODES) -> bool:
    """Whether the file system of `folder` has room for the markers of the objects being sent."""
    free = free_room(folder)
    size = min(_MARKERS, working_bytes(free.all_bytes) // 8)
    return free.bytes >= size and (free.inodes is None or free.inodes >= inodes)


class FreeRoom(NamedTuple):
    """What a file system has left for us."""

    bytes: int
    inodes: int | None  # files and folders; None where they are not counted, as by btrfs
    all_inodes: int  # used ones too
    all_bytes: int = 0
    block: int = 4096  # bytes that the smallest file takes


def free_room(folder: Path) -> FreeRoom:
    """What the file system of `folder` has left.

    Raises:
        OSError: it does not tell.
    """
    found = os.statvfs(folder)
    # A file system that does not count inodes reports 0 in all.
    inodes = found.f_favail if found.f_files else None
    return FreeRoom(
        found.f_bavail * found.f_frsize,
        inodes,
        found.f_files,
        found.f_blocks * found.f_frsize,
        found.f_frsize,
    )


def working_bytes(total: int) -> int:
    """What is kept free of a disk of `total` bytes to get out what is on it: for leases, markers and history.

    Ingest leaves all of it, whatever `min_free_mb` says, renditions a half, and history a quarter: else a
    disk that is full of received objects could not be emptied.
    """
    return min(_WORKING_BYTES, total // _WORKING_PART)


def temporary_path(path: Path) -> Path:
    """A path beside `path` that no other thread or process uses; write there, then rename to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")


def leftover_temporaries(path: Path) -> list[Path]:
    """Temporary files of `path` that killed writers left."""
    return list(path.parent.glob(f".{escape(path.name)}.*.tmp"))
