"""Image attributes: how they are read from a data set, and which of them a rendition changes. Pure.

A rendition keeps every attribute that stays true: lossy history (PS3.3 C.7.6.1.1.5), values and padding in
their sign, the SOP Instance UID.
"""

import re
import struct
from collections.abc import Mapping

from dicomferry.errors import Permanent
from dicomferry.text import shown_value
from workers.codecs.image import RGB, YBR, Image

SAMPLES = 0x00280002
PHOTOMETRIC = 0x00280004
PLANAR = 0x00280006
FRAMES = 0x00280008
ROWS = 0x00280010
COLUMNS = 0x00280011
ALLOCATED = 0x00280100
STORED = 0x00280101
HIGH_BIT = 0x00280102
REPRESENTATION = 0x00280103
SIZE = frozenset((ROWS, COLUMNS, ALLOCATED))
OF_PIXELS = SIZE | {SAMPLES, PHOTOMETRIC}  # only instances with pixel data have these (PS3.3 C.7.6.3)
DESCRIBING = frozenset(
    (SAMPLES, PHOTOMETRIC, PLANAR, FRAMES, ROWS, COLUMNS, ALLOCATED, STORED, HIGH_BIT, REPRESENTATION)
)
LONGEST_READ = 2048  # at most so many bytes of a value are read

# PS3.3 table C.7-11a: Extended Offset Table, its Lengths, Encapsulated Pixel Data Value Total Length.
# They describe fragments, which native pixel data does not have.
ONLY_ENCAPSULATED = frozenset((0x7FE00001, 0x7FE00002, 0x7FE00003))


def describe(values: Mapping[int, bytes]) -> Image:
    """The image that `values`, by tag and in little endian, describe.

    Raises:
        Permanent: a required attribute is missing or not a number.
    """
    allocated = number(values, ALLOCATED)
    stored = number(values, STORED, allocated)
    frames = _text(values, FRAMES) or "1"
    # PS3.5 6.2, IS: a sign may stand before it, spaces on both sides.
    if not re.fullmatch(r"\+?[0-9]+", frames) or not int(frames):
        raise Permanent("(0028,0008) Number of Frames is no positive number")
    return Image(
        rows=number(values, ROWS),
        columns=number(values, COLUMNS),
        samples=number(values, SAMPLES, 1),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=number(values, HIGH_BIT, stored - 1),
        signed=bool(number(values, REPRESENTATION, 0)),
        photometric=_text(values, PHOTOMETRIC),
        frames=int(frames),
        planar=number(values, PLANAR, 0),
    )


def native_colour(colour: str, wanted: str) -> str:
    """The photometric interpretation that native samples in `colour` get; `wanted` is the spec's colour."""
    return RGB if colour == YBR and wanted == "rgb" else colour


def changes(image: Image, colour: str) -> dict[int, tuple[bytes, bytes]]:
    """VR and value, by tag, of the elements that change when `image` becomes native in `colour`."""
    if image.samples == 1:
        return {}
    changed = {PLANAR: (b"US", b"\x00\x00")}
    if colour != image.photometric:
        changed[PHOTOMETRIC] = (b"CS", _code_string(colour))
    return changed


def changes_encapsulated(image: Image, photometric: str, high_bit: int) -> dict[int, tuple[bytes, bytes]]:
    """VR and value, by tag, of the elements that change when `image` becomes encapsulated.

    Planar Configuration is 0: compression orders the samples itself, so that it means nothing (PS3.3
    C.7.6.3.1.3), and 0 is what every compressed syntax allows (PS3.5 8.2.1 to 8.2.16).
    """
    changed = {}
    if image.samples > 1:
        changed[PLANAR] = (b"US", b"\x00\x00")
    if photometric != image.photometric:
        changed[PHOTOMETRIC] = (b"CS", _code_string(photometric))
    if high_bit != image.high_bit:
        changed[HIGH_BIT] = (b"US", struct.pack("<H", high_bit))
    return changed


def corrected(image: Image, values: Mapping[int, bytes]) -> dict[int, tuple[bytes, bytes]]:
    """VR and value, by tag, of the elements in which `image` has other bits than `values` say."""
    stated = describe(values)
    return {
        tag: (b"US", struct.pack("<H", bits))
        for tag, bits, before in (
            (STORED, image.bits_stored, stated.bits_stored),
            (HIGH_BIT, image.high_bit, stated.high_bit),
        )
        if bits != before
    }


def _code_string(text: str) -> bytes:
    return text.encode("ascii") + b" " * (len(text) % 2)


def pixel_data_vr(bits_allocated: int, *, explicit: bool) -> bytes:
    """The VR of native Pixel Data (PS3.5 A.1, A.2): OB in Explicit VR with cells of one byte, else OW."""
    return b"OB" if explicit and bits_allocated <= 8 else b"OW"


def number(values: Mapping[int, bytes], tag: int, default: int | None = None) -> int:
    """The first value of an element of VR US or SS, read as US; `default` where it is absent or empty.

    Raises:
        Permanent: it is absent or empty, and there is no default.
    """
    value = values.get(tag, b"")
    if len(value) >= 2:
        return int(struct.unpack_from("<H", value)[0])
    if default is None:
        raise Permanent(
            f"({tag >> 16:04X},{tag & 0xFFFF:04X}) is missing: no image can be decoded without it"
        )
    return default


def _text(values: Mapping[int, bytes], tag: int) -> str:
    """The value of a code or number string; fit to be shown, since notes and errors quote it."""
    return shown_value(values.get(tag, b"").decode("ascii", "replace").strip(" \x00"))
