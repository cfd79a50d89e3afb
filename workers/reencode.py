"""A data set from one encoding to another, element by element, from disk to disk.

Values are never decoded: text keeps its bytes and character set, numbers at most their byte order. Elements
that are the same in both encodings are copied as they stand. Group lengths, retired and stale after any
change, are left out (PS3.5 7.2).
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import BinaryIO

import numpy as np
from pydicom.datadict import dictionary_VR

from dicomferry.errors import Permanent
from workers import attributes
from workers.elements import (
    IMPLICIT,
    ITEM,
    ITEM_END,
    LONG_VRS,
    PIXEL_DATA,
    SEQUENCE_END,
    SHORT_VRS,
    UNDEFINED,
    Bytes,
    Element,
    Encoding,
    content_encoding,
    elements,
    items,
    name,
)

_CHUNK = 1 << 20
_IN_MEMORY = 8 << 20  # a sequence up to this size is written to memory first: its length stands before it
_DEEPEST = 100
_PIXEL_DATA_TAG = struct.pack("<HH", PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF)
_UN = b"UN"
_SQ = b"SQ"
_BINARY = frozenset((b"OB", b"OW", b"OL", b"OV", b"OF", b"OD"))
_SWAPPED = {
    **dict.fromkeys((b"US", b"SS", b"OW", b"AT"), 2),
    **dict.fromkeys((b"UL", b"SL", b"FL", b"OL", b"OF"), 4),
    **dict.fromkeys((b"UV", b"SV", b"FD", b"OV", b"OD"), 8),
}


@dataclass(frozen=True, slots=True)
class Source:
    """An encoded data set: `view` for headers and small values, `descriptor` to read large ones."""

    view: Bytes
    descriptor: int

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, without making them part of our memory for longer."""
        parts = []
        while start < stop:
            part = os.pread(self.descriptor, stop - start, start)
            if not part:
                raise Permanent("the file ends before its data set: it is truncated")
            parts.append(part)
            start += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """The same, in pieces of even length."""
        for at in range(start, stop, _CHUNK):
            yield self.read(at, min(at + _CHUNK, stop))


@dataclass(frozen=True, slots=True)
class Native:
    """Native pixel data in place of encapsulated pixel data, and the attributes that it changes."""

    vr: bytes
    length: int
    frames: Iterator[bytes]
    changes: Mapping[int, tuple[bytes, bytes]]  # VR and value by tag


Decode = Callable[[Element, Mapping[int, bytes]], Native]


