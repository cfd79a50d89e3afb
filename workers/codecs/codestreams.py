"""The headers of JPEG and JPEG-LS frames, read before any decoder gets the frame.

Decoders hide damage and trust hostile sizes. So the header of a codestream must agree with the data set
before memory is allocated. JPEG: ITU-T T.81 annex B, JPEG-LS: T.87 annex C.
"""

import struct
from dataclasses import dataclass

from dicomferry.dicom import signatures
from dicomferry.dicom.signatures import FRAME_HEADERS, SCAN
from dicomferry.errors import Permanent

_LOSSLESS = 0xC3
_HUFFMAN = frozenset((0xC0, 0xC1, _LOSSLESS))  # sequential; a progressive scan may define tables later
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_MAX_SCANS = 100  # a decoder goes over the whole frame for each; encoders write three to twenty
_TABLES = 0xC4
# Four of each class have 2184; some encoders define them anew for each scan.
MAX_TABLES = 1 << 20  # bytes of Huffman tables in a frame


@dataclass(frozen=True, slots=True)
class Header:
    """One frame's codestream header."""

    rows: int
    columns: int
    components: int
    precision: int  # bits per sample
    signed: bool = False
    transformed: bool | None = None  # whether colours are YCbCr; None if the stream does not say
    lossless: bool = False  # JPEG process 14


def read_jpeg(codestream: bytes) -> Header:
    """The header of a JPEG or JPEG-LS frame.

    Raises:
        Permanent: it has no SOI, no frame header or two, no Huffman tables, no scan or no EOI, or too many
            scans.
    """
    if codestream[:2] != b"\xff\xd8":
        raise Permanent("a JPEG frame does not begin with SOI (T.81 B.2.1)")
    jfif = False
    adobe: int | None = None
    found = segments(codestream)
    for marker, segment, after in found:
        if marker == 0xE0 and segment[:5] == b"JFIF\x00":
            jfif = True
        elif marker == 0xEE and segment[:5] == b"Adobe" and len(segment) >= 12:
            adobe = segment[11]
        elif marker == SCAN:
            # Entropy-coded data cannot contain an EOI, so a truncated stream has none after its first scan.
            if codestream.rfind(b"\xff\xd9", after) < 0:
                raise Permanent("a JPEG frame has no EOI: it is truncated")
            break
    marker, segment = _frame_header(found)
    _check_tables(found, marker)
    if len(segment) < 6 or len(segment) < 6 + 3 * segment[5]:
        raise Permanent("a JPEG frame header is cut short")
    precision, rows, columns, components = struct.unpack_from(">BHHB", segment)
    _check_scans(codestream, found, components, progressive=marker in _PROGRESSIVE)
    identifiers = segment[6 : 6 + 3 * components : 3]
    return Header(
        rows,
        columns,
        components,
        precision,
        transformed=_is_ycbcr(adobe, jfif, identifiers),
        lossless=marker == _LOSSLESS,
    )


def _frame_header(found: list[tuple[int, bytes, int]]) -> tuple[int, bytes]:
    """Marker and content of the only frame header (T.81 B.2.1)."""
    frames = [(marker, segment) for marker, segment, _ in found if marker in FRAME_HEADERS]
    if not frames:
        raise Permanent("a JPEG frame has no frame header (SOF)")
    if len(frames) > 1:
        raise Permanent("a JPEG frame has two frame headers (SOF): it is damaged")
    return frames[0]


def _check_scans(
    codestream: bytes, found: list[tuple[int, bytes, int]], components: int, *, progressive: bool
) -> None:
    """Refuse a frame with too many scans; one whose first scan is complete has no other."""
    _, scan, at = found[-1]
    if not progressive and scan[:1] == bytes((components,)):
        return
    scans = 1 + codestream.count(b"\xff\xda", at)  # which entropy-coded data cannot contain
    if scans > _MAX_SCANS:
        raise Permanent(f"a JPEG frame has {scans} scans: no encoder writes more than {_MAX_SCANS}")


def _check_tables(found: list[tuple[int, bytes, int]], process: int) -> None:
    """Refuse a frame without its first scan's Huffman tables: libjpeg-turbo would use Motion JPEG's."""
    if process not in _HUFFMAN:
        return
    check_tables_size(sum(len(segment) for marker, segment, _ in found if marker == _TABLES))
    defined = set()
    for marker, segment, _ in found:
        at = 0
        while marker == _TABLES and at + 17 <= len(segment):
            defined.add(segment[at])
            at += 17 + sum(segment[at + 1 : at + 17])
    scan = found[-1][1]
    selected = scan[2 : 2 + 2 * scan[0] : 2] if scan else b""
    needed = {table >> 4 for table in selected}
    if process != _LOSSLESS:
        needed |= {0x10 | table & 0x0F for table in selected}  # AC coefficients
    if not selected or not needed <= defined:
        raise Permanent("a JPEG frame lacks its Huffman tables (DHT): it is damaged")


def check_tables_size(size: int) -> None:
    """Refuse a frame with more bytes of Huffman tables than any has."""
    if size > MAX_TABLES:
        raise Permanent(f"a JPEG frame has more than {MAX_TABLES} bytes of Huffman tables: it is damaged")


def segments(codestream: bytes) -> list[tuple[int, bytes, int]]:
    """Marker, content and end offset of each marker segment, up to and including the first scan header."""
    found = signatures.segments(codestream, 2, SCAN)
    return [(marker, codestream[begin:end], end) for marker, begin, end in found]


def _is_ycbcr(adobe: int | None, jfif: bool, identifiers: bytes) -> bool | None:
    if adobe is not None:
        return adobe == 1
    if jfif:
        return True
    return False if identifiers == b"RGB" else None
