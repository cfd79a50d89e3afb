"""The header of a JPEG XL frame (ISO/IEC 18181-1 annex D, container 18181-2), before a decoder sees it."""

import struct

from dicomferry.errors import Permanent
from workers.codecs.codestreams import Header

_CODESTREAM = b"\xff\x0a"
_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
_HEADER_LENGTH = 64  # bytes: enough for every field that is read here
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_GREY = 1
_MAX_BOXES = 1024  # before the codestream; encoders write three, and perhaps metadata


def read_jxl(codestream: bytes) -> Header:
    """The header of a JPEG XL frame, bare or in a container.

    `transformed` says that colours are XYB.

    Raises:
        Permanent: it is no JPEG XL, is cut short, or has what no DICOM frame has: floating point samples,
            extra channels, a preview, an animation.
    """
    bits = _Bits(_first_bytes(codestream))
    rows, columns = _size(bits)
    if bits.flag():  # all_default
        return Header(rows, columns, 3, 8, transformed=True)
    if bits.flag():  # extra_fields
        bits.take(3)  # orientation
        if bits.flag():
            _size(bits)  # intrinsic
        if bits.flag() or bits.flag():
            raise Permanent("a JPEG XL frame has a preview or is animated: no DICOM frame is")
    if bits.flag():
        raise Permanent("a JPEG XL frame has floating point samples")
    precision = bits.choice((8, 0), (10, 0), (12, 0), (1, 6))
    bits.flag()  # modular_16bit_buffers
    if bits.choice((0, 0), (1, 0), (2, 4), (1, 12)):
        raise Permanent("a JPEG XL frame has extra channels")
    xyb = bits.flag()
    grey = False
    if not bits.flag():  # colour encoding: all_default is sRGB
        bits.flag()  # want_icc
        grey = bits.choice((0, 0), (1, 0), (2, 4), (18, 6)) == _GREY
    return Header(rows, columns, 1 if grey else 3, precision, transformed=xyb)


def _first_bytes(codestream: bytes) -> bytes:
    """The first bytes of the codestream behind its signature."""
    if codestream.startswith(_CODESTREAM):
        return codestream[2 : 2 + _HEADER_LENGTH]
    if not codestream.startswith(_CONTAINER):
        raise Permanent("a JPEG XL frame begins with neither a codestream nor a container")
    at = 0
    for _ in range(_MAX_BOXES):
        if at + 16 > len(codestream):
            break
        length, kind = struct.unpack_from(">I4s", codestream, at)
        head = 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", codestream, at + 8)
            head = 16
        if kind in (b"jxlc", b"jxlp"):
            start = at + head + (4 if kind == b"jxlp" else 0)  # a part begins with its number
            if codestream[start : start + 2] != _CODESTREAM:
                break
            return codestream[start + 2 : start + 2 + _HEADER_LENGTH]
        if length < head:
            break
        at += length
    raise Permanent("a JPEG XL container holds no codestream: it is truncated or damaged")


class _Bits:
    """Bits, least significant first."""

    def __init__(self, source: bytes) -> None:
        self._value = int.from_bytes(source, "little")
        self._left = 8 * len(source)

    def take(self, count: int) -> int:
        if count > self._left:
            raise Permanent("the header of a JPEG XL frame is cut short")
        taken = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return taken

    def flag(self) -> bool:
        return bool(self.take(1))

    def choice(self, *options: tuple[int, int]) -> int:
        """A number: one of four bases plus that many bits, given as (base, bits); U32 of 18181-1 B.2.1."""
        base, count = options[self.take(2)]
        return base + self.take(count)


def _size(bits: _Bits) -> tuple[int, int]:
    """Rows and columns (SizeHeader, 18181-1 D.2)."""
    small = bits.flag()
    rows = _length(bits, small=small)
    ratio = bits.take(3)
    if ratio:
        numerator, denominator = _RATIOS[ratio - 1]
        return rows, rows * numerator // denominator
    return rows, _length(bits, small=small)


def _length(bits: _Bits, *, small: bool) -> int:
    return 8 * (bits.take(5) + 1) if small else bits.choice((1, 9), (1, 13), (1, 18), (1, 30))
