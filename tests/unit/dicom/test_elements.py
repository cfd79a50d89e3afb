"""The walk over an encoded data set: what it finds, and what it refuses."""

import struct

import pytest

from dicomferry.dicom.elements import EXPLICIT, EXPLICIT_BIG, IMPLICIT, Element, Encoding, elements, items
from dicomferry.errors import Permanent


def short(tag: int, vr: bytes, value: bytes, encoding: Encoding = EXPLICIT, *, claims: int = 0) -> bytes:
    """An element of a VR with a length of 16 bits, which says `claims` bytes too many."""
    head = struct.pack(encoding.order + "HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value) + claims)
    return head + value


@pytest.mark.parametrize("encoding", [EXPLICIT, EXPLICIT_BIG])
def test_elements_of_short_and_long_vrs_stand_where_they_are_found(encoding: Encoding) -> None:
    first = short(0x00080060, b"CS", b"MR", encoding)
    second = struct.pack(encoding.order + "HH2sHI", 0x0009, 0x1001, b"OB", 0, 4) + b"abcd"
    last = short(0x00280010, b"US", b"\1\2", encoding)
    assert list(elements(first + second + last, 0, 36, encoding)) == [
        Element(0x00080060, b"CS", 0, 8, 10, 10, False),
        Element(0x00091001, b"OB", 10, 22, 26, 26, False),
        Element(0x00280010, b"US", 26, 34, 36, 36, False),
    ]


@pytest.mark.parametrize("encoding", [EXPLICIT, EXPLICIT_BIG])
def test_a_short_element_that_claims_more_than_remains_is_refused(encoding: Encoding) -> None:
    content = short(0x00080060, b"CS", b"MR", encoding, claims=2)
    with pytest.raises(Permanent, match="claims 4 bytes where 2 remain"):
        list(elements(content, 0, len(content), encoding))


def test_an_element_never_reaches_beyond_the_item_that_holds_it() -> None:
    inside = short(0x00080060, b"CS", b"MR", claims=2)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inside)) + inside
    content = (
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, len(item)) + item + short(0x00100020, b"LO", b"ID")
    )
    (sequence, _) = elements(content, 0, len(content), EXPLICIT)
    (found,) = items(content, sequence, EXPLICIT)
    with pytest.raises(Permanent, match="claims 4 bytes where 2 remain"):
        list(elements(content, found.value, found.stop, EXPLICIT))


def test_a_stray_item_whose_length_looks_like_a_vr_is_no_element() -> None:
    content = struct.pack("<HH", 0xFFFE, 0xE000) + b"US\0\0" + bytes(0x5355)
    with pytest.raises(Permanent, match="stray"):
        list(elements(content, 0, len(content), EXPLICIT))


def test_a_length_that_looks_like_a_vr_is_a_length_in_implicit_vr() -> None:
    content = struct.pack("<HH", 0x0009, 0x1001) + b"US\0\0" + bytes(0x5355)
    (found,) = elements(content, 0, len(content), IMPLICIT)
    assert (found.vr, found.length) == (None, 0x5355)


@pytest.mark.parametrize("left", [1, 7])
def test_a_header_that_is_cut_is_refused(left: int) -> None:
    content = short(0x00080060, b"CS", b"MR") + b"\x10\0\x20\0LO\2\0"[:left]
    with pytest.raises(Permanent, match="ends inside an element"):
        list(elements(content, 0, len(content), EXPLICIT))
