"""Reads the few elements that ingest needs, and checks that the data set is complete.

One walk over the element headers (PS3.5 chapter 7) does both. It skips all other values, so it never reads
pixels or a patient's name, and a large object costs no more than a small one. It tolerates what other
toolkits tolerate: an implicit element among explicit ones, a VR of a later edition, zeros after the end.
"""

import mmap
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from dicomferry.dicom.encoding import (
    LONG_VRS,
    SHORT_VRS,
    STRAY_GROUPS,
    encoding_of,
    shown_encoding,
    stray_length,
)
from dicomferry.dicom.identifiers import text_of, uid_fault
from dicomferry.dicom.real_syntax import OF_SIZE, PIXEL_DATA, PixelData, look_at, real_syntax
from dicomferry.dicom.syntaxes import DEFLATED, EXPLICIT_BE, IMPLICIT_LE, label
from dicomferry.text import shown_value

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD

_SOP_CLASS, _SOP_INSTANCE, _MODALITY = 0x00080016, 0x00080018, 0x00080060
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_WANTED = frozenset((_SOP_CLASS, _SOP_INSTANCE, _MODALITY, _STUDY, _SERIES))
_LOOKED_AT = frozenset(tag >> 16 for tag in _WANTED | OF_SIZE) | STRAY_GROUPS

_MAX_KEPT = 128  # bytes kept of a wanted value: enough to see that it is no UID
_MAX_DEPTH = 64  # nested sequences
_MAX_ELEMENTS = 300_000  # elements; a walk ends there (0.3 s) and passes
_INFLATED_HEAD = 4 << 20  # bytes of a deflated data set that are searched for the wanted elements
_MAX_INFLATED = 256 << 20  # bytes inflated to check the stream's end


class Malformed(Exception):  # noqa: N818  a finding about a data set, which reception answers
    """The data set is damaged; ``str()`` says where, without quoting a value."""


@dataclass(frozen=True, slots=True)
class Header:
    """The elements that ingest needs, fit to be shown; an absent one is empty."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    transfer_syntax_uid: str = ""  # in which the data set really is, if that is not the one stated
    notes: tuple[str, ...] = ()  # what is wrong with it and taken all the same, in words
    sendable: bool = True  # its bytes may leave as they are, strays at its head left out


def read_header(path: Path, offset: int, transfer_syntax_uid: str) -> Header:
    """Walk the data set that starts at `offset` of the file at `path`.

    Raises:
        Malformed: it is no data set in that transfer syntax or in the one that it shows, or its last element
            is cut.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if transfer_syntax_uid in DEFLATED:
            head, whole = _inflate(content, offset)
            return _read(head, 0, transfer_syntax_uid, partial=not whole)
        return _read(content, offset, transfer_syntax_uid, partial=False)


def _read(content: bytes | mmap.mmap, offset: int, stated: str, *, partial: bool) -> Header:
    encoding = encoding_of(stated)
    stray = stray_length(lambda at, size: content[at : at + size], offset, len(content), encoding)
    walk, encoding = _walk(content, (offset, offset + stray), encoding, partial=partial)
    notes = []
    if stray or walk.strays:
        notes.append("elements of group 0000 or 0002 stand in its data set and are not sent (PS3.10 7.1)")
    if encoding != encoding_of(stated):
        notes.append(
            f"its data set is in {label(encoding)}, though its presentation context was for {label(stated)}"
        )
    real = real_syntax(stated, encoding, walk.pixel_data)
    if real.note:
        notes.append(real.note)
    sendable = real.sendable and not walk.strays and not (stray and stated in DEFLATED)
    header = walk.header
    uids = (header.sop_instance_uid, header.study_instance_uid, header.series_instance_uid)
    for name, uid in zip(("SOP", "Study", "Series"), uids, strict=True):
        # Absent in objects without a patient, such as colour palettes (PS3.4 annex GG).
        if uid and (fault := uid_fault(uid)):
            notes.append(f"its {name} Instance UID {fault} (PS3.5 9.1)")
    return replace(
        header,
        transfer_syntax_uid="" if real.uid == stated else real.uid,
        notes=tuple(notes),
        sendable=sendable,
    )


