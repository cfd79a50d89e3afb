"""File systems of a chosen size."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.running.services import missing


@contextmanager
def small_file_system(folder: Path, size: int, inodes: int = 0) -> Iterator[Path]:
    """A tmpfs of so many bytes and inodes at `folder`, which is made; root alone may mount one."""
    folder.mkdir()
    command = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={size}" + (f",nr_inodes={inodes}" if inodes else ""),
        "tmpfs",
        str(folder),
    ]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        missing("only root, outside a container, mounts file systems")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
