"""JPEG XL: its header, its lossy colour, and JPEGs that it holds and gives back bit for bit."""

from dataclasses import replace
from itertools import product

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread

from dicomferry.errors import Permanent, Unsuitable
from tests.support.images import independent
from tests.support.images.cells import picture
from tests.support.images.files import shipped
from workers.codecs.decoders import decode
from workers.codecs.encoders import Quality, encode, recompress
from workers.codecs.image import Image
from workers.codecs.jxl_header import read_jxl

JPEG = "1.2.840.10008.1.2.4."
BASELINE, EXTENDED = JPEG + "50", JPEG + "51"
JPEG_XL, RECOMPRESSED, JPEG_XL_LOSSY = (JPEG + suffix for suffix in ("110", "111", "112"))

# The baseline JPEGs of 8 bits that pydicom and pydicom-data ship.
BASELINE_FILES = [
    "SC_rgb_jpeg.dcm",
    "SC_rgb_jpeg_app14_dcmd.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jpeg_lossy_gdcm.dcm",
    "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+n1.dcm",
    "SC_rgb_dcmtk_+eb+cy+n2.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s2.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "SC_jpeg_no_color_transform.dcm",
    "SC_jpeg_no_color_transform_2.dcm",
    "color3d_jpeg_baseline.dcm",
    "examples_ybr_color.dcm",
]


@pytest.mark.parametrize(("bits", "samples"), [(8, 1), (8, 3), (12, 1), (16, 1)])
def test_lossy_jpeg_xl_is_xyb_colour_and_near_the_original(bits: int, samples: int) -> None:
    """libjxl alone reads it here."""
    cells, image = picture(bits, samples=samples, shape=(64, 64))
    cells = np.sort(cells, axis=1)
    encoded = encode(JPEG_XL_LOSSY, cells, image, Quality(quality=95))
    assert encoded.photometric == ("XYB" if samples == 3 else "MONOCHROME2")
    header = read_jxl(encoded.codestream)
    assert (header.rows, header.columns, header.components, header.precision) == (64, 64, samples, bits)
    decoded = decode(
        JPEG_XL_LOSSY, encoded.codestream, replace(image, photometric=encoded.photometric), rgb=True
    )
    assert decoded.colour == image.photometric
    assert abs(decoded.samples.astype(int) - cells).mean() < 1 << bits - 5
    worse = encode(JPEG_XL_LOSSY, cells, image, Quality(quality=20))
    assert len(worse.codestream) < len(encoded.codestream)


# The seven ratios that have a short form, multiples of eight and others.
JXL_SHAPES = [
    (1, 1), (8, 8), (50, 60), (240, 320), (200, 300), (90, 160), (80, 100), (50, 100),
    (64, 256), (7, 513), (300, 200), (1, 9000),
]  # fmt: skip


@pytest.mark.parametrize("shape", JXL_SHAPES)
def test_the_header_of_jpeg_xl_says_size_depth_and_colour(shape: tuple[int, int]) -> None:
    for bits, samples, container in product((1, 8, 10, 13, 16), (1, 3), (False, True)):
        cells, image = picture(bits, samples=samples, shape=shape)
        codestream = imagecodecs.jpegxl_encode(
            cells, lossless=True, effort=1, bitspersample=bits, usecontainer=container
        )
        header = read_jxl(bytes(codestream))
        assert (header.rows, header.columns) == shape
        assert (header.precision, header.components, header.transformed) == (bits, samples, False)
        assert (decode(JPEG_XL, bytes(codestream) + b"\x00", image, rgb=True).samples == cells).all()


@pytest.mark.parametrize("changed", [{"rows": 65}, {"columns": 63}, {"samples": 3, "photometric": "RGB"}])
def test_a_jpeg_xl_frame_that_contradicts_the_data_set_is_refused(changed: dict[str, object]) -> None:
    cells, image = picture(12, shape=(64, 64))
    codestream = encode(JPEG_XL, cells, image, Quality()).codestream
    with pytest.raises(Permanent, match="the data set says"):
        decode(JPEG_XL, codestream, replace(image, **changed), rgb=True)  # type: ignore[arg-type]


def test_what_is_no_jpeg_xl_is_refused() -> None:
    _, image = picture(8)
    container = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
    for wrong in (b"", b"\xff\x0a", bytes(100), container, container + bytes(40), b"\xff\xd8\xff\xd9"):
        for uid in (JPEG_XL, RECOMPRESSED):
            with pytest.raises(Permanent):
                decode(uid, wrong, image, rgb=True)
    with pytest.raises(Permanent, match="floating point"):
        read_jxl(bytes(imagecodecs.jpegxl_encode(np.zeros((8, 8), "f4"), lossless=True)))


@pytest.mark.parametrize("name", BASELINE_FILES)
def test_a_baseline_jpeg_survives_jpeg_xl_bit_for_bit(name: str) -> None:
    made = dcmread(shipped(name))
    assert made.file_meta.TransferSyntaxUID == BASELINE
    for jpeg in independent.codestreams(made)[::10]:
        recompressed = recompress(jpeg, BASELINE, RECOMPRESSED)
        assert recompressed is not None
        assert recompress(recompressed, RECOMPRESSED, BASELINE) == jpeg
        assert recompress(recompressed + b"\x00", RECOMPRESSED, BASELINE) == jpeg
        image = Image(
            made.Rows, made.Columns, made.SamplesPerPixel, 8, 8, 7, False, str(made.PhotometricInterpretation)
        )
        for rgb in (True, False):
            before, after = (
                decode(uid, c, image, rgb=rgb) for uid, c in ((BASELINE, jpeg), (RECOMPRESSED, recompressed))
            )
            assert (before.samples == after.samples).all()
            assert (before.colour, before.notes) == (after.colour, after.notes)


def test_a_grey_jpeg_survives_jpeg_xl_and_twelve_bits_are_refused() -> None:
    jpeg = encode(BASELINE, *picture(8, shape=(64, 64)), Quality()).codestream
    recompressed = recompress(jpeg, BASELINE, RECOMPRESSED)
    assert recompressed is not None
    assert recompress(recompressed, RECOMPRESSED, BASELINE) == jpeg
    twelve = encode(EXTENDED, *picture(12, shape=(64, 64)), Quality()).codestream
    with pytest.raises(Unsuitable, match="cannot become"):
        recompress(twelve, BASELINE, RECOMPRESSED)
    with pytest.raises(Permanent):
        recompress(recompressed[: len(recompressed) // 2], RECOMPRESSED, BASELINE)
    with pytest.raises(Permanent):
        recompress(jpeg[: len(jpeg) // 2], BASELINE, RECOMPRESSED)
    assert recompress(jpeg, BASELINE, JPEG_XL) is None
    assert recompress(jpeg, EXTENDED, RECOMPRESSED) is None
