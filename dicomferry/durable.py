"""Durable writes, the one home of fsync.

Relies on POSIX: rename(2) replaces atomically within a file system, a file's content is on disk after
fsync(2) of the file, and its name after fsync(2) of its folder.
"""

import os
import threading
from glob import escape
from pathlib import Path

from dicomferry.crashpoints import reach

_FEW = 64  # files


def sync_file(path: Path) -> None:
    """Put the content of `path` on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Linux syncs a folder exactly as it does a file: the names in it are its content.
sync_folder = sync_file


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and put its content on disk; its name is not yet safe."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


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
