"""Bytes that are written now and copied to their place later, once what stands before them is known."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

_IN_MEMORY = 8 << 20
_CHUNK = 1 << 20


class ScratchFile:
    """A nameless file in the folder `scratch`; while it is small it stays in memory.

    `grow` is told of bytes before they are written, and may refuse them.
    """

    def __init__(self, scratch: Path, grow: Callable[[int], None] | None = None) -> None:
        self._grow = grow
        # SpooledTemporaryFile is an IO[bytes] in all but its declared type.
        self._file = cast(IO[bytes], tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(scratch)))  # noqa: SIM115  ours
        self.length = 0

    def write(self, content: bytes) -> None:
        """Append bytes.

        Raises:
            Transient: `grow` refuses them.
            OSError: the disk is full.
        """
        if self._grow is not None:
            self._grow(len(content))
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
