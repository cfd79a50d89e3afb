"""Damage to DICOM files, always the same for the same number: what a bad disk, a bad line or an enemy does.

A case is "truncated" (the file ends early), "structural" (what the format itself says is broken) or "flipped"
(bits are wrong, which a legal stream may survive).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dicomferry.dicom.syntaxes import BY_UID, DEFLATED_LE, EXPLICIT_BE, IMPLICIT_LE

_FRAGMENTS = b"\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff"
_EOI = b"\xff\xd9"


@dataclass(frozen=True)
class Damage:
    """One damaged file."""

    content: bytes
    kind: str  # truncated, structural, flipped
    what: str  # in words, with offsets


@dataclass(frozen=True)
class Fragment:
    start: int  # of the item
    begin: int
    stop: int


def fragments(content: bytes) -> list[Fragment]:
    """The items of the encapsulated pixel data, offset table first."""
    at = content.rindex(_FRAGMENTS) + len(_FRAGMENTS)
    found = []
    while content[at : at + 4] == b"\xfe\xff\x00\xe0":
        (length,) = struct.unpack_from("<I", content, at + 4)
        found.append(Fragment(at, at + 8, at + 8 + length))
        at += 8 + length
    return found


def damaged(content: bytes, uid: str, random: np.random.Generator) -> Damage:
    """`content`, a file in the syntax `uid`, damaged in a way that `random` chooses."""
    start = 144 + int(struct.unpack_from("<I", content, 140)[0])
    chosen = random.random()
    if chosen < 0.3:
        at = int(random.integers(start, len(content)))
        return Damage(content[:at], "truncated", f"cut at {at} of {len(content)}")
    if chosen < 0.6:
        return _flipped(content, start, uid, random)
    ways = _ANYWHERE if BY_UID[uid].native else _IN_FRAGMENTS + _ANYWHERE
    if uid == DEFLATED_LE:
        ways = (_deflate_damaged,)
    while True:
        way = ways[random.integers(len(ways))]
        made = way(content, uid, random)
        if made is not None and made.content != content:
            return made


def _flipped(content: bytes, start: int, uid: str, random: np.random.Generator) -> Damage:
    if not BY_UID[uid].native and random.random() < 0.7:
        start = fragments(content)[0].start
    out = bytearray(content)
    at = random.integers(start, len(content), int(random.integers(1, 4)))
    for position in at:
        out[position] ^= 1 << int(random.integers(8))
    return Damage(bytes(out), "flipped", f"bits of bytes {sorted(map(int, at))} flipped")


def _deflate_damaged(content: bytes, uid: str, random: np.random.Generator) -> Damage:
    del uid
    start = 144 + int(struct.unpack_from("<I", content, 140)[0])
    at = int(random.integers(start, len(content) - 40))
    return Damage(content[:at] + bytes(32) + content[at + 32 :], "flipped", f"32 bytes at {at} zeroed")


def _number(content: bytes, tag: bytes, value: bytes, uid: str) -> bytes | None:
    """The element (0028,xxxx), US, set to another value."""
    if uid == EXPLICIT_BE:
        tag, value = tag[1::-1] + tag[3:1:-1], value[::-1]
    at = content.rfind(tag)
    if at < 0:
        return None
    return content[: at + 8] + value + content[at + 8 + len(value) :]


def _absurd_size(content: bytes, uid: str, random: np.random.Generator) -> Damage | None:
    tag = (b"\x28\x00\x10\x00", b"\x28\x00\x11\x00")[random.integers(2)]
    value = (0, 1, 2, 3000, 65535)[random.integers(5)]
    out = _number(content, tag, struct.pack("<H", value), uid)
    return Damage(out, "structural", f"{tag.hex()} is {value}") if out else None


def _absurd_bits(content: bytes, uid: str, random: np.random.Generator) -> Damage | None:
    value = (0, 3, 64, 255, 65535)[random.integers(5)]
    out = _number(content, b"\x28\x00\x00\x01", struct.pack("<H", value), uid)
    return Damage(out, "structural", f"Bits Allocated is {value}") if out else None


def _absurd_samples(content: bytes, uid: str, random: np.random.Generator) -> Damage | None:
    value = (0, 2, 4, 65535)[random.integers(4)]
    out = _number(content, b"\x28\x00\x02\x00", struct.pack("<H", value), uid)
    return Damage(out, "structural", f"Samples per Pixel is {value}") if out else None


def _absurd_frames(content: bytes, uid: str, random: np.random.Generator) -> Damage | None:
    tag = b"\x00\x28\x00\x08" if uid == EXPLICIT_BE else b"\x28\x00\x08\x00"
    at = content.rfind(tag)
    if at < 0:
        return None
    order = ">" if uid == EXPLICIT_BE else "<"
    form = order + ("I" if uid == IMPLICIT_LE else "2xH")
    (length,) = struct.unpack_from(form, content, at + 4)
    value = (b"0", b"-1", b"99", b"2147483647", b"4294967297", b"x")[random.integers(6)]
    value += b" " * (len(value) % 2)
    header = content[at : at + 4] + (content[at + 4 : at + 6] if uid != IMPLICIT_LE else b"")
    size = struct.pack(order + ("I" if uid == IMPLICIT_LE else "H"), len(value))
    out = content[:at] + header + size + value + content[at + 8 + length :]
    return Damage(out, "structural", f"Number of Frames is {value!r}")


def _wild_length(content: bytes, uid: str, random: np.random.Generator) -> Damage | None:
    """An element's length that reaches beyond the file."""
    del random
    order = ">" if uid == EXPLICIT_BE else "<"
    rows = struct.pack(order + "HH", 0x0028, 0x0010)
    at = content.rfind(rows)
    form, value = ("I", 0x7FFFFFF0) if uid == IMPLICIT_LE else ("H", 0xFFF0)
    place = at + (4 if uid == IMPLICIT_LE else 6)
    if len(content) - at < value:
        patch = struct.pack(order + form, value)
        out = content[:place] + patch + content[place + len(patch) :]
        return Damage(out, "structural", f"the length of Rows is {value}")
    return None


