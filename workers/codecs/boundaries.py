"""Where codestreams begin, and how many stand in a row: a decoder reads the first and drops the rest unsaid.

JPEG: ITU-T T.81 annex B, JPEG-LS: T.87 annex C, JPEG 2000: T.800 annex A, JPEG XL: ISO/IEC 18181,
RLE: PS3.5 annex G. Deflated frames have no signature; their decoder sees what follows them.
"""

import re
import struct
from collections.abc import Callable
from typing import cast

from dicomferry.dicom.signatures import (
    HEAD,
    JP2,
    JXL,
    JXL_BOXES,
    MAX_SEGMENTS,
    SOC,
    SOI,
    is_rle_header,
)
from dicomferry.dicom.syntaxes import BY_UID
from dicomferry.errors import Permanent
from workers.codecs.codestreams import segments

_EOI = b"\xff\xd9"  # the end of JPEG 2000, EOC, is the same
_SOT, _EOC = b"\xff\x90", _EOI
_JOINT = re.compile(rb"\xff\xd9\x00*\xff\x4f\xff\x51")
_JXL_HEADER = 7  # bytes that are equal in all frames of an image: their size and their kind of samples
_JXL_SIZE = 4  # at least so many of them tell the size, whatever the kind of samples
TAIL = 16  # bytes that show whether a codestream ended: its last two, and padding
MAX_COUNTED = 1 << 16  # codestreams in a frame's bytes; to count more costs time and says no more
_MAX_PARTS = 1 << 20  # tile-parts, or false beginnings, that are looked at
# After a scan header, a marker with a meaning: neither a stuffed byte nor RSTn.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")


def begins(transfer_syntax_uid: str) -> Callable[[bytes], bool] | None:
    """A function that tells whether the first `HEAD` bytes of a fragment begin a codestream.

    None where nothing shows it.
    """
    group = _group(transfer_syntax_uid)
    if group == "rle":
        return is_rle_header
    signatures = _SIGNATURES.get(group)
    return (lambda head: head.startswith(signatures)) if signatures else None


def hides(transfer_syntax_uid: str, first: bytes) -> Callable[[bytes], bool] | None:
    """A function that tells whether a fragment begins a codestream that `count` does not see as one.

    It is of another format, or JPEG XL with other parameters; `first` are the first `HEAD` bytes of all. None
    where decoders refuse what follows a codestream.
    """
    group = _group(transfer_syntax_uid)
    if group not in _SIGNATURES:
        return None
    others = [mark for name, marks in _SIGNATURES.items() if name != group for mark in marks if mark != JXL]
    if group == "jpeg-xl":
        naked = first.find(JXL, 0, -2)  # as a rule also within boxes
        others += [JXL_BOXES] + ([first[naked : naked + _JXL_SIZE]] if naked >= 0 else [])
    signatures = tuple(others)
    return lambda head: head.startswith(signatures)


def has_ended(transfer_syntax_uid: str, tail: bytes) -> bool:
    """Whether `tail`, the last bytes before a fragment, end a codestream; True where nothing shows it."""
    return _group(transfer_syntax_uid) not in ("jpeg", "jpeg2000") or tail.rstrip(b"\x00\xff").endswith(_EOI)


def surplus(transfer_syntax_uid: str, content: bytes) -> int:
    """How many bytes of a frame stand behind its codestream and are no padding; 0 where nothing shows it.

    Raises:
        Permanent: the codestream has more parts than any has.
    """
    found = _ENDS.get(_group(transfer_syntax_uid))
    if found is None or has_ended(transfer_syntax_uid, content[-TAIL:]):
        return 0
    start, end_of = found
    begin = content.find(start)
    return len(content[end_of(content, begin) :].strip(b"\x00\xff")) if begin >= 0 else 0


def count(transfer_syntax_uid: str, content: bytes) -> int:
    """How many codestreams begin in `content`, the bytes of one frame; 1 where nothing shows more.

    Bytes inside a codestream that look like the beginning of another are not counted. It counts up to
    `MAX_COUNTED`.

    Raises:
        Permanent: a codestream has more parts than any has.
    """
    counter = _COUNTERS.get(_group(transfer_syntax_uid))
    return max(1, counter(content)) if counter else 1


