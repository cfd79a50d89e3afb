"""The elements around the pixels: what must keep its bytes, and what the standard changes."""

from pathlib import Path

from pydicom import DataElement, Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.values import convert_SQ

from dicomferry.dicom.syntaxes import BY_UID, EXPLICIT_BE
from tests.support.images.independent import run

PIXEL_DATA = 0x7FE00010
# Extended Offset Table, its Lengths, Encapsulated Pixel Data Value Total Length.
_OF_FRAGMENTS = frozenset((0x7FE00001, 0x7FE00002, 0x7FE00003))
_COLOUR = frozenset((0x00280004, 0x00280006))
# PS3.3 C.7.6.1.1.5 and C.7.6.1.1.2: what a lossy step must tell.
_LOSSY = frozenset(
    (0x00080008, 0x00080018, 0x00282110, 0x00282112, 0x00282114, 0x00082111, 0x00082112, 0x00089215)
)
# Embedded overlays that were moved: (60xx,3000), Overlay Bits Allocated, Overlay Bit Position; of many frames
# also their number and Image Frame Origin (PS3.3 C.9.3), since each frame had its own bits.
_OVERLAY = frozenset((0x60003000, 0x60000100, 0x60000102, 0x60000015, 0x60000051))


def changeable(source_uid: str, target_uid: str, *, overlay: bool = False) -> frozenset[int]:
    """The tags that may differ between a source and its rendition."""
    changed = {PIXEL_DATA} | _OF_FRAGMENTS
    if not (BY_UID[source_uid].native and BY_UID[target_uid].native):
        changed |= _COLOUR
    if not BY_UID[target_uid].lossless:
        changed |= _LOSSY
    if overlay:
        changed |= _OVERLAY
    return frozenset(changed)


def values(path: Path, without: frozenset[int], work: Path) -> dict[str, object]:
    """The bytes of every value in Little Endian, by path; group lengths, retired, are left out."""
    made = dcmread(path)
    if made.file_meta.TransferSyntaxUID == EXPLICIT_BE:
        little = work / f"{path.stem}.little.dcm"
        run("dcmconv", "+te", "-g", str(path), str(little))
        made = dcmread(little)
    return _values(made, without, "")


def _encoded(element: DataElement) -> bytes:
    """The bytes of an element that pydicom has decoded while it read, such as the character set."""
    if element.VR == "SQ" or element.is_buffered:
        return b""
    stream = DicomBytesIO()
    stream.is_little_endian = stream.is_implicit_VR = True
    write_data_element(stream, element, ["iso8859"])
    return stream.getvalue()[8:]


def _values(made: Dataset, without: frozenset[int], prefix: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for tag in list(made.keys()):
        if tag.element == 0 or tag in without:
            continue
        element = made.get_item(tag)
        value = element.value if element.is_raw else _encoded(element)
        items = None
        if made[tag].VR == "SQ":
            items = made[tag].value
        elif isinstance(value, bytes) and value.startswith(b"\xfe\xff\x00\xe0") and made[tag].VR == "UN":
            # A private sequence that came without its VR (PS3.5 6.2.2): Implicit VR inside.
            items = convert_SQ(value, is_implicit_VR=True, is_little_endian=True)
        if items is None:
            found[f"{prefix}{tag}"] = value or b""
            continue
        found[f"{prefix}{tag}"] = len(items) or b""
        for number, item in enumerate(items):
            found |= _values(item, frozenset(), f"{prefix}{tag}[{number}].")
    return found
