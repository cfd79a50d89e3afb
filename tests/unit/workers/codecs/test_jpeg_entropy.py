"""A JPEG is decoded once where its data are seen to be all there, and refused where they are not."""

import imagecodecs
import numpy as np
import pytest

from dicomferry.errors import Permanent
from tests.support.images.synthetic import image
from workers.codecs import jpeg_entropy
from workers.codecs.codestreams import read_jpeg
from workers.codecs.jpeg_entropy import decode_complete

LOSSLESS = {"lossless": True, "predictor": 1}


def cut(codestream: bytes, share: float) -> bytes:
    """Without the rest of its entropy-coded data, and with EOI."""
    start = codestream.index(b"\xff\xda")
    end = codestream.rindex(b"\xff\xd9")
    return codestream[: start + 14 + int((end - start - 14) * share)].rstrip(b"\xff") + b"\xff\xd9"


def lossless(bits: int, samples: int = 1, predictor: int = 1) -> tuple[bytes, np.ndarray]:
    pixels = image(61, 83, bits, samples=samples)
    options = {"lossless": True, "predictor": predictor, "bitspersample": bits}
    if samples == 3:
        options |= {"colorspace": "RGB", "outcolorspace": "RGB"}
    return imagecodecs.jpeg8_encode(pixels, **options), pixels


@pytest.fixture
def decodes(monkeypatch):
    made = []
    decode = imagecodecs.jpeg8_decode
    monkeypatch.setattr(
        jpeg_entropy.imagecodecs, "jpeg8_decode", lambda *a, **k: made.append(1) or decode(*a, **k)
    )
    return made


@pytest.mark.parametrize(("bits", "samples"), [(5, 1), (8, 1), (12, 1), (16, 1), (8, 3)])
def test_a_sound_lossless_frame_is_decoded_once(bits, samples, decodes):
    codestream, pixels = lossless(bits, samples)
    colour = "RGB" if samples == 3 else None
    assert np.array_equal(decode_complete(codestream, read_jpeg(codestream), colour, colour), pixels)
    assert len(decodes) == 1


@pytest.mark.parametrize("predictor", range(2, 8))
def test_a_lossless_frame_of_any_predictor_is_decoded_once(predictor, decodes):
    codestream, pixels = lossless(12, predictor=predictor)
    assert np.array_equal(decode_complete(codestream, read_jpeg(codestream), None, None), pixels)
    assert len(decodes) == 1


@pytest.mark.parametrize("rows", [57, 61, 64])
def test_a_sound_frame_of_12_bits_is_decoded_once_and_has_the_pixels_of_a_plain_decode(rows, decodes):
    codestream = imagecodecs.jpeg8_encode(image(rows, 83, 12), level=90, bitspersample=12)
    expected = imagecodecs.jpeg8_decode(codestream)
    decodes.clear()
    assert np.array_equal(decode_complete(codestream, read_jpeg(codestream), None, None), expected)
    assert len(decodes) == 1


@pytest.mark.parametrize(("subsampling", "count"), [("444", 1), ("422", 1), ("420", 2)])
def test_colours_that_stay_ycbcr_have_the_pixels_of_a_plain_decode(subsampling, count, decodes):
    codestream = imagecodecs.jpeg8_encode(image(61, 83, 8, samples=3), level=90, subsampling=subsampling)
    expected = imagecodecs.jpeg8_decode(codestream, colorspace="YCBCR", outcolorspace="YCBCR")
    decodes.clear()
    assert np.array_equal(decode_complete(codestream, read_jpeg(codestream), "YCBCR", "YCBCR"), expected)
    assert len(decodes) == count


@pytest.mark.parametrize("options", [LOSSLESS, {"level": 90}], ids=["lossless", "lossy"])
def test_a_frame_that_ends_in_the_grey_of_missing_data_is_decoded_twice_and_believed(options, decodes):
    pixels = image(61, 83, 12)
    pixels[-16:] = 1 << 11
    codestream = imagecodecs.jpeg8_encode(pixels, bitspersample=12, **options)
    found = decode_complete(codestream, read_jpeg(codestream), None, None)
    assert np.array_equal(found[-8:], pixels[-8:])
    assert len(decodes) <= 2


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        (1, LOSSLESS | {"bitspersample": 12}),
        (1, LOSSLESS | {"bitspersample": 12, "predictor": 6}),
        (3, LOSSLESS | {"bitspersample": 8, "colorspace": "RGB", "outcolorspace": "RGB"}),
        (1, {"level": 90, "bitspersample": 12}),
        (3, {"level": 90, "subsampling": "422"}),
    ],
    ids=["lossless", "predictor 6", "lossless colour", "12 bits", "colour"],
)
def test_not_a_byte_of_the_end_may_be_missing(samples, options):
    codestream = imagecodecs.jpeg8_encode(
        image(61, 83, options.get("bitspersample", 8), samples=samples), **options
    )
    colour = None if samples == 1 else "RGB" if "lossless" in options else "YCBCR"
    end = codestream.rindex(b"\xff\xd9")
    for missing in range(1, 150):
        damaged = codestream[: end - missing].rstrip(b"\xff") + b"\xff\xd9"
        with pytest.raises((Permanent, RuntimeError)):
            decode_complete(damaged, read_jpeg(damaged), colour, colour)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(("bits", "samples"), [(8, 1), (12, 1), (16, 1), (8, 3)])
def test_a_lossless_frame_that_was_cut_is_refused(bits, samples, share):
    codestream, _ = lossless(bits, samples)
    colour = "RGB" if samples == 3 else None
    damaged = cut(codestream, share)
    with pytest.raises((Permanent, RuntimeError)):
        decode_complete(damaged, read_jpeg(damaged), colour, colour)


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_a_sound_baseline_frame_has_the_pixels_of_a_plain_decode(subsampling, decodes):
    codestream = imagecodecs.jpeg8_encode(image(61, 83, 8, samples=3), level=90, subsampling=subsampling)
    expected = imagecodecs.jpeg8_decode(codestream, colorspace="YCBCR", outcolorspace="RGB")
    decodes.clear()
    assert np.array_equal(decode_complete(codestream, read_jpeg(codestream), "YCBCR", "RGB"), expected)
    assert not decodes


def test_a_colour_space_that_its_markers_deny_is_taken_all_the_same():
    codestream = imagecodecs.jpeg8_encode(image(61, 83, 8, samples=3), level=90)  # says YCbCr
    expected = imagecodecs.jpeg8_decode(codestream, colorspace="RGB", outcolorspace="RGB")
    assert np.array_equal(decode_complete(codestream, read_jpeg(codestream), "RGB", "RGB"), expected)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_baseline_frame_that_was_cut_is_refused(share):
    codestream = imagecodecs.jpeg8_encode(image(61, 83, 8, samples=3), level=90)
    damaged = cut(codestream, share)
    with pytest.raises((Permanent, RuntimeError)):
        decode_complete(damaged, read_jpeg(damaged), "YCBCR", "RGB")
