"""Makes a data set of odd length even on its way out: values and fragments are (PS3.5 7.1.1, PS3.8 E.1).

A peer that gets an odd fragment aborts (DCMTK) or falls silent (Orthanc). Where the structure can be read,
each odd value is padded, and the lengths and offsets around it are corrected: a legal data set leaves. Else,
and after a deflated stream (PS3.5 A.5), a NUL follows the last byte, which DCMTK and Orthanc skip. Only
headers are read. A data set of even length is not looked into: peers read odd values inside it, and it leaves
as it came.
"""

import struct
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from dicomferry.dicom.elements import (
    EXPLICIT,
    EXPLICIT_BIG,
    IMPLICIT,
    ITEM,
    ITEM_END,
    PIXEL_DATA,
    SEQUENCE_END,
    Encoding,
    content_encoding,
    name,
    read_header,
)
from dicomferry.dicom.encoding import UNDEFINED, dictionary_vr, padding
from dicomferry.dicom.syntaxes import DEFLATED, EXPLICIT_BE, IMPLICIT_LE
from dicomferry.errors import Permanent

MAX_HEADERS = 1_000_000  # some seconds; a data set with more gets the NUL at its end
_MAX_DEPTH = 50
_MAX_NAMED = 3  # padded elements in a note
_MAX_SHORT_LENGTH = 0xFFFE  # the largest even length of 16 bits
_EXTENDED_OFFSETS = 0x7FE00001
_ENCODINGS = {IMPLICIT_LE: IMPLICIT, EXPLICIT_BE: EXPLICIT_BIG}  # others: EXPLICIT (PS3.5 annex A)


class Edit(NamedTuple):
    """At offset `at` of a file, `removed` bytes become `added`."""

    at: int
    removed: int
    added: bytes


class _DamagedError(Permanent):
    """The structure cannot be read."""


class _Header(NamedTuple):
    tag: int
    vr: bytes | None
    order: str  # of its bytes, as `struct` spells it
    at: int
    value: int
    length: int

    @property
    def end(self) -> int:
        return self.value + self.length


def edits(file: BinaryIO, start: int, end: int, transfer_syntax_uid: str) -> tuple[list[Edit], str]:
    """What makes the data set from `start` to `end` even, in the file's order, and a note about it.

    Nothing, where its length is even.
    """
    if (end - start) % 2 == 0:
        return [], ""
    nul = Edit(end, 0, b"\0")
    if transfer_syntax_uid in DEFLATED:
        return [nul], "its deflated data set has an odd length: a NUL was sent after it"
    walk = _Walk(file)
    try:
        walk.data_set(start, end, _ENCODINGS.get(transfer_syntax_uid, EXPLICIT))
    except (Permanent, struct.error):
        return [nul], "its data set has an odd length, from damage or junk: a NUL was sent after it"
    names = [name(tag) for tag in dict.fromkeys(walk.padded)]
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    note = f"its data set has an odd length: {', '.join(names[:_MAX_NAMED])}{more} padded"
    return sorted(walk.edits, key=lambda edit: (edit.at, edit.removed)), note


