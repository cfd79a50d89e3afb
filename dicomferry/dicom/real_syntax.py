"""The transfer syntax that a data set is really in, by its encoding and the form of its Pixel Data.

What is sent in a presentation context must be in its transfer syntax (PS3.5 annex A): native Pixel Data has a
length, encapsulated Pixel Data is a sequence of fragments, of codestreams that the syntax names. Some senders
negotiate one syntax and send another. The bytes are right then: an object is passed on as what it is, or not
at all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from dicomferry.dicom.encoding import NATIVE, Read, encoding_of
from dicomferry.dicom.signatures import LONGEST_HEADER, SOI, contradicts, shown_syntax
from dicomferry.dicom.syntaxes import BY_UID, DEFLATED, EXPLICIT_BE, label

PIXEL_DATA = 0x7FE00010
_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED = (
    0x00280002, 0x00280004, 0x00280008, 0x00280010, 0x00280011, 0x00280100,
)  # fmt: skip
OF_SIZE = frozenset((_SAMPLES, _PHOTOMETRIC, _FRAMES, _ROWS, _COLUMNS, _ALLOCATED))

_ITEM = b"\xfe\xff\x00\xe0"
_FIRST_LOOK = 4096  # bytes: enough for nearly every header
_LONGEST_IS = 12  # characters (PS3.5 6.2)
_MAX_EMPTY = 16  # items before the first codestream
# Their codestreams show what they are.
_WITH_SIGNATURES = frozenset(("jpeg", "jpeg-lossless", "jpeg-ls", "jpeg2000", "htj2k", "jpeg-xl", "rle"))


@dataclass(frozen=True, slots=True)
class PixelData:
    """The form of a data set's Pixel Data."""

    length: int | None  # bytes; None: fragments
    native_length: int = 0  # bytes that native Pixel Data would have; 0: the attributes do not tell
    shown: str = ""  # the transfer syntax of the first codestream; empty where it shows none


@dataclass(frozen=True, slots=True)
class Real:
    """What a data set is in."""

    uid: str  # the transfer syntax
    note: str = ""  # what contradicts the one stated, in words
    sendable: bool = True  # its bytes may leave in that syntax as they are


def real_syntax(stated: str, encoding: str, pixel_data: PixelData | None) -> Real:
    """The transfer syntax of a data set whose elements are in the native syntax `encoding`."""
    uid, form, fits = _by_form(encoding if stated in NATIVE else stated, encoding, pixel_data)
    note = (
        f"its pixel data is {form}, though its transfer syntax is {label(stated)} (PS3.5 A.4)" if form else ""
    )
    # A deflated one is like no other; none is compressed and in Implicit VR or big endian.
    as_encoded = encoding_of(uid) == encoding and (uid == stated or stated not in DEFLATED)
    return Real(uid, note, fits and as_encoded)


def _by_form(stated: str, encoding: str, pixel_data: PixelData | None) -> tuple[str, str, bool]:
    """Transfer syntax, what the Pixel Data is where that contradicts the one stated, whether they fit."""
    syntax = BY_UID.get(stated)
    if pixel_data is None or pixel_data.length == 0 or syntax is None:  # a private syntax may be anything
        return stated, "", True
    if pixel_data.length is not None and not syntax.native:
        if pixel_data.length - pixel_data.native_length in {0, pixel_data.native_length % 2}:
            return encoding, "native", True
        return stated, "neither in fragments nor of native length", False
    # Items in Big Endian are those of no compressed syntax.
    shown = pixel_data.shown if encoding != EXPLICIT_BE else ""
    if pixel_data.length is None and syntax.native:
        return shown or stated, f"{label(shown)} in fragments" if shown else "in fragments", bool(shown)
    if syntax.group in _WITH_SIGNATURES and contradicts(shown, stated):
        return shown, label(shown), True
    return stated, "", True


def look_at(
    read: Read, value: int, length: int | None, values: Mapping[int, bytes], encoding: str
) -> PixelData:
    """The form of the Pixel Data whose value is at that offset; `values` are those of `OF_SIZE`."""
    if length is None:
        return PixelData(None, shown=shown_in_fragments(read, value))
    return PixelData(length, _native_length(values, big=encoding == EXPLICIT_BE))


def shown_in_fragments(read: Read, at: int) -> str:
    """The transfer syntax that the first codestream of fragments from `at` shows; empty where it shows none.

    The first item is the Basic Offset Table, or should be.
    """
    for number in range(_MAX_EMPTY):
        header = read(at, 8)
        if len(header) < 8 or header[:4] != _ITEM:
            break
        length, at = int.from_bytes(header[4:], "little"), at + 8
        head = read(at, min(length, _FIRST_LOOK))
        shown = shown_syntax(head)
        if not shown and head.startswith(SOI) and length > _FIRST_LOOK:
            shown = shown_syntax(read(at, min(length, LONGEST_HEADER)))
        if shown or (length and number):
            return shown
        at += length
    return ""


def _native_length(values: Mapping[int, bytes], *, big: bool) -> int:
    def number(tag: int, default: int = 0) -> int:
        value = values.get(tag, b"")[:2]
        return int.from_bytes(value, "big" if big else "little") if len(value) == 2 else default

    frames = values.get(_FRAMES, b"").strip(b"\0 +") or b"1"
    bits = number(_ROWS) * number(_COLUMNS) * number(_SAMPLES, 1) * number(_ALLOCATED)
    bits *= int(frames) if frames.isdigit() and len(frames) <= _LONGEST_IS else 0
    if values.get(_PHOTOMETRIC, b"").strip(b"\0 ").endswith(b"_422"):  # pixels share colours
        bits = bits * 2 // 3
    return (bits + 7) // 8
