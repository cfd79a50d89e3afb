"""What the first bytes of a data set show, and which of them do not belong to it."""

import struct

import pytest

from dicomferry.dicom.encoding import shown_encoding, stray_length
from dicomferry.dicom.syntaxes import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE

J2K = b"1.2.840.10008.1.2.4.90"
OWN = {  # (0008,0016) in each encoding, and what follows
    EXPLICIT_LE: b"\x08\x00\x16\x00UI\x06\x001.2.3\0",
    IMPLICIT_LE: b"\x08\x00\x16\x00\x06\0\0\x001.2.3\0",
    EXPLICIT_BE: b"\x00\x08\x00\x16UI\x00\x061.2.3\0",
}


def explicit(group: int, number: int, vr: bytes, value: bytes, order: str = "<") -> bytes:
    value += b"\0" * (len(value) % 2)
    if vr == b"OB":
        return struct.pack(order + "HH2sxxI", group, number, vr, len(value)) + value
    return struct.pack(order + "HH2sH", group, number, vr, len(value)) + value


def implicit(group: int, number: int, value: bytes, order: str = "<") -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack(order + "HHI", group, number, len(value)) + value


VERSION, SYNTAX = explicit(2, 1, b"OB", b"\0\1"), explicit(2, 0x10, b"UI", J2K)
STRAYS = {
    "none": b"",
    "file meta": VERSION + SYNTAX,
    "out of order": SYNTAX + VERSION,
    "implicit": implicit(2, 1, b"\0\1") + implicit(2, 0x10, J2K),
    "group length": explicit(2, 0, b"UL", b"\4\0\0\0") + SYNTAX,
    "command in implicit": implicit(0, 0, b"\1\0\0\0") + implicit(0, 2, b"1.2") + SYNTAX,
    "command in explicit": explicit(0, 2, b"UI", b"1.2"),
}


def measured(content: bytes, encoding: str, end: int | None = None) -> int:
    return stray_length(lambda at, size: content[at : at + size], 0, end or len(content), encoding)


@pytest.mark.parametrize("encoding", [EXPLICIT_LE, IMPLICIT_LE])
@pytest.mark.parametrize("strays", STRAYS.values(), ids=STRAYS.keys())
def test_elements_that_no_data_set_has_are_measured_however_they_are_encoded(strays, encoding):
    assert measured(strays + OWN[encoding], encoding) == len(strays)


@pytest.mark.parametrize(
    "strays",
    [
        b"",
        VERSION + SYNTAX,
        explicit(2, 1, b"OB", b"\0\1", ">") + explicit(2, 0x10, b"UI", J2K, ">"),
        explicit(0, 2, b"UI", b"1.2", ">"),
        implicit(0, 2, b"1.2", ">"),
    ],
)
def test_strays_of_either_byte_order_stand_before_a_big_endian_data_set(strays):
    assert measured(strays + OWN[EXPLICIT_BE], EXPLICIT_BE) == len(strays)


@pytest.mark.parametrize(
    "content",
    [
        OWN[EXPLICIT_LE],
        b"\4\0\x30\x11CS\4\0ABC ",  # a media directory's: not one of ours to leave out
        b"\x08\0\0\0UL\4\0\0\0\0\0",
        bytes(32),  # padding
        b"",
        b"\2\0",
        SYNTAX[:-1],  # cut: whoever parses it finds that out
        implicit(2, 0x10, b"")[:4] + b"\xff\xff\xff\xff" + OWN[EXPLICIT_LE],
    ],
)
def test_nothing_else_is_taken_for_a_stray(content):
    assert measured(content, EXPLICIT_LE) == 0


def test_endless_strays_end():
    assert measured(implicit(2, 1, b"") * 100_000, EXPLICIT_LE) < 8_000


@pytest.mark.parametrize(
    ("head", "shown"),
    [
        *((own[:8], encoding) for encoding, own in OWN.items()),
        (b"\x08\0\0\0UL\4\0", EXPLICIT_LE),
        (b"\x08\0\0\0\4\0\0\0", IMPLICIT_LE),
        (b"\0\x08\0\0UL\0\4", EXPLICIT_BE),
        (b"\x08\0\x06\0\xff\xff\xff\xff", IMPLICIT_LE),  # a sequence
        (b"\x08\0\x06\0SQ\0\0", EXPLICIT_LE),
        (b"\x08\0\x08\0\x2c\1\0\0", IMPLICIT_LE),  # 300 bytes
        (b"\x08\0\x08\0\0\0\x0a\0", ""),  # VR of zeros, as some writers have it
        (b"\x08\0\x08\0??\x0a\0", ""),
        (b"\x08\0\x08\0ZZ\x0a\0", ""),
        (b"\0\x08\0\x08\0\0\0\x0a", ""),  # implicit and big endian: no transfer syntax is
        (b"this is ", ""),
        (b"\x08\0\x08\0", ""),
    ],
)
def test_the_first_element_shows_the_encoding_or_leaves_it_open(head, shown):
    assert shown_encoding(head) == shown
