"""How many objects a folder of the spool holds, and how many bytes, without reading it all each time."""

import os
import threading
from pathlib import Path


class Tally:
    """Counts the objects of a folder, of which each has a folder of its own with its ``received.dcm``.

    A count lists the names, and looks at those alone that are new since the last. Any thread may count.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    def count(self) -> tuple[int, int]:
        """Their number, and the bytes of their files."""
        with self._lock:
            try:
                names = os.listdir(self._folder)
            except FileNotFoundError:
                names = []
            known = self._sizes
            self._sizes = {name: known[name] if name in known else self._size(name) for name in names}
            return len(names), sum(self._sizes.values())

    def _size(self, name: str) -> int:
        try:
            return (self._folder / name / "received.dcm").stat().st_size
        except OSError:  # discarded this moment
            return 0
