"""Writing encapsulated pixel data (PS3.5 A.4): one fragment per frame, and a table of their offsets.

Lengths are known only once every frame is encoded, and elements before the pixel data depend on them. So the
fragments wait in a scratch file until all are there.
"""

import struct
from array import array
from collections.abc import Iterator

from dicomferry.dicom.elements import ITEM, SEQUENCE_END
from dicomferry.errors import Permanent
from workers.dataset.scratch import ScratchFile

LAST_BASIC_OFFSET = 0xFFFFFFFF  # the largest offset of a Basic Offset Table: 32 bits (PS3.5 A.4)
EXTENDED_OFFSETS, EXTENDED_LENGTHS = 0x7FE00001, 0x7FE00002
_LONGEST_FRAGMENT = 0xFFFFFFFE


class Fragments:
    """The fragments of one Pixel Data element, in the order of its frames."""

    def __init__(self, file: ScratchFile) -> None:
        self._file = file
        self._offsets = array("Q")
        self._lengths = array("Q")

    def add(self, codestream: bytes) -> None:
        """Add a frame, padded to even length (PS3.5 A.4).

        Raises:
            Permanent: it is longer than a fragment can be.
        """
        padded = len(codestream) + len(codestream) % 2
        if padded > _LONGEST_FRAGMENT:
            raise Permanent(f"a frame of {len(codestream)} bytes does not fit into a fragment (PS3.5 A.4)")
        self._offsets.append(self._file.length)
        self._lengths.append(padded)
        self._file.write(item_header(padded))
        self._file.write(codestream)
        if padded != len(codestream):
            self._file.write(b"\x00")

    @property
    def coded_length(self) -> int:
        """Bytes of all codestreams, padding included."""
        return sum(self._lengths)

    @property
    def extended(self) -> dict[int, tuple[bytes, bytes]]:
        """The Extended Offset Table and its Lengths, VR and value by tag; empty where a basic table will do.

        With an extended table each frame is one fragment and the Basic Offset Table is empty (PS3.3
        C.7.6.3.1.8).
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
        yield from self._file.chunks()
        yield DELIMITER


def item_header(length: int) -> bytes:
    """The tag and length of an item in Little Endian."""
    return struct.pack("<HHI", ITEM >> 16, ITEM & 0xFFFF, length)


DELIMITER = struct.pack("<HHI", SEQUENCE_END >> 16, SEQUENCE_END & 0xFFFF, 0)


def _little(numbers: "array[int]") -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)
