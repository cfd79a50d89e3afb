"""Where data sets are written while they arrive: files in folders of ``incoming`` that change now and then.

An ext4 without a journal looks, for each new file, at each inode nearby that was deleted in the last minutes,
which takes 1 us each. `durable.spread_subfolders` places each new folder, and so its files, elsewhere.
"""

import threading
import uuid
from pathlib import Path

_FILES = 64  # of one folder: then the next is made


class Staging:
    """The folders of one receiver, whose names begin with its own; any thread may ask."""

    def __init__(self, incoming: Path, receiver: str) -> None:
        self._incoming, self._receiver = incoming, receiver
        self._folder = incoming
        self._left = 0  # files that the folder may still take
        self._full: list[Path] = []  # the folders before, until what arrived there has left
        self._lock = threading.Lock()

    def new_path(self) -> Path:
        """A path that no other has; its folder is there."""
        with self._lock:
            if not self._left:
                self._turn()
            self._left -= 1
            return self._folder / f"{self._receiver}{uuid.uuid4().hex}"

    def renew(self) -> None:
        """Take a new folder: the one of now may have gone."""
        with self._lock:
            self._left = 0

    def close(self) -> None:
        """Remove the folders; what an arrival is still written to stays."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        if self._folder is not self._incoming:
            self._full.append(self._folder)
        self._full = [folder for folder in self._full if not _is_removed(folder)]
        self._folder, self._left = self._incoming, 0

    def _turn(self) -> None:
        self._leave()
        folder = self._incoming / f"{self._receiver}{uuid.uuid4().hex}"
        try:
            folder.mkdir()
        except OSError:  # the disk is full, say: opening a file will tell
            self._left = 1
        else:
            self._folder, self._left = folder, _FILES


def _is_removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # something still arrives there
        return False
    return True
