"""What the first bytes of a codestream show: its format, and the transfer syntax that is sure to allow it.

JPEG: ITU-T T.81 annex B, JPEG-LS: T.87 annex C, JPEG 2000: T.800 annex A, HTJ2K: T.814 annex A, JPEG XL:
ISO/IEC 18181-2, RLE: PS3.5 annex G. Deflated frames and video have no signature here.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress

from dicomferry.dicom.syntaxes import BY_UID
from dicomferry.errors import Permanent

HEAD = 64  # bytes that show whether a codestream begins
LONGEST_HEADER = 1 << 20  # bytes of a codestream that are looked at for its header
MAX_SEGMENTS = 4096  # of a header; one with an ICC profile, Exif and comments has some 300

SOI = b"\xff\xd8\xff"
SOC = b"\xff\x4f\xff\x51"  # and SIZ, which always follows
JP2 = b"\x00\x00\x00\x0cjP"
JXL, JXL_BOXES = b"\xff\x0a", b"\x00\x00\x00\x0cJXL \r\n\x87\n"
FRAME_HEADERS = frozenset((*range(0xC0, 0xD0), 0xF7)) - {0xC4, 0xC8, 0xCC}
SCAN = 0xDA

_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
_FILL = re.compile(rb"\xff+")  # T.81 B.1.1.2
_CAPABILITIES, _TILE_PART = 0x50, 0x90  # CAP and SOT (T.800 annex A)
_HIGH_THROUGHPUT = 1 << 17  # Pcap of part 15 (T.814 A.3)

_JPEG = "1.2.840.10008.1.2.4."
_RLE = "1.2.840.10008.1.2.5"
# By frame header, and by predictor (T.81 H.1.2.1) or NEAR (T.87 C.2.3) of the scan; else by frame header.
_OF_SCANS = {(0xC3, 1): _JPEG + "70", (0xF7, 0): _JPEG + "80"}
_OF_FRAMES = {0xC0: _JPEG + "50", 0xC1: _JPEG + "51", 0xC3: _JPEG + "57", 0xF7: _JPEG + "81"}


def shown_syntax(content: bytes) -> str:
    """A transfer syntax that allows the codestream that `content` begins with; empty where none is shown.

    What may be lossless is not called so, where the header alone does not prove it.
    """
    if content.startswith(JP2):  # a JP2 file in place of its codestream
        content = content[max(0, content.find(SOC)) :]
    if content.startswith(SOI):
        with suppress(Permanent):
            return _jpeg_syntax(content)
    elif content.startswith(SOC):
        return _JPEG + ("203" if _is_high_throughput(content) else "91")
    elif content.startswith((JXL, JXL_BOXES)):
        return _JPEG + "112"
    elif is_rle_header(content[:HEAD]):
        return _RLE
    return ""


def contradicts(shown: str, stated: str) -> bool:
    """Whether codestreams of the transfer syntax `shown` are of another format than those of `stated`.

    A JPEG of another process than its syntax is not: its frame header tells every decoder which it is.
    """
    return bool(shown) and _format(shown) != _format(stated)


def _format(uid: str) -> str:
    syntax = BY_UID.get(uid)
    group = syntax.group if syntax else ""
    return "jpeg" if group == "jpeg-lossless" else group


def is_rle_header(head: bytes) -> bool:
    """Whether these `HEAD` bytes are the header of an RLE frame (PS3.5 G.5)."""
    if len(head) < HEAD:
        return False
    number, *offsets = struct.unpack("<16I", head)
    if not 1 <= number <= len(offsets) or any(offsets[number:]):
        return False
    return offsets[0] >= HEAD and sorted(set(offsets[:number])) == offsets[:number]


def segments(content: bytes | memoryview, at: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of the content of each marker segment from `at`, up to the first of `last`.

    Raises:
        Permanent: the header is damaged, cut, or has more segments than any has.
    """
    for _ in range(MAX_SEGMENTS):
        fill = _FILL.match(content, at)
        begin = fill.end() if fill else at
        if begin + 3 > len(content):  # a marker and a length
            break
        if fill is None:
            raise Permanent(f"no marker at byte {at} of a frame's header: it is damaged")
        marker, at = content[begin], begin + 1
        if marker in _WITHOUT_LENGTH:
            continue
        end = at + int.from_bytes(content[at : at + 2], "big")
        if end < at + 2 or end > len(content):
            break
        yield marker, at + 2, end
        if marker == last:
            return
        at = end
    else:
        raise Permanent(f"the header of a frame has more than {MAX_SEGMENTS} marker segments: it is damaged")
    raise Permanent("the header of a frame ends early: it is truncated")


def _jpeg_syntax(content: bytes) -> str:
    frame = 0
    for marker, begin, end in segments(content, 2, SCAN):
        if marker in FRAME_HEADERS:
            frame = frame or marker
        elif marker == SCAN:
            at = begin + 1 + 2 * content[begin]  # behind the components
            parameter = content[at] if at < end else -1
            return _OF_SCANS.get((frame, parameter)) or _OF_FRAMES.get(frame, "")
    return ""


def _is_high_throughput(content: bytes) -> bool:
    with suppress(Permanent):
        for marker, begin, _ in segments(content, 2, _TILE_PART):
            if marker == _CAPABILITIES:
                return bool(int.from_bytes(content[begin : begin + 4], "big") & _HIGH_THROUGHPUT)
    return False
