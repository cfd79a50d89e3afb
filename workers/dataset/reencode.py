"""A data set from one encoding to another, element by element, from disk to disk.

Values are never decoded: text keeps its bytes and character set, numbers at most their byte order. Elements
that are the same in both encodings are copied as they stand. Group lengths, retired and stale after any
change, are left out (PS3.5 7.2).
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from itertools import islice
from typing import BinaryIO

import numpy as np

from dicomferry.ceilings import Ceilings
from dicomferry.errors import Permanent
from workers.dataset import attributes, lossy, overlays
from workers.dataset.attributes import LONGEST_READ
from workers.dataset.elements import (
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
from workers.dataset.encapsulate import Stored

_CHUNK = 1 << 20
_IN_MEMORY = 8 << 20  # a sequence up to this size is written to memory first: its length stands before it
_DEEPEST = 100
_PIXEL_DATA_TAG = struct.pack("<HH", PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF)
DESCRIBING = attributes.DESCRIBING | overlays.DESCRIBING | lossy.DESCRIBING
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
class Around:
    """A data set (or an item of a sequence) with pixel data, as `replace` sees it."""

    elements: Mapping[int, Element]  # by tag
    values: Mapping[int, bytes]  # of those that describe the image, in little endian
    nested: bool  # inside a sequence: an icon


@dataclass(frozen=True, slots=True)
class Replacement:
    """Pixel data in another form, and what changes with it; without `content` they stay.

    `content` is already in the target's byte order; values of `changes` are little endian. `appended` are
    items in Explicit VR Little Endian, added to the sequence of that tag. `within` is asked for what changes
    in the items that stand in the sequence of that tag.
    """

    vr: bytes = b""
    length: int = 0  # UNDEFINED for fragments
    content: Iterable[bytes | memoryview] | None = None
    changes: Mapping[int, tuple[bytes, bytes | Stored]] = field(default_factory=dict)  # VR and value by tag
    removed: frozenset[int] = frozenset()
    appended: Mapping[int, bytes] = field(default_factory=dict)
    within: Mapping[int, "Replace"] = field(default_factory=dict)

    def touches(self, tag: int) -> bool:
        """Whether an element of that tag does not stay as it is."""
        if tag == PIXEL_DATA:
            return self.content is not None
        return tag in self.changes or tag in self.removed or tag in self.appended


Replace = Callable[[Around], Replacement | None]


class Reencoder:
    """Writes the data sets of one source in another encoding.

    `replace` is asked for the outermost data set, and for every other one that has pixel data and is looked
    into; None from it lets the pixel data be. `icons` says that sequences are searched for pixel data.
    """

    def __init__(
        self, source: Source, target: Encoding, replace: Replace, *, icons: bool, ceilings: Ceilings
    ) -> None:
        self._source = source
        self._ceilings = ceilings
        self._target = target
        self._replace = replace
        self._icons = icons

    def write(self, out: BinaryIO, start: int, end: int, encoding: Encoding) -> None:
        """Write the data set that stands from `start` to `end`.

        Raises:
            Permanent: it is damaged.
        """
        self._dataset(out, start, end, encoding, self._target, signed=False, depth=0, replace=self._replace)

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
        replace: Replace | None,
    ) -> None:
        if depth > _DEEPEST:
            raise Permanent(f"sequences are nested more than {_DEEPEST} deep")
        listed = self._listed(start, end, encoding)
        values = self._values(listed, encoding)
        if representation := values.get(attributes.REPRESENTATION):
            signed = representation[:2] != b"\x00\x00"
        around = Around({element.tag: element for element in listed}, values, nested=depth > 0)
        replace = replace or (self._replace if PIXEL_DATA in around.elements else None)
        replacement = replace(around) if replace else None
        missing = _missing(replacement, listed)
        begin = stop = start  # a stretch that is the same in both, to be copied at once
        for element in listed:
            before = bool(missing) and missing[0] < element.tag
            if encoding == target and not before and not self._differs(element, replacement):
                if element.start != stop:
                    self._copy(out, begin, stop)
                    begin = element.start
                stop = element.end
                continue
            self._copy(out, begin, stop)
            begin = stop = element.end
            while replacement and missing and missing[0] < element.tag:
                self._changed(out, missing.pop(0), replacement, target)
            if replacement is None or not replacement.touches(element.tag):
                within = replacement.within if replacement else {}
                asked = within.get(element.tag)
                self._element(out, element, encoding, target, signed=signed, depth=depth, replace=asked)
            elif element.tag in replacement.appended:
                more = replacement.appended[element.tag]
                self._sequence(out, element, _SQ, encoding, target, signed=signed, depth=depth, more=more)
            elif element.tag not in replacement.removed:
                self._changed(out, element.tag, replacement, target)
        self._copy(out, begin, stop)

    def _listed(self, start: int, end: int, encoding: Encoding) -> list[Element]:
        """The elements, group lengths (element number 0) left out."""
        most = self._ceilings.most_elements
        found = list(islice(elements(self._source.view, start, end, encoding), most + 1))
        if len(found) > most:
            raise Permanent(self._ceilings.refusal("a data set has too many elements", "most_elements"))
        return [element for element in found if element.tag & 0xFFFF]

    def _differs(self, element: Element, replacement: Replacement | None) -> bool:
        """Whether the element changes where its encoding stays."""
        if replacement is not None and replacement.touches(element.tag):
            return True
        if replacement is not None and element.tag in replacement.within:
            return element.undefined or element.vr == _SQ
        return self._holds_icon(element)

    def _values(self, listed: list[Element], encoding: Encoding) -> dict[int, bytes]:
        found = {}
        for element in listed:
            if element.tag in DESCRIBING and not element.undefined:
                value = self._source.view[element.value : min(element.stop, element.value + LONGEST_READ)]
                width = _SWAPPED.get(element.vr or b"", 1) if encoding.big else 1
                if width > 1:
                    value = (
                        np.frombuffer(value[: len(value) // width * width], f"u{width}").byteswap().tobytes()
                    )
                found[element.tag] = bytes(value)
        return found

    def _changed(self, out: BinaryIO, tag: int, replacement: Replacement, target: Encoding) -> None:
        """Write an element as the replacement has it."""
        if tag == PIXEL_DATA:
            out.write(_header(tag, replacement.vr, replacement.length, target))
            out.writelines(replacement.content or ())
        elif tag in replacement.appended:
            items = replacement.appended[tag]
            out.write(_header(tag, _SQ, len(items), target) + items)
        else:
            vr, value = replacement.changes[tag]
            width = _SWAPPED.get(vr, 1) if target.big else 1
            length = value.length if isinstance(value, Stored) else len(value)
            out.write(_header(tag, vr, length, target))
            chunks = value.chunks() if isinstance(value, Stored) else (value,)
            out.writelines(_in_order(chunk, width) for chunk in chunks)

    def _element(
        self,
        out: BinaryIO,
        element: Element,
        encoding: Encoding,
        target: Encoding,
        *,
        signed: bool,
        depth: int,
        replace: Replace | None,
    ) -> None:
        vr = element.vr or _vr(element.tag, element.length, signed)
        if vr == _SQ or (element.undefined and vr not in _BINARY):
            vr = vr if vr == _SQ else _UN
            self._sequence(out, element, vr, encoding, target, signed=signed, depth=depth, replace=replace)
            return
        if element.undefined:
            if encoding.big or target.big:
                raise Permanent(f"{name(element.tag)} is in fragments and big endian: no encoding has both")
            out.write(_header(element.tag, vr, UNDEFINED, target))
            self._copy(out, element.value, element.end)
            return
        long_form = vr not in SHORT_VRS and (element.vr is None or element.value - element.start == 12)
        out.write(_header(element.tag, vr, element.length, target, long_form=long_form))
        width = _SWAPPED.get(vr, 1) if encoding.big != target.big else 1
        self._copy(out, element.value, element.stop, width)

    def _holds_icon(self, element: Element) -> bool:
        """Whether fragments that are to be replaced may stand inside."""
        if not self._icons or not (element.undefined or element.vr == _SQ):
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
        replace: Replace | None = None,
        more: bytes = b"",
    ) -> None:
        """Write a sequence, `more` items at its end; `replace` is asked for those that are there."""
        inner = content_encoding(element.vr, encoding)
        inner_target = content_encoding(vr, target)
        in_memory = element.length <= _IN_MEMORY and not self._holds_icon(element)
        sink: BinaryIO = BytesIO() if in_memory else out
        # In Big Endian nobody agrees on the byte order of a delimiter behind little endian items.
        undefined = element.undefined and not (vr == _UN and target.big)
        with _Measured(sink, _header(element.tag, vr, UNDEFINED, target), SEQUENCE_END, target, undefined):
            for item in items(self._source.view, element, inner):
                with _Measured(
                    sink, _header(ITEM, None, UNDEFINED, inner_target), ITEM_END, inner_target, item.undefined
                ):
                    self._dataset(
                        sink,
                        item.value,
                        item.stop,
                        inner,
                        inner_target,
                        signed=signed,
                        depth=depth + 1,
                        replace=replace,
                    )
            sink.write(more)
        if isinstance(sink, BytesIO) and sink is not out:
            out.write(sink.getbuffer())

    def _copy(self, out: BinaryIO, start: int, stop: int, width: int = 1) -> None:
        """Copy bytes, in the other byte order if a word has more than one."""
        if width == 1:
            out.writelines(self._source.chunks(start, stop))
            return
        if (stop - start) % width:
            raise Permanent(f"a value of {stop - start} bytes has no whole words of {width}: it is damaged")
        out.writelines(_in_order(chunk, width) for chunk in self._source.chunks(start, stop))


class _Measured:
    """What is written inside of it gets its length, or its delimiter where the length is undefined."""

    def __init__(
        self, out: BinaryIO, header: bytes, delimiter: int, target: Encoding, undefined: bool
    ) -> None:
        self._out = out
        self._target = target
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
            self._out.write(_header(self._delimiter, None, 0, self._target))
            return
        end = self._out.tell()
        if end - self._start >= UNDEFINED:
            raise Permanent("a sequence outgrows the 32 bits of its length")
        self._out.seek(self._start - 4)
        self._out.write(struct.pack(self._target.order + "I", end - self._start))
        self._out.seek(end)


def _header(tag: int, vr: bytes | None, length: int, target: Encoding, *, long_form: bool = False) -> bytes:
    """Tag, VR and length of an element; one too long for its VR becomes UN (PS3.5 6.2.2)."""
    group, number, order = tag >> 16, tag & 0xFFFF, target.order
    if vr is None or not target.explicit:
        return struct.pack(order + "HHI", group, number, length)
    if vr in LONG_VRS or long_form:
        return struct.pack(order + "HH2sHI", group, number, vr, 0, length)
    if length > 0xFFFF:
        return struct.pack(order + "HH2sHI", group, number, _UN, 0, length)
    return struct.pack(order + "HH2sH", group, number, vr, length)


def _in_order(content: bytes, width: int) -> bytes:
    """Whole words of `width` bytes in the other byte order."""
    return content if width == 1 else np.frombuffer(content, f"u{width}").byteswap().tobytes()


def _missing(replacement: Replacement | None, listed: list[Element]) -> list[int]:
    """Tags of the elements that a replacement adds, in order."""
    if replacement is None:
        return []
    return sorted((replacement.changes.keys() | replacement.appended.keys()) - {e.tag for e in listed})


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
    # Not at the top: pydicom takes long to load, and files in Explicit VR need none of it.
    from pydicom.datadict import dictionary_VR  # noqa: PLC0415

    try:
        vr: str = dictionary_VR(tag)
    except KeyError:
        return "UN"
    return vr if vr != "NONE" else "UN"
