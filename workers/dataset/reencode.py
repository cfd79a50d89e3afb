"""Writes a data set in another encoding, element by element, from disk to disk.

Values are never decoded: text keeps its bytes and character set; of numbers at most the byte order changes.
Elements that are equal in both encodings are copied as they are. Group lengths, retired and wrong after any
change, are left out (PS3.5 7.2).
"""

import struct
from collections.abc import Callable
from io import BytesIO
from itertools import islice
from typing import BinaryIO

import numpy as np

from dicomferry.ceilings import Ceilings
from dicomferry.dicom.elements import (
    ITEM,
    ITEM_END,
    MAX_DEPTH,
    PIXEL_DATA,
    SEQUENCE_END,
    Element,
    Encoding,
    content_encoding,
    elements,
    items,
    name,
)
from dicomferry.dicom.encoding import SHORT_VRS, STRAY_GROUPS, UNDEFINED, dictionary_vr, padding
from dicomferry.errors import Permanent
from workers.dataset import attributes, lossy, overlays
from workers.dataset.attributes import LONGEST_READ
from workers.dataset.replacement import PixelContext, Replacement, Replacer
from workers.dataset.scratch import ScratchFile
from workers.dataset.source import Source
from workers.dataset.writing import SQ, UN, WORD_SIZES, Container, byte_swapped, header, vr_of

_IN_MEMORY = 8 << 20  # a sequence up to this size is written to memory first: its length stands before it
_ICONS = 0x00880200  # Icon Image Sequence
_PIXEL_DATA_TAG = struct.pack("<HH", PIXEL_DATA >> 16, PIXEL_DATA & 0xFFFF)
DESCRIBING = attributes.DESCRIBING | overlays.DESCRIBING | lossy.DESCRIBING
_BINARY = frozenset((b"OB", b"OW", b"OL", b"OV", b"OF", b"OD"))


