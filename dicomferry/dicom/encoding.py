"""What the bytes of a data set show of its encoding (PS3.5 7.1, annex A), whatever is said of it elsewhere.

`Read` returns some bytes at an offset, fewer where they end: of a file, a map or a buffer.
"""

import struct
from collections.abc import Callable
from functools import lru_cache

from dicomferry.dicom.syntaxes import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE

Read = Callable[[int, int], bytes]

# PS3.5 7.1.2: these have two reserved bytes and a length of 32 bits; every other VR one of 16 bits.
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_SPACE_PADDED = frozenset(b"AE AS CS DA DS DT IS LO LT PN SH ST TM UC UR UT".split())
UNDEFINED = 0xFFFFFFFF  # a length: a delimiter tells the end
NATIVE = frozenset((IMPLICIT_LE, EXPLICIT_LE, EXPLICIT_BE))

# Command elements and File Meta Information: no data set has them (PS3.7 6.3, PS3.10 7.1).
STRAY_GROUPS = frozenset((0x0000, 0x0002))
_MAX_STRAYS = 256  # elements; both groups together have fewer
_LONGEST_FIRST = 0xFFFF  # bytes of a data set's first element in Implicit VR


def padding(vr: bytes) -> bytes:
    """The byte that makes a value of odd length even (PS3.5 6.2)."""
    return b" " if vr in _SPACE_PADDED else b"\0"


@lru_cache(maxsize=4096)
def dictionary_vr(tag: int) -> str:
    """The VR of a tag by PS3.6, several as in "US or SS"; UN where it has none."""
    if tag >> 16 & 1:
        # A private creator reserves a block (PS3.5 7.8.1); only its owner knows the elements in it.
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"
    # Not at the top: pydicom takes long to load, and files in Explicit VR need none of it.
    from pydicom.datadict import dictionary_VR  # noqa: PLC0415

    try:
        vr: str = dictionary_VR(tag)
    except KeyError:
        return "UN"
    return vr if vr != "NONE" else "UN"


def encoding_of(transfer_syntax_uid: str) -> str:
    """The native transfer syntax whose data elements are encoded as in that one (PS3.5 annex A)."""
    return transfer_syntax_uid if transfer_syntax_uid in NATIVE else EXPLICIT_LE


def shown_encoding(head: bytes) -> str:
    """The native transfer syntax in which the 8 bytes `head` begin a data set; empty where they do not tell.

    A data set begins with a low group, so its zero byte shows the byte order. In Implicit VR a length follows
    the tag, and no first element is so long that it looks like a VR (16,705 bytes).
    """
    big = head[:1] == b"\0" and head[1:2] != b"\0"
    if head[4:6] in SHORT_VRS | LONG_VRS:
        return EXPLICIT_BE if big else EXPLICIT_LE
    length = int.from_bytes(head[4:8], "little")
    is_implicit = not big and len(head) == 8 and (length <= _LONGEST_FIRST or length == UNDEFINED)
    return IMPLICIT_LE if is_implicit and not head[4:6].isalpha() else ""


def stray_length(read: Read, start: int, end: int, encoding: str) -> int:
    """Bytes of the stray elements at the head of the data set from `start` to `end`.

    Some senders leave File Meta Information or command elements there. `encoding` is that of the data set;
    strays may have another one: File Meta Information is in Explicit VR Little Endian, commands in Implicit.
    """
    at = start
    for _ in range(_MAX_STRAYS):
        header = read(at, 12)
        order = _order_of_stray(header, encoding)
        if not order:
            break
        length, size = _length_of(header, order)
        if at + size + length > end:
            break
        at += size + length
    return at - start


def _order_of_stray(header: bytes, encoding: str) -> str:
    """The byte order of a stray element's header, as `struct` spells it; empty where it is of none."""
    if len(header) < 8 or not any(header[:8]):  # zeros are padding
        return ""
    group = header[:2]
    if group == b"\2\0":
        return "<"
    if encoding == EXPLICIT_BE:
        return ">" if group in (b"\0\2", b"\0\0") else ""
    return "<" if group == b"\0\0" else ""


def _length_of(header: bytes, order: str) -> tuple[int, int]:
    """Bytes of an element's value, and of its header."""
    vr = header[4:6]
    if vr in LONG_VRS and len(header) == 12:
        return struct.unpack_from(order + "I", header, 8)[0], 12
    if vr in SHORT_VRS:
        return struct.unpack_from(order + "H", header, 6)[0], 8
    return struct.unpack_from(order + "I", header, 4)[0], 8