class Reencoder:
    """Writes the data sets of one source in another encoding, Little Endian.

    `decode` makes encapsulated pixel data native, given its element and the attributes around it; None where
    the source's transfer syntax has no encapsulated pixel data.
    """

    def __init__(self, source: Source, target: Encoding, decode: Decode | None) -> None:
        self._source = source
        self._target = target
        self._decode = decode

    def write(self, out: BinaryIO, start: int, end: int, encoding: Encoding) -> None:
        """Write the data set that stands from `start` to `end`.

        Raises:
            Permanent: it is damaged.
        """
        self._dataset(out, start, end, encoding, self._target, signed=False, depth=0)

    def _dataset(
        self,
        out: BinaryIO,
        start: int,
        end: int,
        encoding: Encoding,
        target: Encoding,
        *,
        signed: bool,
        depth: int,
    ) -> None:
        if depth > _DEEPEST:
            raise Permanent(f"sequences are nested more than {_DEEPEST} deep")
        # A group length has the element number 0.
        listed = [e for e in elements(self._source.view, start, end, encoding) if e.tag & 0xFFFF]
        values = self._values(listed)
        if representation := values.get(attributes.REPRESENTATION):
            signed = representation[:2] != b"\x00\x00"
        native = self._native(listed, values, depth)
        changes = dict(native.changes) if native else {}
        missing = sorted(changes.keys() - {e.tag for e in listed})
        begin = stop = start  # a stretch that is the same in both, to be copied at once
        for element in listed:
            before = bool(missing) and missing[0] < element.tag
            if encoding == target and not before and not self._differs(element, native):
                if element.start != stop:
                    self._copy(out, begin, stop)
                    begin = element.start
                stop = element.end
                continue
            self._copy(out, begin, stop)
            begin = stop = element.end
            while missing and missing[0] < element.tag:
                tag = missing.pop(0)
                self._small(out, tag, *changes[tag], target)
            if native and element.tag in attributes.ONLY_ENCAPSULATED:
                continue
            if element.tag in changes:
                self._small(out, element.tag, *changes[element.tag], target)
            elif native and element.tag == PIXEL_DATA:
                out.write(_header(PIXEL_DATA, native.vr, native.length, target))
                out.writelines(native.frames)
            else:
                self._element(out, element, encoding, target, signed=signed, depth=depth)
        self._copy(out, begin, stop)

    def _differs(self, element: Element, native: Native | None) -> bool:
        """Whether decoding changes the element, where its encoding stays."""
        if native and (
            element.tag in native.changes
            or element.tag in attributes.ONLY_ENCAPSULATED
            or element.tag == PIXEL_DATA
        ):
            return True
        return self._holds_pixel_data(element)

    def _values(self, listed: list[Element]) -> dict[int, bytes]:
        return {
            e.tag: bytes(self._source.view[e.value : min(e.stop, e.value + 64)])
            for e in listed
            if e.tag in attributes.DESCRIBING and not e.undefined
        }

    def _native(self, listed: list[Element], values: Mapping[int, bytes], depth: int) -> Native | None:
        pixel_data = next((e for e in listed if e.tag == PIXEL_DATA), None)
        if pixel_data is None:
            return None
        if not pixel_data.undefined:
            if self._decode is not None and depth == 0:
                raise Permanent(
                    "pixel data is not in fragments though the syntax is a compressed one (PS3.5 A.4)"
                )
            return None  # an icon's may be native in any syntax
        if self._decode is None:
            raise Permanent(
                "pixel data is in fragments though the transfer syntax is a native one (PS3.5 A.4)"
            )
        return self._decode(pixel_data, values)

    def _small(self, out: BinaryIO, tag: int, vr: bytes, value: bytes, target: Encoding) -> None:
        out.write(_header(tag, vr, len(value), target) + value)

    def _element(
        self,
        out: BinaryIO,
        element: Element,
        encoding: Encoding,
        target: Encoding,
        *,
        signed: bool,
        depth: int,
    ) -> None:
        vr = element.vr or _vr(element.tag, element.length, signed)
        if vr == _SQ or (element.undefined and vr not in _BINARY):
            vr = vr if vr == _SQ else _UN
            self._sequence(out, element, vr, encoding, target, signed=signed, depth=depth)
            return
        if element.undefined:
            if encoding.big:
                raise Permanent(f"{name(element.tag)} is in fragments and big endian: no encoding has both")
            out.write(_header(element.tag, vr, UNDEFINED, target))
            self._copy(out, element.value, element.end)
            return
        long_form = vr not in SHORT_VRS and (element.vr is None or element.value - element.start == 12)
        out.write(_header(element.tag, vr, element.length, target, long_form=long_form))
        width = _SWAPPED.get(vr, 1) if encoding.big else 1
        self._copy(out, element.value, element.stop, width)

    def _holds_pixel_data(self, element: Element) -> bool:
        """Whether fragments may stand inside: an icon's, for example."""
        if self._decode is None or not (element.undefined or element.vr == _SQ):
            return False
        return self._source.view.find(_PIXEL_DATA_TAG, element.value, element.stop) >= 0

    def _sequence(
        self,
        out: BinaryIO,
        element: Element,
        vr: bytes,
        encoding: Encoding,
        target: Encoding,
        *,
        signed: bool,
        depth: int,
    ) -> None:
        inner = content_encoding(element.vr, encoding)
        inner_target = content_encoding(vr, target)
        in_memory = element.length <= _IN_MEMORY and not self._holds_pixel_data(element)
        sink: BinaryIO = BytesIO() if in_memory else out
        with _Measured(sink, _header(element.tag, vr, UNDEFINED, target), SEQUENCE_END, element.undefined):
            for item in items(self._source.view, element, inner):
                with _Measured(sink, _header(ITEM, None, UNDEFINED, target), ITEM_END, item.undefined):
                    self._dataset(
                        sink, item.value, item.stop, inner, inner_target, signed=signed, depth=depth + 1
                    )
        if isinstance(sink, BytesIO) and sink is not out:
            out.write(sink.getbuffer())

    def _copy(self, out: BinaryIO, start: int, stop: int, width: int = 1) -> None:
        """Copy bytes, in the other byte order if a word has more than one."""
        if width == 1:
            out.writelines(self._source.chunks(start, stop))
            return
        if (stop - start) % width:
            raise Permanent(f"a value of {stop - start} bytes has no whole words of {width}: it is damaged")
        out.writelines(
            np.frombuffer(chunk, f"u{width}").byteswap().tobytes()
            for chunk in self._source.chunks(start, stop)
        )


class _Measured:
    """What is written inside of it gets its length, or its delimiter where the length is undefined."""

    def __init__(self, out: BinaryIO, header: bytes, delimiter: int, undefined: bool) -> None:
        self._out = out
        self._delimiter = delimiter
        self._undefined = undefined
        out.write(header)
        self._start = out.tell()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        if self._undefined:
            self._out.write(_header(self._delimiter, None, 0, IMPLICIT))
            return
        end = self._out.tell()
        if end - self._start >= UNDEFINED:
            raise Permanent("a sequence outgrows the 32 bits of its length")
        self._out.seek(self._start - 4)
        self._out.write(struct.pack("<I", end - self._start))
        self._out.seek(end)


def _header(tag: int, vr: bytes | None, length: int, target: Encoding, *, long_form: bool = False) -> bytes:
    """Tag, VR and length of an element, little endian; one too long for its VR becomes UN (PS3.5 6.2.2)."""
    group, number = tag >> 16, tag & 0xFFFF
    if vr is None or not target.explicit:
        return struct.pack("<HHI", group, number, length)
    if vr in LONG_VRS or long_form:
        return struct.pack("<HH2sHI", group, number, vr, 0, length)
    if length > 0xFFFF:
        return struct.pack("<HH2sHI", group, number, _UN, 0, length)
    return struct.pack("<HH2sH", group, number, vr, length)


def _vr(tag: int, length: int, signed: bool) -> bytes:
    """The VR of an element that came without one (PS3.5 6.2.2; PS3.6 for those with a choice)."""
    choice = _dictionary_vr(tag)
    if len(choice) == 2:
        return choice.encode("ascii")
    if choice == "OB or OW":
        return b"OW"  # PS3.5 A.1: that is what it was in Implicit VR
    if "OW" in choice and length > 2:
        return b"OW"  # LUT data
    return b"SS" if signed and "SS" in choice else b"US"


@lru_cache(maxsize=4096)
def _dictionary_vr(tag: int) -> str:
    if tag >> 16 & 1:
        # A private creator reserves a block (PS3.5 7.8.1); what is in the block nobody but its owner knows.
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    try:
        vr: str = dictionary_VR(tag)
    except KeyError:
        return "UN"
    return vr if vr != "NONE" else "UN"