def _group(transfer_syntax_uid: str) -> str:
    syntax = BY_UID.get(transfer_syntax_uid)
    group = syntax.group if syntax else ""
    return {"jpeg-lossless": "jpeg", "jpeg-ls": "jpeg", "htj2k": "jpeg2000"}.get(group, group)


def _count_in_turn(content: bytes, start: bytes, end_of: Callable[[bytes, int], int]) -> int:
    """Count codestreams: `end_of` gives where the one at an offset ends, only asked if another may follow."""
    found, at = 0, content.find(start)
    while at >= 0 and found < MAX_COUNTED:
        found += 1
        if content.find(start, at + len(start)) < 0:
            break
        at = content.find(start, end_of(content, at))
    return found


def _jpeg_end(content: bytes, at: int) -> int:
    """Behind EOI, or where another SOI stands in its place: no entropy-coded data contain either."""
    try:
        after = at + segments(cast(bytes, memoryview(content)[at:]))[-1][2]
    except Permanent:  # the decoder will say what is wrong
        return len(content)
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(content, after)
        if marker is None:
            return len(content)
        if marker[1] == b"\xd8":
            return marker.start()
        if marker[1] == b"\xd9":
            return marker.end()
        after = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2], "big"))
    raise Permanent(f"a JPEG frame has more than {MAX_SEGMENTS} marker segments: it is damaged")


def _j2k_end(content: bytes, at: int) -> int:
    """Behind EOC, or where another SOC stands in its place; packets may contain what looks like SOC."""
    at += 2
    for _ in range(MAX_SEGMENTS):  # the main header
        if content[at : at + 2] == _SOT:
            break
        if content[at : at + 1] != b"\xff" or at + 4 > len(content):
            return len(content)
        at += 2 + max(2, int.from_bytes(content[at + 2 : at + 4], "big"))
    part = at
    for _ in range(_MAX_PARTS):
        if content[at : at + 2] != _SOT or at + 12 > len(content):
            break
        part = at
        (length,) = struct.unpack_from(">I", content, at + 6)
        # 0: up to EOC (T.800 A.4.2). Some lengths are wrong, and no packet contains EOC (B.10.1).
        if length < 14 or at + length > len(content) or _JOINT.search(content, at, at + length):
            break
        at += length
    else:
        raise Permanent(f"a JPEG 2000 frame has more than {_MAX_PARTS} tile-parts: it is damaged")
    if content.startswith(SOC, at):
        return at
    end = at if content.startswith(_EOC, at) else content.find(_EOC, part)
    return len(content) if end < 0 else end + 2


def _count_jxl(content: bytes) -> int:
    if content.startswith(JXL_BOXES):
        return content.count(JXL_BOXES)
    return content.count(content[:_JXL_HEADER]) if content.startswith(JXL) else 0


def _count_rle(content: bytes) -> int:
    """A header like the first, behind where the last segment begins, starts another frame (PS3.5 G.5)."""
    found, at, false = 0, 0, 0
    while at >= 0 and is_rle_header(content[at : at + HEAD]) and found < MAX_COUNTED:
        found += 1
        (segments_,) = struct.unpack_from("<I", content, at)
        last = struct.unpack_from("<I", content, at + 4 * segments_)[0]
        start = content[at : at + 8]
        at = content.find(start, at + last)
        while at >= 0 and not is_rle_header(content[at : at + HEAD]):
            at, false = content.find(start, at + 1), false + 1
            if false > _MAX_PARTS:
                raise Permanent(
                    "an RLE frame holds more than a million beginnings of its header: it is damaged"
                )
    return found


_SIGNATURES = {"jpeg": (SOI,), "jpeg2000": (SOC, JP2), "jpeg-xl": (JXL, JXL_BOXES)}
_ENDS = {"jpeg": (SOI, _jpeg_end), "jpeg2000": (SOC, _j2k_end)}
_COUNTERS: dict[str, Callable[[bytes], int]] = {
    "jpeg": lambda content: _count_in_turn(content, SOI, _jpeg_end),
    "jpeg2000": lambda content: _count_in_turn(content, SOC, _j2k_end),
    "jpeg-xl": _count_jxl,
    "rle": _count_rle,
}
