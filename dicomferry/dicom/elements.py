"""The structure of an encoded data set: where its elements are, without decoding their values.

Works on any bytes-like object, usually a memory-mapped file, and reads only headers. Errors name tags and
offsets, never values. (PS3.5 section 7)
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import MADV_DONTNEED, mmap
from typing import NamedTuple

from dicomferry.dicom.encoding import LONG_VRS, SHORT_VRS, UNDEFINED
from dicomferry.errors import Permanent

Bytes = bytes | mmap

ITEM = 0xFFFEE000
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010


_DELIMITERS = 0xFFFE  # group of items and delimiters
_HEADERS = {big: struct.Struct(">HH2sH" if big else "<HH2sH") for big in (False, True)}
MAX_DEPTH = 100  # deeper than any SR document; a hostile one must not exhaust the stack
_RELEASE_SHIFT = 25  # pages are released at every multiple of 32 MiB


@dataclass(frozen=True, slots=True)
class Encoding:
    """How data elements are encoded."""

    explicit: bool
    big: bool = False  # big endian

    @property
    def order(self) -> str:
        """The byte order, as `struct` spells it."""
        return ">" if self.big else "<"


IMPLICIT = Encoding(explicit=False)
EXPLICIT = Encoding(explicit=True)
EXPLICIT_BIG = Encoding(explicit=True, big=True)


class Element(NamedTuple):
    """The place of one data element or item; offsets count from the start of the file."""

    tag: int
    vr: bytes | None  # None where the encoding has none: implicit VR, items
    start: int  # of the tag
    value: int  # of the value
    stop: int  # of the value's end, delimiter left out
    end: int  # where the next element starts
    undefined: bool  # of undefined length

    @property
    def length(self) -> int:
        """Bytes of the value."""
        return self.stop - self.value


def name(tag: int) -> str:
    """The tag as text: (gggg,eeee)."""
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def content_encoding(vr: bytes | None, encoding: Encoding) -> Encoding:
    """The encoding of a sequence's items: Implicit VR in a UN (PS3.5 6.2.2)."""
    return IMPLICIT if vr == b"UN" else encoding


def elements(source: Bytes, start: int, end: int, encoding: Encoding, *, depth: int = 0) -> Iterator[Element]:
    """The elements from `start` to `end`, in order, without those inside sequences.

    Raises:
        Permanent: the data set is damaged.
    """
    at = start
    unpack = _HEADERS[encoding.big].unpack_from
    while at < end:
        # Most elements have this form: their cost is the cost of reading a data set.
        if encoding.explicit and end - at >= 8:
            group, number, vr, length = unpack(source, at)
            value = at + 8
            if vr in SHORT_VRS and length <= end - value and group != _DELIMITERS:
                at, stop = value + length, value + length
                yield Element(group << 16 | number, vr, value - 8, value, stop, stop, False)
                continue
        element = _element(source, at, end, encoding, depth)
        if element.tag in (ITEM, SEQUENCE_END):
            raise Permanent(f"stray {name(element.tag)} at offset {at}: the data set is damaged")
        if element.tag == ITEM_END and not depth:
            raise Permanent(f"stray {name(element.tag)} at offset {at}: the data set is damaged")
        yield element
        if element.tag == ITEM_END:
            return
        at = element.end


def headers(source: Bytes, start: int, end: int, encoding: Encoding) -> Iterator[tuple[int, int, int | None]]:
    """Tag, offset of the value and length (None: undefined) of each element, before its value is looked at.

    Raises:
        Permanent: the data set is damaged.
    """
    at = start
    while at < end:
        tag, _, value, length = read_header(source, at, end, encoding)
        yield tag, value, None if length == UNDEFINED else length
        at = value + length if length != UNDEFINED else _element(source, at, end, encoding, 0).end


def items(source: Bytes, sequence: Element, encoding: Encoding) -> Iterator[Element]:
    """The items of a sequence, or the fragments of encapsulated pixel data, which are items too.

    `encoding` is the encoding of the items' content.

    Raises:
        Permanent: the sequence is damaged.
    """
    at = sequence.value
    while at < sequence.stop:
        item = _item(source, at, sequence.stop, encoding, depth=0)
        if item.tag == SEQUENCE_END:
            return
        yield item
        at = item.end