def _item_length(content: bytes, uid: str, random: np.random.Generator) -> Damage:
    del uid
    items = fragments(content)
    item = items[random.integers(len(items))]
    length = item.stop - item.begin
    value = (0x7FFFFFFE, 0xFFFFFFFE, length + 2, max(0, length - 2), length + 1, 0xFFFFFFFF)[
        random.integers(6)
    ]
    out = content[: item.start + 4] + struct.pack("<I", value) + content[item.begin :]
    return Damage(out, "structural", f"an item of {length} bytes claims {value}")


def _item_tag(content: bytes, uid: str, random: np.random.Generator) -> Damage:
    del uid
    items = fragments(content)
    item = items[random.integers(len(items))]
    return Damage(
        content[: item.start] + bytes(4) + content[item.start + 4 :], "structural", "an item has no tag"
    )


def _frame_removed(content: bytes, uid: str, random: np.random.Generator) -> Damage:
    del uid
    items = fragments(content)[1:]
    item = items[random.integers(len(items))]
    return Damage(content[: item.start] + content[item.stop :], "structural", "a frame is missing")


def _wild_table(content: bytes, uid: str, random: np.random.Generator) -> Damage:
    del uid
    table = fragments(content)[0]
    count = int(random.integers(1, 5))
    wild = b"".join(struct.pack("<I", int(n)) for n in random.integers(0, 1 << 32, count))
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(wild)) + wild
    return Damage(content[: table.start] + item + content[table.stop :], "structural", "a wild offset table")


def _with_frame(content: bytes, item: Fragment, codestream: bytes) -> bytes:
    codestream += b"\0" * (len(codestream) % 2)
    header = struct.pack("<HHI", 0xFFFE, 0xE000, len(codestream))
    return content[: item.start] + header + codestream + content[item.stop :]


def _frame(content: bytes, random: np.random.Generator) -> tuple[Fragment, bytes]:
    items = fragments(content)[1:]
    item = items[random.integers(len(items))]
    return item, content[item.begin : item.stop]


