"""Headers that never end: refused after as many parts as any codestream has, whatever they weigh."""

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
import pytest

from dicomferry.dicom.signatures import MAX_SEGMENTS, shown_syntax
from dicomferry.errors import Permanent
from tests.support.images.synthetic import image
from workers.codecs import boundaries
from workers.codecs.codestreams import read_jpeg, segments
from workers.codecs.j2k_header import check_work, read_j2k
from workers.codecs.jpeg_tables import with_known_symbols
from workers.codecs.jxl_header import read_jxl

COUNT = 1 << 21
JPEG, RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5"


def jpeg() -> bytes:
    return bytes(imagecodecs.jpeg8_encode(image(16, 16, 8)))


def jpeg_2000() -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(image(64, 64, 8), codecformat="J2K", reversible=True))


def inside(codestream: bytes, at: int, hostile: bytes) -> bytes:
    return codestream[:at] + hostile + codestream[at:]


def many_parts() -> bytes:
    made = jpeg_2000()
    at = made.index(b"\xff\x90")
    return made[:at] + (b"\xff\x90\0\x0a\0\0" + struct.pack(">I", 14) + b"\0\1\xff\x93") * COUNT + made[at:]


def read_all_j2k(codestream: bytes) -> None:
    check_work(codestream, read_j2k(codestream).components)


@pytest.mark.parametrize(
    ("make", "read", "reason"),
    [
        (lambda: b"\xff\xd8" * COUNT, read_jpeg, "more than 4096 marker segments"),
        (lambda: inside(jpeg(), 2, b"\xff\xd8" * COUNT), read_jpeg, "more than 4096 marker segments"),
        (lambda: inside(jpeg(), 2, b"\xff\xd0" * COUNT), read_jpeg, "more than 4096 marker segments"),
        (lambda: inside(jpeg(), 2, b"\xff\xfe\0\2" * COUNT), read_jpeg, "more than 4096 marker segments"),
        (lambda: b"\xff\xd8" + b"\xff" * 50 * COUNT, read_jpeg, "ends early"),
        (lambda: inside(jpeg(), 2, (b"\xff\xc4\xff\xee" + bytes(0xFFEC)) * 17), read_jpeg, "Huffman tables"),
        (
            lambda: inside(jpeg(), len(jpeg()) - 2, b"\xff\xc4\0\2" * COUNT),
            lambda codestream: with_known_symbols(codestream, 11, 0),
            "Huffman tables",
        ),
        (
            lambda: inside(jpeg(), len(jpeg()) - 2, b"\xff\xfe\0\2" * COUNT) + jpeg(),
            lambda codestream: boundaries.count(JPEG, codestream),
            "more than 4096 marker segments",
        ),
        (lambda: inside(jpeg_2000(), 2, b"\xff\x64\0\2" * COUNT), read_j2k, "SIZ|component"),
        (
            lambda: inside(jpeg_2000(), jpeg_2000().index(b"\xff\x52"), b"\xff\x64\0\2" * COUNT),
            read_j2k,
            "more than 4096 marker segments",
        ),
        (many_parts, read_all_j2k, "more than 4096 tile-parts"),
        (
            lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + b"\0\0\0\x08free" * COUNT,
            read_jxl,
            "holds no codestream",
        ),
    ],
)
def test_a_header_without_end_is_refused_with_the_reason(
    make: Callable[[], bytes], read: Callable[[bytes], Any], reason: str
) -> None:
    with pytest.raises(Permanent, match=reason):
        read(make())


def test_fill_bytes_before_a_marker_are_no_segments() -> None:
    made = jpeg()
    filled = inside(made, 2, b"\xff" * 10 * COUNT)
    assert [found[:2] for found in segments(filled)] == [found[:2] for found in segments(made)]
    assert read_jpeg(filled) == read_jpeg(made)
    assert shown_syntax(filled) == JPEG


def test_a_header_of_as_many_segments_as_an_icc_profile_and_exif_need_is_read() -> None:
    profile = (b"\xff\xe2" + struct.pack(">H", 1002) + bytes(1000)) * 600
    made = inside(jpeg(), 2, profile)
    assert read_jpeg(made) == read_jpeg(jpeg())
    assert len(segments(made)) < MAX_SEGMENTS


@pytest.mark.parametrize("uid", [JPEG, RLE])
def test_codestreams_are_counted_up_to_a_number_that_says_enough(uid: str) -> None:
    tiny = b"\xff\xd8\xff\xda\0\2\xff\xd9" if uid == JPEG else struct.pack("<16I", 1, 64, *[0] * 14) + b"\0\0"
    assert boundaries.count(uid, tiny * 100) == 100
    assert boundaries.count(uid, tiny * (boundaries.MAX_COUNTED + 100)) == boundaries.MAX_COUNTED
