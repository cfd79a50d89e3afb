"""Bytes that are written now and copied to their place later, once what stands before them is known."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

_IN_MEMORY = 8 << 20
_CHUNK = 1 << 20


class ScratchFile:
    """A nameless file in the folder `scratch`; while it is small it stays in memory."""

    def __init__(self, scratch: Path) -> None:
        # SpooledTemporaryFile is an IO[bytes] in all but its declared type.
        self._file = cast(IO[bytes], tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(scratch)))  # noqa: SIM115  ours
        self.length = 0

    def write(self, content: bytes) -> None:
        """Append bytes.

        Raises:
            OSError: the disk is full.
        """
        self._file.write(content)
        self.length += len(content)

    def chunks(self) -> Iterator[bytes]:
        """The whole content, in pieces."""
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            yield chunk

    def close(self) -> None:
        """Close the file, which deletes it."""
        self._file.close()
