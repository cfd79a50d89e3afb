"""RLE and deflated frames: what is theirs alone among the encoders."""

import tracemalloc
import zlib
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest

from dicomferry.errors import Permanent
from tests.support.images.cells import back, picture
from workers.codecs.decoders import decode
from workers.codecs.encoders import Encoded, Quality, encode
from workers.codecs.image import Image

RLE = "1.2.840.10008.1.2.5"
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"


def test_rle_rows_are_apart_and_segments_even() -> None:
    cells = np.zeros((4, 300), np.uint8)  # one run, were it not for the rows
    image = Image(4, 300, 1, 8, 8, 7, signed=False, photometric="MONOCHROME2")
    codestream = encode(RLE, cells, image, Quality()).codestream
    assert len(codestream) % 2 == 0
    lengths, at = [], 64
    while at < len(codestream):
        lengths.append(257 - codestream[at])
        at += 2
    assert sum(lengths[:3]) == 300


def test_rle_segments_of_odd_length_are_padded() -> None:
    cells, image = picture(16, shape=(5, 7))
    odd = 0
    for seed in range(8):
        codestream = encode(RLE, np.roll(cells, seed, axis=1) // (seed + 1), image, Quality()).codestream
        offsets = np.frombuffer(codestream, "<u4", 2, 4)
        assert not (offsets % 2).any()
        assert len(codestream) % 2 == 0
        odd += codestream[-1] == 0 or codestream[offsets[1] - 1] == 0
    assert odd


def test_a_deflated_frame_is_raw_deflate_of_the_native_bytes() -> None:
    for cells, image in (picture(12), picture(8, samples=3), picture(32, allocated=32)):
        codestream = encode(DEFLATED_FRAME, cells, image, Quality()).codestream
        assert zlib.decompress(codestream, -zlib.MAX_WBITS) == cells.tobytes()
        padded = Encoded(codestream + b"\x00", image.photometric)
        assert back(DEFLATED_FRAME, padded, image).tobytes() == cells.tobytes()


def test_a_deflated_frame_by_plane_becomes_one_by_pixel() -> None:
    cells, image = picture(8, samples=3)
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    codestream = packer.compress(np.ascontiguousarray(cells.transpose(2, 0, 1)).tobytes()) + packer.flush()
    decoded = decode(DEFLATED_FRAME, codestream, replace(image, planar=1), rgb=True)
    assert (decoded.samples == cells).all()


def test_a_deflated_frame_without_the_end_of_its_stream_is_refused() -> None:
    cells, image = picture(12)
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    endless = packer.compress(cells.tobytes()) + packer.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(Permanent, match="cut or damaged"):
        decode(DEFLATED_FRAME, endless, image, rgb=True)


def test_a_deflated_bomb_is_not_inflated_beyond_the_frame() -> None:
    _, image = picture(8)
    bomb = imagecodecs.deflate_encode(bytes(50 << 20), level=6, raw=True)
    tracemalloc.start()
    try:
        with pytest.raises(Permanent, match="does not hold"):
            decode(DEFLATED_FRAME, bomb, image, rgb=True)
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()