def _walk(
    content: bytes | mmap.mmap, begin: tuple[int, int], encoding: str, *, partial: bool
) -> tuple["_Walk", str]:
    """Walk the data set in the encoding that it shows, else in the one stated; the walk and its encoding.

    `begin` has the offsets of the data set and of its first element that belongs there.
    """
    walk = _Walk(content, begin, encoding, partial=partial)
    shown = shown_encoding(content[begin[1] : begin[1] + 8])
    if shown not in ("", encoding):
        other = _Walk(content, begin, shown, partial=partial)
        with suppress(Malformed):
            other.run()
            return other, shown
    walk.run()
    return walk, encoding


def _inflate(content: mmap.mmap, offset: int) -> tuple[bytes, bool]:
    """The first bytes of a deflated data set, and whether they are all of it.

    Raises:
        Malformed: the deflated stream is damaged or ends early.
    """
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    head = bytearray()
    inflated = 0
    try:
        for at in range(offset, len(content), 1 << 16):
            compressed = content[at : at + (1 << 16)]
            while compressed and not stream.eof and inflated < _MAX_INFLATED:
                part = stream.decompress(compressed, 1 << 20)
                compressed = stream.unconsumed_tail
                inflated += len(part)
                head += part[: _INFLATED_HEAD - len(head)]
    except zlib.error as error:
        raise Malformed(f"deflated stream is damaged: {error}") from error
    if not stream.eof and inflated < _MAX_INFLATED:
        raise Malformed(f"deflated stream ends early, after {inflated} bytes inflated")
    return bytes(head), inflated == len(head)


