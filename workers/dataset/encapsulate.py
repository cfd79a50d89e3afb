"""Writing encapsulated pixel data (PS3.5 A.4): one fragment a frame, and a table of where each begins.

Lengths are known only once every frame is encoded, and elements that come before the pixel data depend on
them, so the fragments wait in a nameless file (in memory while they are few) until all are there.
"""

import struct
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from dicomferry.errors import Permanent
from workers.dataset.elements import ITEM, SEQUENCE_END

LAST_BASIC_OFFSET = 0xFFFFFFFF  # what 32 bits of a Basic Offset Table can say (PS3.5 A.4)
EXTENDED_OFFSETS, EXTENDED_LENGTHS = 0x7FE00001, 0x7FE00002
_LONGEST_FRAGMENT = 0xFFFFFFFE
_IN_MEMORY = 8 << 20
_CHUNK = 1 << 20


class Stored:
    """Bytes that are written now and copied to their place later. A context: its file ends with it."""

    def __init__(self, scratch: Path) -> None:
        # SpooledTemporaryFile is an IO[bytes] in all but its declared type.
        self._file = cast(IO[bytes], tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=str(scratch)))  # noqa: SIM115  ours
        self.length = 0

    def write(self, content: bytes) -> None:
        """Add bytes at the end.

        Raises:
            OSError: the disk is full.
        """
        self._file.write(content)
        self.length += len(content)

    def chunks(self) -> Iterator[bytes]:
        """All of it, from the start, in pieces."""
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            yield chunk

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Fragments:
    """The fragments of one Pixel Data element, in the order of its frames."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._offsets = array("Q")
        self._lengths = array("Q")

    def add(self, codestream: bytes) -> None:
        """Add a frame; one of odd length is padded (PS3.5 A.4).

        Raises:
            Permanent: it is longer than a fragment can be.
        """
        padded = len(codestream) + len(codestream) % 2
        if padded > _LONGEST_FRAGMENT:
            raise Permanent(f"a frame of {len(codestream)} bytes does not fit into a fragment (PS3.5 A.4)")
        self._offsets.append(self._stored.length)
        self._lengths.append(padded)
        self._stored.write(item_header(padded))
        self._stored.write(codestream)
        if padded != len(codestream):
            self._stored.write(b"\x00")

    @property
    def coded_length(self) -> int:
        """Bytes of all codestreams, padding included."""
        return sum(self._lengths)

    @property
    def extended(self) -> dict[int, tuple[bytes, bytes]]:
        """The Extended Offset Table and its Lengths, VR and value by tag, where a basic one is too small.

        PS3.3 C.7.6.3.1.8: each frame is one fragment then, and the Basic Offset Table is empty.
        """
        if self._offsets[-1] <= LAST_BASIC_OFFSET:
            return {}
        return {
            EXTENDED_OFFSETS: (b"OV", _little(self._offsets)),
            EXTENDED_LENGTHS: (b"OV", _little(self._lengths)),
        }

    def content(self) -> Iterator[bytes]:
        """The value of the element: Basic Offset Table, fragments, delimiter."""
        table = b"" if self.extended else struct.pack(f"<{len(self._offsets)}I", *self._offsets)
        yield item_header(len(table)) + table
        yield from self._stored.chunks()
        yield DELIMITER


def item_header(length: int) -> bytes:
    """The tag and length of an item in Little Endian."""
    return struct.pack("<HHI", ITEM >> 16, ITEM & 0xFFFF, length)


DELIMITER = struct.pack("<HHI", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0)


def _little(numbers: "array[int]") -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)
