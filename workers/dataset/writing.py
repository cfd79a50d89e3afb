"""How elements are written: headers, lengths, delimiters, byte order (PS3.5 section 7)."""

import struct
from typing import BinaryIO

import numpy as np

from dicomferry.dicom.elements import Encoding
from dicomferry.dicom.encoding import LONG_VRS, UNDEFINED, dictionary_vr
from dicomferry.errors import Permanent

UN = b"UN"
SQ = b"SQ"
# Bytes of a word; values of other VRs have no byte order.
WORD_SIZES = {
    **dict.fromkeys((b"US", b"SS", b"OW", b"AT"), 2),
    **dict.fromkeys((b"UL", b"SL", b"FL", b"OL", b"OF"), 4),
    **dict.fromkeys((b"UV", b"SV", b"FD", b"OV", b"OD"), 8),
}


def header(tag: int, vr: bytes | None, length: int, target: Encoding, *, long_form: bool = False) -> bytes:
    """Encode tag, VR and length of an element; one too long for its VR becomes UN (PS3.5 6.2.2)."""
    group, number, order = tag >> 16, tag & 0xFFFF, target.order
    if vr is None or not target.explicit:
        return struct.pack(order + "HHI", group, number, length)
    if vr in LONG_VRS or long_form:
        return struct.pack(order + "HH2sHI", group, number, vr, 0, length)
    if length > 0xFFFF:
        return struct.pack(order + "HH2sHI", group, number, UN, 0, length)
    return struct.pack(order + "HH2sH", group, number, vr, length)


def byte_swapped(content: bytes, width: int) -> bytes:
    """`content`, whole words of `width` bytes, in the other byte order."""
    return content if width == 1 else np.frombuffer(content, f"u{width}").byteswap().tobytes()


class Container:
    """A sequence or item being written: on exit it gets its length, or a delimiter if that is undefined."""

    def __init__(
        self, out: BinaryIO, opening: bytes, delimiter: int, target: Encoding, undefined: bool
    ) -> None:
        self._out = out
        self._target = target
        self._delimiter = delimiter
        self._undefined = undefined
        out.write(opening)
        self._start = out.tell()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return
        if self._undefined:
            self._out.write(header(self._delimiter, None, 0, self._target))
            return
        end = self._out.tell()
        if end - self._start >= UNDEFINED:
            raise Permanent("a sequence outgrows the 32 bits of its length")
        self._out.seek(self._start - 4)
        self._out.write(struct.pack(self._target.order + "I", end - self._start))
        self._out.seek(end)


def vr_of(tag: int, length: int, signed: bool) -> bytes:
    """The VR of an element in Implicit VR (PS3.5 6.2.2, PS3.6); `signed` by Pixel Representation."""
    choice = dictionary_vr(tag)
    if len(choice) == 2:
        return choice.encode("ascii")
    if choice == "OB or OW":
        return b"OW"  # PS3.5 A.1: so it is in Implicit VR
    if "OW" in choice and length > 2:
        return b"OW"  # LUT data
    return b"SS" if signed and "SS" in choice else b"US"
