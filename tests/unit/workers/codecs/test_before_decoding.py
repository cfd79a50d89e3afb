"""What a codestream's head contradicts is refused before any decoder runs, which would believe it."""

import struct
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest

from dicomferry.errors import Permanent
from tests.support.images.synthetic import image
from workers.codecs import decoders
from workers.codecs.decoders import decode
from workers.codecs.image import Image

JPEG_LS, JPEG_XL = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.110"
GREY = Image(64, 48, 1, 8, 8, 7, signed=False, photometric="MONOCHROME2")
PICTURE = image(64, 48, 8)
OVERSIZE = b"\xff\xf8\0\x0c\4\4" + struct.pack(">II", 60_000, 60_000)  # LSE: T.87 C.2.4.1.4


def jpeg_ls(picture: np.ndarray = PICTURE) -> bytes:
    return bytes(imagecodecs.jpegls_encode(picture))


def with_size(rows: int, columns: int, more: bytes = b"") -> bytes:
    """A JPEG-LS whose frame header says so, with more behind that."""
    made = jpeg_ls()
    at = made.index(b"\xff\xf7")
    end = at + 2 + int.from_bytes(made[at + 2 : at + 4], "big")
    return made[: at + 5] + struct.pack(">HH", rows, columns) + made[at + 9 : end] + more + made[end:]


def jpeg_xl(frames: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(frames, lossless=True))


@pytest.mark.parametrize(
    ("uid", "make", "reason"),
    [
        (JPEG_LS, lambda: with_size(65, 48), "65 rows and 48 columns"),
        (JPEG_LS, lambda: with_size(60_000, 60_000), "60000 rows"),
        (JPEG_LS, lambda: with_size(0, 0), "0 rows"),
        (JPEG_LS, lambda: with_size(0, 0, OVERSIZE), "0 rows"),
        (JPEG_LS, lambda: jpeg_ls(image(64, 48, 16)), "16 bits do not fit"),
        (JPEG_LS, lambda: jpeg_ls(image(64, 48, 8, samples=3)), "3 components"),
        (JPEG_LS, lambda: jpeg_ls().replace(b"\xff\xda", b"\xff\xf7\0\2\xff\xda"), "frame headers"),
        (JPEG_XL, lambda: jpeg_xl(np.stack([PICTURE] * 9)), "animated"),
        (JPEG_XL, lambda: jpeg_xl(image(64, 49, 8)), "49 columns"),
        (JPEG_XL, lambda: jpeg_xl(image(64, 48, 16)), "16 bits do not fit"),
    ],
)
def test_no_decoder_runs_over_a_head_that_contradicts_the_data_set(
    uid: str, make: Callable[[], bytes], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codestream = make()

    def never(*_args: object, **_options: object) -> None:
        pytest.fail("a decoder ran")

    for name in ("jpegls_decode", "jpegxl_decode", "jpegxl_decode_jpeg"):
        monkeypatch.setattr(decoders.imagecodecs, name, never)
    with pytest.raises(Permanent, match=reason):
        decode(uid, codestream, GREY, rgb=False)