class _Walk:
    """One pass over the elements of `content`; `begin` as for `_walk`."""

    def __init__(
        self, content: bytes | mmap.mmap, begin: tuple[int, int], syntax: str, *, partial: bool
    ) -> None:
        self._content = content
        self._begin, self._at = begin
        self._end = len(content)
        self._partial = partial  # we cut the content
        self._encoding = syntax
        self._explicit = syntax != IMPLICIT_LE
        self._big_endian = syntax == EXPLICIT_BE
        order = ">" if self._big_endian else "<"
        self._tag = struct.Struct(order + "HH").unpack_from
        self._short = struct.Struct(order + "H").unpack_from
        self._long = struct.Struct(order + "I").unpack_from
        self._explicit_head = struct.Struct(order + "HH2sH").unpack_from
        self._left = _MAX_ELEMENTS
        self._found: dict[int, str] = {}
        self._of_size: dict[int, bytes] = {}
        self._pixel_data: tuple[int, int] | None = None  # offset and length of its value
        self.strays = False  # there is an element that no data set has

    @property
    def header(self) -> Header:
        """What was found."""
        found = (self._found.get(tag, "") for tag in (_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES, _MODALITY))
        sop_class, sop_instance, study, series, modality = found
        return Header(sop_class, sop_instance, study, series, modality)

    @property
    def pixel_data(self) -> PixelData | None:
        """The form of the Pixel Data; None if there is none, or the walk did not come so far."""
        if self._pixel_data is None:
            return None
        at, length = self._pixel_data

        def read(start: int, size: int) -> bytes:
            return self._content[start : start + size]

        stated = None if length == _UNDEFINED else length
        return look_at(read, at, stated, self._of_size, self._encoding)

    def run(self) -> None:
        """Walk to the end, or to a limit.

        Raises:
            Malformed: the data set is damaged.
        """
        if self._end - self._at < 8:
            raise Malformed("holds no element")
        with suppress(_EndWalk):
            self._elements()

    def _elements(self) -> None:
        """Walk the top level, to the last byte."""
        while self._at < self._end and not self._is_padding():
            tag, length, explicit = self._element_header(self._explicit)
            self._keep_wanted(tag, length)
            self._skip_value(tag, length, explicit, 0)
            if self._explicit:
                self._skip_short_elements()

    def _skip_short_elements(self) -> None:
        """Skip explicit elements with a 16 bit length: most elements, so most of a walk's time."""
        content, unpack, wanted, short = self._content, self._explicit_head, _LOOKED_AT, SHORT_VRS
        at, last = self._at, self._end - 8
        while at <= last:
            group, element, vr, length = unpack(content, at)
            if vr not in short:
                break
            self._left -= 1
            at += 8
            if group in wanted:
                self._at = at
                self._keep_wanted(group << 16 | element, length)
            at += length
        self._at = at
        if at > self._end:
            self._raise_ends_early(0)
        if self._left < 0:
            raise _EndWalk

    def _keep_wanted(self, tag: int, length: int) -> None:
        """Keep the value here if its element is wanted; notice a stray element."""
        self.strays = self.strays or tag >> 16 in STRAY_GROUPS
        if tag in _WANTED and tag not in self._found and length != _UNDEFINED:
            value = self._content[self._at : self._at + min(length, _MAX_KEPT)]
            self._found[tag] = shown_value(text_of(value))
        elif tag in OF_SIZE:
            self._of_size.setdefault(tag, self._content[self._at : self._at + min(length, _MAX_KEPT)])
        elif tag == PIXEL_DATA and self._pixel_data is None:
            self._pixel_data = self._at, length

    def _skip_value(self, tag: int, length: int, explicit: bool, depth: int) -> None:
        """Skip an element's value."""
        if length != _UNDEFINED:
            self._at += length
            if self._at > self._end:
                self._raise_ends_early(tag)
            return
        if depth >= _MAX_DEPTH:
            raise Malformed(f"sequences nest deeper than {_MAX_DEPTH} at {_name(tag)}")
        self._skip_items(tag, explicit, depth)

    def _skip_items(self, tag: int, explicit: bool, depth: int) -> None:
        """Skip items or fragments up to the sequence's delimiter."""
        while True:
            item, length = self._read_tag(tag)
            if item == _SEQUENCE_END:
                return
            if item != _ITEM:
                raise Malformed(f"{_name(item)} where an item of {_name(tag)} should be")
            if length != _UNDEFINED:
                self._skip_value(tag, length, explicit, depth)
                continue
            while (nested := self._element_header(explicit))[0] != _ITEM_END:
                self._skip_value(*nested, depth + 1)

    def _read_tag(self, parent: int) -> tuple[int, int]:
        at = self._at
        if at + 8 > self._end:
            self._raise_ends_early(parent)
        self._count_element()
        group, element = self._tag(self._content, at)
        self._at = at + 8
        return group << 16 | element, self._long(self._content, at + 4)[0]

    def _element_header(self, explicit: bool) -> tuple[int, int, bool]:
        """Read an element's header, up to its value: tag, length, whether the items in it are explicit."""
        tag, length = self._read_tag(0)
        if not explicit or tag >> 16 == 0xFFFE:
            return tag, length, explicit
        at = self._at
        vr = bytes(self._content[at - 4 : at - 2])
        if vr in SHORT_VRS:
            return tag, self._short(self._content, at - 2)[0], explicit
        if vr in LONG_VRS or (vr.isalpha() and vr.isupper()):
            # A VR that a later edition adds has a 32 bit length too (PS3.5 7.1.2).
            if at + 4 > self._end:
                self._raise_ends_early(tag)
            self._at = at + 4
            length = self._long(self._content, at)[0]
            if vr == b"UN" and length == _UNDEFINED:
                return tag, length, self._is_un_explicit()
        return tag, length, explicit

    def _is_un_explicit(self) -> bool:
        """False: a sequence of VR UN is Implicit VR Little Endian (PS3.5 6.2.2 note 2)."""
        if self._big_endian:
            raise _EndWalk
        return False

    def _is_padding(self) -> bool:
        """Whether the next 8 bytes are zeros."""
        rest = self._content[self._at : self._at + 8]
        return not any(rest)

    def _raise_ends_early(self, tag: int) -> None:
        if self._partial:
            raise _EndWalk
        where = f" in {_name(tag)}" if tag else ""
        size, announced = self._end - self._begin, self._at - self._begin
        raise Malformed(f"ends early{where}: {size} bytes, at least {announced} announced")

    def _count_element(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise _EndWalk


class _EndWalk(Exception):  # noqa: N818  no error: the walk found nothing wrong
    """The walk ends early: it has reached a limit."""


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