def _frame_cut(content: bytes, uid: str, random: np.random.Generator) -> Damage:
    """The codestream ends early, in an item whose length is right."""
    del uid
    item, codestream = _frame(content, random)
    # Not in the last bytes, which may be padding.
    at = int(random.integers(0, max(1, len(codestream) - 4)))
    out = _with_frame(content, item, codestream[:at])
    return Damage(out, "structural", f"a codestream cut at {at} of {len(codestream)}")


def _frame_hole(content: bytes, uid: str, random: np.random.Generator) -> Damage | None:
    """Bytes are missing inside a codestream, whose end is there."""
    item, codestream = _frame(content, random)
    if len(codestream) < 400:
        return None
    at = int(random.integers(len(codestream) // 3, len(codestream) * 2 // 3))
    size = int(random.integers(16, len(codestream) // 5 + 17))
    out = _with_frame(content, item, codestream[:at] + codestream[at + size :])
    scan = codestream.rfind(b"\xff\xda") if BY_UID[uid].group in ("jpeg", "jpeg-lossless") else -1
    where = "a scan" if 0 <= scan <= at else "a codestream"
    return Damage(
        out, "structural", f"a hole in {where}: {size} bytes at {at} of a codestream of {len(codestream)}"
    )


def _frame_blank(content: bytes, uid: str, random: np.random.Generator) -> Damage:
    """The first bytes of the codestream are zeroed."""
    del uid
    item, codestream = _frame(content, random)
    size = int(random.integers(2, 64))
    out = _with_frame(content, item, bytes(size) + codestream[size:])
    return Damage(out, "structural", f"the first {size} bytes of a codestream are zero")


def _frame_foreign(content: bytes, uid: str, random: np.random.Generator) -> Damage:
    """What stands in the item is something else altogether."""
    del uid
    item, codestream = _frame(content, random)
    other = (b"<html>404 Not Found</html>", b"\xff\xd8\xff\xe0" + bytes(200), random.bytes(len(codestream)))
    return Damage(_with_frame(content, item, other[random.integers(3)]), "structural", "a foreign codestream")


def _segment_removed(content: bytes, uid: str, random: np.random.Generator) -> Damage | None:
    """A marker segment that no decoder can do without is missing."""
    item, codestream = _frame(content, random)
    group = BY_UID[uid].group
    if group in ("jpeg", "jpeg-lossless", "jpeg-ls"):
        needed, last = frozenset((0xC0, 0xC1, 0xC3, 0xC4, 0xDA, 0xDB, 0xF7)), 0xDA
    elif group in ("jpeg2000", "htj2k"):
        needed, last = frozenset((0x51, 0x52, 0x5C, 0x50)), 0x90
    else:
        return None
    found, at = [], 2
    while at + 4 <= len(codestream):
        marker, length = codestream[at + 1], int.from_bytes(codestream[at + 2 : at + 4], "big")
        if marker in needed:
            found.append((at, at + 2 + length, marker))
        if marker == last:
            break
        at += 2 + length
    begin, stop, marker = found[random.integers(len(found))]
    out = _with_frame(content, item, codestream[:begin] + codestream[stop:])
    return Damage(out, "structural", f"marker segment {marker:02X} removed")


def _rle_offsets(content: bytes, uid: str, random: np.random.Generator) -> Damage | None:
    if BY_UID[uid].group != "rle":
        return None
    item, codestream = _frame(content, random)
    field = int(random.integers(0, 4)) * 4
    value = (0, 1, 63, 65, 0x7FFFFFFF, 0xFFFFFFFF)[random.integers(6)]
    out = codestream[:field] + struct.pack("<I", value) + codestream[field + 4 :]
    return Damage(_with_frame(content, item, out), "structural", f"RLE header field {field} is {value}")


Way = Callable[[bytes, str, np.random.Generator], Damage | None]
_ANYWHERE: tuple[Way, ...] = (_absurd_size, _absurd_bits, _absurd_samples, _absurd_frames, _wild_length)
_IN_FRAGMENTS: tuple[Way, ...] = (
    _item_length, _item_tag, _frame_removed, _wild_table, _frame_cut, _frame_cut, _frame_hole, _frame_blank,
    _frame_foreign, _segment_removed, _segment_removed, _rle_offsets,
)  # fmt: skip