def _element(source: Bytes, at: int, end: int, encoding: Encoding, depth: int) -> Element:
    tag, vr, value, length = read_header(source, at, end, encoding)
    if length == UNDEFINED:
        inner = content_encoding(vr, encoding)
        stop, after = _find_delimiter(source, value, end, inner, depth, lenient=tag == PIXEL_DATA)
        return Element(tag, vr, at, value, stop, after, undefined=True)
    if length > end - value:
        raise Permanent(
            f"{name(tag)} at offset {at} claims {length} bytes where {end - value} remain: "
            "the data set is truncated"
        )
    return Element(tag, vr, at, value, value + length, value + length, undefined=False)


def read_header(source: Bytes, at: int, end: int, encoding: Encoding) -> tuple[int, bytes | None, int, int]:
    """Tag, VR, offset of the value, and its length, of the element or item at `at`.

    Raises:
        Permanent: there is none, or it ends behind `end`.
    """
    if end - at < 8:
        raise Permanent(f"the data set ends inside an element, at offset {at}: it is truncated")
    order = encoding.order
    group, number, vr, length = _HEADERS[encoding.big].unpack_from(source, at)
    tag = group << 16 | number
    if not encoding.explicit or group == _DELIMITERS:
        return tag, None, at + 8, struct.unpack_from(order + "I", source, at + 4)[0]
    if vr in SHORT_VRS:
        return tag, vr, at + 8, length
    # PS3.5 6.2: an unknown VR has the long form; old private ones have the short form.
    if vr in LONG_VRS or (vr.isalpha() and vr.isupper() and not length):
        if end - at < 12:
            raise Permanent(f"the data set ends inside an element, at offset {at}: it is truncated")
        return tag, vr, at + 12, struct.unpack_from(order + "I", source, at + 8)[0]
    if vr.isalpha() and vr.isupper():
        return tag, vr, at + 8, length
    raise Permanent(f"{name(tag)} at offset {at} has no value representation: the data set is damaged")


def _find_delimiter(
    source: Bytes, at: int, end: int, encoding: Encoding, depth: int, *, lenient: bool
) -> tuple[int, int]:
    """Offsets of the end of a sequence of undefined length: without and with its delimiter."""
    while at < end:
        item = _item(source, at, end, encoding, depth)
        if item.tag == SEQUENCE_END:
            return at, item.end
        at = item.end
    if at == end and lenient:
        # Old files lack the delimiter after the last fragment. A missing frame is found by its own checks.
        return at, at
    raise Permanent(f"a sequence has no delimiter before offset {end}: the data set is truncated")


def _release_pages(source: Bytes, at: int, after: int) -> None:
    """Release the pages read so far, once every 32 MiB.

    The kernel may map two megabytes around each header that is read: in the end, all of a large object.
    """
    if isinstance(source, mmap) and at >> _RELEASE_SHIFT != after >> _RELEASE_SHIFT:
        source.madvise(MADV_DONTNEED)


def _item(source: Bytes, at: int, end: int, encoding: Encoding, depth: int) -> Element:
    if depth > MAX_DEPTH:
        raise Permanent(f"sequences are nested more than {MAX_DEPTH} deep")
    tag, _, value, length = read_header(source, at, end, encoding)
    if tag == SEQUENCE_END:
        return Element(tag, None, at, value, value, value, undefined=False)
    if tag != ITEM:
        raise Permanent(f"{name(tag)} at offset {at} where an item should be: the data set is damaged")
    if length != UNDEFINED:
        if length > end - value:
            raise Permanent(
                f"an item at offset {at} claims more bytes than remain: the data set is truncated"
            )
        _release_pages(source, at, value + length)
        return Element(tag, None, at, value, value + length, value + length, undefined=False)
    for element in elements(source, value, end, encoding, depth=depth + 1):
        if element.tag == ITEM_END:
            return Element(tag, None, at, value, element.start, element.end, undefined=True)
    raise Permanent(f"an item at offset {at} has no delimiter: the data set is truncated")