class Reencoder:
    """Writes the data sets of one source in another encoding.

    `replace` is called for the outermost data set, and for every item with pixel data that is visited; where
    it returns None, nothing is replaced. With `icons` every sequence that contains pixel data is visited.
    `note` is told what is left out.
    """

    def __init__(
        self,
        source: Source,
        target: Encoding,
        replace: Replacer,
        *,
        icons: bool,
        ceilings: Ceilings,
        note: Callable[[str], None],
    ) -> None:
        self._source = source
        self._ceilings = ceilings
        self._target = target
        self._replace = replace
        self._icons = icons
        self._note = note

    def write(self, out: BinaryIO, start: int, end: int, encoding: Encoding) -> None:
        """Write the data set from `start` to `end`.

        Raises:
            Permanent: it is damaged.
        """
        self._write_dataset(
            out, start, end, encoding, self._target, signed=False, depth=0, replace=self._replace
        )

    def _write_dataset(
        self,
        out: BinaryIO,
        start: int,
        end: int,
        encoding: Encoding,
        target: Encoding,
        *,
        signed: bool,
        depth: int,
        replace: Replacer | None,
    ) -> None:
        if depth > MAX_DEPTH:
            raise Permanent(f"sequences are nested more than {MAX_DEPTH} deep")
        listed = self._list_elements(start, end, encoding)
        values = self._read_values(listed, encoding)
        if representation := values.get(attributes.REPRESENTATION):
            signed = representation[:2] != b"\x00\x00"
        context = PixelContext({element.tag: element for element in listed}, values, nested=depth > 0)
        replace = replace or (self._replace if PIXEL_DATA in context.elements else None)
        replacement = replace(context) if replace else None
        added = _added_tags(replacement, listed)
        begin = stop = start  # elements that are equal in both encodings and are copied together
        for element in listed:
            insert = bool(added) and added[0] < element.tag
            if encoding == target and not insert and not self._differs(element, replacement, encoding):
                if element.start != stop:
                    self._copy(out, begin, stop)
                    begin = element.start
                stop = element.end
                continue
            self._copy(out, begin, stop)
            begin = stop = element.end
            while replacement and added and added[0] < element.tag:
                self._write_changed(out, added.pop(0), replacement, target)
            if replacement is None or not replacement.touches(element.tag):
                replacers = replacement.item_replacers if replacement else {}
                of_items = replacers.get(element.tag)
                self._write_element(
                    out, element, encoding, target, signed=signed, depth=depth, replace=of_items
                )
            elif element.tag in replacement.appended:
                more = replacement.appended[element.tag]
                self._write_sequence(
                    out, element, SQ, encoding, target, signed=signed, depth=depth, more=more
                )
            elif element.tag not in replacement.removed:
                self._write_changed(out, element.tag, replacement, target)
        self._copy(out, begin, stop)

    def _list_elements(self, start: int, end: int, encoding: Encoding) -> list[Element]:
        """The elements, without group lengths (element number 0) and groups that no data set has."""
        most = self._ceilings.most_elements
        found = list(islice(elements(self._source.view, start, end, encoding), most + 1))
        if len(found) > most:
            raise Permanent(self._ceilings.refusal("a data set has too many elements", "most_elements"))
        if any(e.tag >> 16 in STRAY_GROUPS for e in found):
            self._note("elements of group 0000 or 0002 were left out")
        if sum(e.tag == PIXEL_DATA for e in found) > 1:
            raise Permanent(
                "Pixel Data stands twice in one data set (PS3.5 7.1): nobody can tell which counts"
            )
        return [e for e in found if e.tag & 0xFFFF and e.tag >> 16 not in STRAY_GROUPS]

    def _differs(self, element: Element, replacement: Replacement | None, encoding: Encoding) -> bool:
        """Whether the element changes although the encoding does not."""
        if replacement is not None and replacement.touches(element.tag):
            return True
        if replacement is not None and element.tag in replacement.item_replacers:
            return element.undefined or element.vr == SQ
        return self._may_contain_icon(element) or self._is_odd(element, encoding)

    def _is_odd(self, element: Element, encoding: Encoding, depth: int = 0) -> bool:
        """Whether the element, or one inside it, has an odd length, which none may have (PS3.5 7.1.1)."""
        if depth > MAX_DEPTH:
            raise Permanent(f"sequences are nested more than {MAX_DEPTH} deep")
        if not _is_sequence(element):
            odd = not element.undefined and element.length % 2 == 1
            return odd or self._has_odd_in_un(element, encoding, depth)
        return self._has_odd(element, encoding, depth)

    def _has_odd(self, element: Element, encoding: Encoding, depth: int) -> bool:
        """The same of what is inside a sequence."""
        inner = content_encoding(element.vr, encoding)
        return any(
            self._is_odd(nested, inner, depth + 1)
            for item in items(self._source.view, element, inner)
            for nested in elements(self._source.view, item.value, item.stop, inner)
        )

    def _has_odd_in_un(self, element: Element, encoding: Encoding, depth: int) -> bool:
        """The same of a sequence in a UN of defined length (PS3.5 6.2.2), whose tag shows what it is."""
        if element.vr != UN or element.undefined or dictionary_vr(element.tag) != "SQ":
            return False
        try:
            return self._has_odd(element, encoding, depth)
        except Permanent:  # it is no sequence, whatever its tag
            return False

    def _read_values(self, listed: list[Element], encoding: Encoding) -> dict[int, bytes]:
        found = {}
        for element in listed:
            if element.tag in DESCRIBING and not element.undefined:
                value = self._source.view[element.value : min(element.stop, element.value + LONGEST_READ)]
                width = WORD_SIZES.get(element.vr or b"", 1) if encoding.big else 1
                if width > 1:
                    value = (
                        np.frombuffer(value[: len(value) // width * width], f"u{width}").byteswap().tobytes()
                    )
                found[element.tag] = bytes(value)
        return found

    def _write_changed(self, out: BinaryIO, tag: int, replacement: Replacement, target: Encoding) -> None:
        """Write an element from the replacement."""
        if tag == PIXEL_DATA:
            out.write(header(tag, replacement.vr, replacement.length, target))
            out.writelines(replacement.content or ())
        elif tag in replacement.appended:
            items = replacement.appended[tag]
            out.write(header(tag, SQ, len(items), target) + items)
        else:
            vr, value = replacement.changes[tag]
            width = WORD_SIZES.get(vr, 1) if target.big else 1
            length = value.length if isinstance(value, ScratchFile) else len(value)
            out.write(header(tag, vr, length, target))
            chunks = value.chunks() if isinstance(value, ScratchFile) else (value,)
            out.writelines(byte_swapped(chunk, width) for chunk in chunks)

    def _write_element(
        self,
        out: BinaryIO,
        element: Element,
        encoding: Encoding,
        target: Encoding,
        *,
        signed: bool,
        depth: int,
        replace: Replacer | None,
    ) -> None:
        vr = element.vr or vr_of(element.tag, element.length, signed)
        if vr == SQ or (element.undefined and vr not in _BINARY):
            vr = vr if vr == SQ else UN
            begin = out.tell()
            try:
                self._write_sequence(
                    out, element, vr, encoding, target, signed=signed, depth=depth, replace=replace
                )
            except Permanent as error:
                if element.tag != _ICONS or not self._icons:
                    raise
                out.seek(begin)
                out.truncate()
                self._note(f"the icon in {name(_ICONS)} was left out: {error}")
            return
        if self._wrote_un(out, element, encoding, target, signed=signed, depth=depth):
            return
        if element.undefined:
            if encoding.big or target.big:
                raise Permanent(f"{name(element.tag)} is in fragments and big endian: no encoding has both")
            out.write(header(element.tag, vr, UNDEFINED, target))
            self._copy(out, element.value, element.end)
            return
        long_form = vr not in SHORT_VRS and (element.vr is None or element.value - element.start == 12)
        odd = element.length % 2
        out.write(header(element.tag, vr, element.length + odd, target, long_form=long_form))
        width = WORD_SIZES.get(vr, 1) if encoding.big != target.big else 1
        # Cells of one byte in words, and the last word is not full.
        half = odd if vr == b"OW" and target.big and not encoding.big else 0
        self._copy(out, element.value, element.stop - half, width)
        if half:
            out.write(b"\x00" + self._source.read(element.stop - 1, element.stop))
        elif odd:
            out.write(padding(vr))

    def _wrote_un(
        self,
        out: BinaryIO,
        element: Element,
        encoding: Encoding,
        target: Encoding,
        *,
        signed: bool,
        depth: int,
    ) -> bool:
        """Write a sequence in a UN whose odd values are to be padded; False if the element is none."""
        if not self._has_odd_in_un(element, encoding, depth):
            return False
        begin = out.tell()
        try:
            self._write_sequence(out, element, UN, encoding, target, signed=signed, depth=depth)
        except Permanent:
            out.seek(begin)
            out.truncate()
            return False
        return True

    def _may_contain_icon(self, element: Element) -> bool:
        """Whether the element may contain the pixel data of an icon that is to be replaced."""
        if not self._icons or not _is_sequence(element):
            return False
        return self._source.view.find(_PIXEL_DATA_TAG, element.value, element.stop) >= 0

    def _write_sequence(
        self,
        out: BinaryIO,
        element: Element,
        vr: bytes,
        encoding: Encoding,
        target: Encoding,
        *,
        signed: bool,
        depth: int,
        replace: Replacer | None = None,
        more: bytes = b"",
    ) -> None:
        """Write a sequence and append the items `more`; `replace` is called for each item it has already."""
        inner = content_encoding(element.vr, encoding)
        inner_target = content_encoding(vr, target)
        in_memory = element.length <= _IN_MEMORY and not self._may_contain_icon(element)
        sink: BinaryIO = BytesIO() if in_memory else out
        # In Big Endian, readers disagree on the byte order of a delimiter after little endian items.
        undefined = element.undefined and not (vr == UN and target.big)
        with Container(sink, header(element.tag, vr, UNDEFINED, target), SEQUENCE_END, target, undefined):
            for item in items(self._source.view, element, inner):
                with Container(
                    sink, header(ITEM, None, UNDEFINED, inner_target), ITEM_END, inner_target, item.undefined
                ):
                    self._write_dataset(
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
        """Copy bytes; words of more than one byte change their byte order."""
        if width == 1:
            out.writelines(self._source.chunks(start, stop))
            return
        if (stop - start) % width:
            raise Permanent(f"a value of {stop - start} bytes has no whole words of {width}: it is damaged")
        out.writelines(byte_swapped(chunk, width) for chunk in self._source.chunks(start, stop))


def _is_sequence(element: Element) -> bool:
    vr = element.vr or vr_of(element.tag, element.length, signed=False)
    return vr == SQ or (element.undefined and vr not in _BINARY)


def _added_tags(replacement: Replacement | None, listed: list[Element]) -> list[int]:
    """Tags of the elements that the replacement adds, in order."""
    if replacement is None:
        return []
    return sorted((replacement.changes.keys() | replacement.appended.keys()) - {e.tag for e in listed})