class Spliced:
    """The bytes of `file` from `start` to `end` with edits made, to be read once from front to back."""

    def __init__(self, file: BinaryIO, start: int, end: int, changes: Iterable[Edit]) -> None:
        self._file = file
        self._parts: list[tuple[int, int] | bytes] = []  # ranges of the file, and what is added
        at = start
        for edit in changes:
            self._parts += [(at, edit.at), edit.added]
            at = edit.at + edit.removed
        self._parts.append((at, end))
        self._parts.reverse()
        self.length = sum(len(p) if isinstance(p, bytes) else p[1] - p[0] for p in self._parts)

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer where the file has become shorter."""
        found = bytearray()
        while self._parts and len(found) < size:
            part = self._parts.pop()
            wanted = size - len(found)
            if isinstance(part, bytes):
                found += part[:wanted]
                rest: tuple[int, int] | bytes = part[wanted:]
            else:
                at, end = part
                self._file.seek(at)
                content = self._file.read(min(wanted, end - at))
                found += content
                at += len(content)
                rest = (at, end) if content and at < end else b""
            if rest:
                self._parts.append(rest)
        return bytes(found)


class _Walk:
    """Collects the edits of one data set; the methods return by how many bytes they lengthen it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_HEADERS
        self.edits: list[Edit] = []
        self.padded: list[int] = []

    def data_set(
        self, at: int, end: int, encoding: Encoding, *, depth: int = 0, item: bool = False
    ) -> tuple[int, int]:
        """Elements up to `end`, or to the delimiter of an `item`; growth, and the offset behind them."""
        grown = Counter[int]()  # by group
        group_lengths: dict[int, _Header] = {}
        extended: _Header | None = None
        while at < end:
            header = self._header(at, end, encoding)
            if header.tag == ITEM_END and item:
                at = header.value
                break
            if header.tag >> 16 == 0xFFFE:
                raise _DamagedError
            if header.tag & 0xFFFF == 0 and header.length == 4:
                group_lengths[header.tag >> 16] = header
            if header.tag == _EXTENDED_OFFSETS:
                extended = header
            growth, at = self._element(header, end, encoding, depth=depth, extended=extended)
            grown[header.tag >> 16] += growth
        else:
            if item:
                raise _DamagedError
        for group, header in group_lengths.items():
            if grown[group]:
                (length,) = self._unpack(header, "I")
                self._replace(header, header.value, 4, "I", length + grown[group])
        return grown.total(), at

    def _element(
        self, header: _Header, end: int, encoding: Encoding, *, depth: int, extended: _Header | None
    ) -> tuple[int, int]:
        if depth > _MAX_DEPTH:
            raise _DamagedError
        undefined = header.length == UNDEFINED
        stop = end if undefined else header.end
        if stop > end:
            raise _DamagedError
        if undefined and (header.tag == PIXEL_DATA or header.vr not in {b"SQ", b"UN", None}):
            return self._fragments(header, end, encoding, extended)
        vr = header.vr or dictionary_vr(header.tag).encode()
        if undefined or vr == b"SQ":
            growth, after = self._sequence(header, stop, content_encoding(vr, encoding), depth=depth)
            if growth and not undefined:
                growth += self._set_length(header, header.length + growth)
            return growth, after if undefined else stop
        return self._in_un(header, encoding, depth) or self._pad(header, vr), stop

    def _in_un(self, header: _Header, encoding: Encoding, depth: int) -> int:
        """Pad inside a UN of odd length whose tag shows a sequence (PS3.5 6.2.2); 0: it holds none."""
        if header.vr != b"UN" or not header.length % 2 or dictionary_vr(header.tag) != "SQ":
            return 0
        edited, padded = len(self.edits), len(self.padded)
        with suppress(Permanent, struct.error):
            inner = content_encoding(b"UN", encoding)
            growth, _ = self._sequence(header, header.end, inner, depth=depth)
            if growth % 2:
                return growth + self._set_length(header, header.length + growth)
        del self.edits[edited:], self.padded[padded:]
        return 0

    def _sequence(self, header: _Header, end: int, encoding: Encoding, *, depth: int) -> tuple[int, int]:
        growth, at = 0, header.value
        while at < end:
            item = self._header(at, end, encoding)
            if item.tag == SEQUENCE_END and header.length == UNDEFINED:
                return growth, item.value
            undefined = item.length == UNDEFINED
            stop = end if undefined else item.end
            if item.tag != ITEM or stop > end:
                raise _DamagedError
            more, at = self.data_set(item.value, stop, encoding, depth=depth + 1, item=undefined)
            if more and not undefined:
                self._set_length(item, item.length + more)
            growth += more
        if header.length == UNDEFINED:
            raise _DamagedError
        return growth, at

    def _fragments(
        self, header: _Header, end: int, encoding: Encoding, extended: _Header | None
    ) -> tuple[int, int]:
        """Encapsulated pixel data (PS3.5 A.4); old files may lack its delimiter."""
        growth, at = 0, header.value
        table: _Header | None = None  # the Basic Offset Table is the first item
        moved: dict[int, int] = {}  # where a fragment begins, after the table: as received, as sent
        first = 0
        while at < end:
            item = self._header(at, end, encoding)
            if item.tag == SEQUENCE_END:
                at = item.value
                break
            if item.tag != ITEM or item.end > end:
                raise _DamagedError
            if table is None:
                table, first = item, item.end
            else:
                moved[item.at - first] = item.at - first + growth
            growth += self._pad(item, b"OB", header.tag)
            at = item.end
        if growth:
            self._correct_offsets(table, "I", moved)
            self._correct_offsets(extended, "Q", moved)
        return growth, at

    def _correct_offsets(self, table: _Header | None, code: str, moved: dict[int, int]) -> None:
        """Correct a table of offsets, unless it is wrong as received."""
        if table is None or not table.length or table.length % struct.calcsize("<" + code):
            return
        offsets = self._unpack(table, f"{table.length // struct.calcsize('<' + code)}{code}")
        if all(offset in moved for offset in offsets):
            corrected = [moved[offset] for offset in offsets]
            self._replace(table, table.value, table.length, f"{len(corrected)}{code}", *corrected)

    def _pad(self, header: _Header, vr: bytes, tag: int | None = None) -> int:
        if header.length % 2 == 0:
            return 0
        self.padded.append(header.tag if tag is None else tag)
        self.edits.append(Edit(header.end, 0, padding(vr)))
        return 1 + self._set_length(header, header.length + 1)

    def _set_length(self, header: _Header, length: int) -> int:
        """Change a length; by how much its header grows."""
        if header.vr is None or header.value - header.at == 12:
            self._replace(header, header.value - 4, 4, "I", length)
        elif length <= _MAX_SHORT_LENGTH:
            self._replace(header, header.value - 2, 2, "H", length)
        else:  # too long for its VR: it becomes UN (PS3.5 6.2.2)
            self._replace(header, header.at + 4, 4, "2s2xI", b"UN", length)
            return 4
        return 0

    def _header(self, at: int, end: int, encoding: Encoding) -> _Header:
        self._left -= 1
        if self._left < 0:
            raise _DamagedError
        self._file.seek(at)
        tag, vr, size, length = read_header(self._file.read(12), 0, end - at, encoding)
        return _Header(tag, vr, encoding.order, at, at + size, length)

    def _unpack(self, header: _Header, layout: str) -> tuple[int, ...]:
        """The value of an element, as numbers."""
        self._file.seek(header.value)
        layout = header.order + layout
        return struct.unpack(layout, self._file.read(struct.calcsize(layout)))

    def _replace(self, header: _Header, at: int, removed: int, layout: str, *values: int | bytes) -> None:
        self.edits.append(Edit(at, removed, struct.pack(header.order + layout, *values)))
