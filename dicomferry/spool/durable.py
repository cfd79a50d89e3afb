"""Durable writes, the one home of fsync.

Relies on POSIX: rename(2) replaces atomically within a file system, a file's content is on disk after
fsync(2) of the file, and its name after fsync(2) of its folder.
"""

import ctypes
import fcntl
import os
import shutil
import threading
from array import array
from contextlib import suppress
from glob import escape
from pathlib import Path

from dicomferry.crashpoints import reach

_FEW = 64  # files
# Linux alone has it (sync_file_range(2)): elsewhere the fsync does all of the work.
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_WRITE = 2
# Of ioctl_iflags(2), with the size of a long in them.
_GET_FLAGS = 2 << 30 | array("l").itemsize << 16 | ord("f") << 8 | 1
_SET_FLAGS = 1 << 30 | array("l").itemsize << 16 | ord("f") << 8 | 2
_TOP_OF_HIERARCHY = 0x00020000


def sync_file(path: Path) -> None:
    """Put the content of `path` on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Linux syncs a folder exactly as it does a file: the names in it are its content.
sync_folder = sync_file


def begin_sync(descriptor: int) -> None:
    """Begin to write to disk what a later fsync waits for; promises nothing, and waits for nothing."""
    if _sync_file_range is not None:
        _sync_file_range(descriptor, 0, 0, _WRITE)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and put its content on disk; its name is not yet safe."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(path: Path, content: bytes) -> None:
    """Put `content` at `path`, durably and all at once: a reader sees the old file or the new one."""
    temporary = unpublished(path)
    # Left by one that was killed here, and had our numbers: in a container they come round soon.
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
    """Remove a folder, as a rule one with a few files, as far as that can be done."""
    with suppress(OSError):
        for name in os.listdir(folder):
            os.unlink(f"{folder}/{name}")  # noqa: PTH108  a path costs more than the call
        folder.rmdir()
        return
    shutil.rmtree(folder, ignore_errors=True)


def spread(folder: Path) -> None:
    """Have new folders in `folder` stand far from each other on the disk (chattr +T), where that is known.

    For folders that come and go by the hundred a second on ext4 without a journal: there each new file costs
    a look at every inode of its neighbourhood that was deleted in the last minutes, which takes milliseconds.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if _has_journal(descriptor):
                return
            flags = array("l", [0])
            fcntl.ioctl(descriptor, _GET_FLAGS, flags)
            flags[0] |= _TOP_OF_HIERARCHY
            fcntl.ioctl(descriptor, _SET_FLAGS, flags)
        finally:
            os.close(descriptor)


def _has_journal(descriptor: int) -> bool:
    device = os.fstat(descriptor).st_dev
    name = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve().name
    return Path(f"/proc/fs/jbd2/{name}-8").exists()


def has_room(folder: Path, size: int) -> bool:
    """Whether a few small files, `size` bytes in all, can still be written on the file system of `folder`."""
    found = os.statvfs(folder)
    # Some file systems count no files: they say that there are none at all.
    return found.f_bavail * found.f_frsize >= size and (found.f_favail >= _FEW or not found.f_files)


def unpublished(path: Path) -> Path:
    """A name beside `path` that no other thread or process writes, to be renamed onto `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")


def left_unpublished(path: Path) -> list[Path]:
    """What writers of `path` that were killed left beside it."""
    return list(path.parent.glob(f".{escape(path.name)}.*.tmp"))
