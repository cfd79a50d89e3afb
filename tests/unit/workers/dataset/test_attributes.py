"""What decoding changes in a data set, and what it reads of it."""

import struct

import pytest

from dicomferry.errors import Permanent
from workers.codecs.image import Image
from workers.dataset import attributes


def values(**changed: bytes) -> dict[int, bytes]:
    known = {
        "SAMPLES": struct.pack("<H", 3),
        "PHOTOMETRIC": b"YBR_FULL_422",
        "FRAMES": b"30",
        "ROWS": struct.pack("<H", 480),
        "COLUMNS": struct.pack("<H", 640),
        "ALLOCATED": struct.pack("<H", 8),
        "STORED": struct.pack("<H", 8),
        "HIGH_BIT": struct.pack("<H", 7),
        "REPRESENTATION": struct.pack("<H", 0),
    } | changed
    return {getattr(attributes, name): value for name, value in known.items()}


def test_an_image_is_read_from_its_attributes() -> None:
    image = attributes.describe(values())
    assert image == Image(480, 640, 3, 8, 8, 7, signed=False, photometric="YBR_FULL_422", frames=30)
    assert image.frame_length == 480 * 640 * 3
    assert image.native_length == 480 * 640 * 3 * 30


def test_a_native_length_is_even() -> None:
    odd = Image(3, 3, 1, 8, 8, 7, signed=False, photometric="MONOCHROME2")
    assert (odd.frame_length, odd.native_length) == (9, 10)


def test_number_of_frames_may_be_absent_or_empty() -> None:
    without = values()
    del without[attributes.FRAMES]
    assert attributes.describe(without).frames == 1
    assert attributes.describe(values(FRAMES=b"")).frames == 1


@pytest.mark.parametrize(
    "changed", [{"ROWS": b""}, {"COLUMNS": b""}, {"ALLOCATED": b""}, {"FRAMES": b"0 "}, {"FRAMES": b"1A"}]
)
def test_what_no_image_does_without_is_missed(changed: dict[str, bytes]) -> None:
    with pytest.raises(Permanent):
        attributes.describe(values(**changed))


@pytest.mark.parametrize(
    ("decoded", "wanted", "native"),
    [
        ("YBR_FULL", "rgb", "RGB"),
        ("YBR_FULL", "as-encoded", "YBR_FULL"),
        ("RGB", "rgb", "RGB"),
        ("RGB", "as-encoded", "RGB"),
        ("MONOCHROME1", "rgb", "MONOCHROME1"),
        ("PALETTE COLOR", "rgb", "PALETTE COLOR"),
    ],
)
def test_only_ycbcr_becomes_rgb_and_only_where_it_is_wanted(decoded: str, wanted: str, native: str) -> None:
    assert attributes.native_colour(decoded, wanted) == native


def test_decoding_colour_states_its_colour_space_and_planar_configuration() -> None:
    image = attributes.describe(values())
    assert attributes.changes(image, "RGB") == {
        attributes.PLANAR: (b"US", b"\x00\x00"),
        attributes.PHOTOMETRIC: (b"CS", b"RGB "),
    }
    already = attributes.describe(values(PHOTOMETRIC=b"RGB "))
    assert attributes.PHOTOMETRIC not in attributes.changes(already, "RGB")


def test_decoding_grey_changes_no_attribute() -> None:
    grey = attributes.describe(values(SAMPLES=struct.pack("<H", 1), PHOTOMETRIC=b"PALETTE COLOR "))
    assert attributes.changes(grey, "PALETTE COLOR") == {}


def test_pixel_data_of_more_than_a_byte_is_ow_and_implicit_always() -> None:
    assert attributes.pixel_data_vr(8, explicit=True) == b"OB"
    assert attributes.pixel_data_vr(16, explicit=True) == b"OW"
    assert attributes.pixel_data_vr(8, explicit=False) == b"OW"
