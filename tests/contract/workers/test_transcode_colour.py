"""Colours of native renditions: YCbCr becomes RGB where the destination wants that, else it stays.

DCMTK (`dcmj2pnm`) and pydicom's own conversion say what RGB is right.
"""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import convert_color_space
from pydicom.pixels.utils import expand_ybr422

from dicomferry.dicom.syntaxes import BY_UID, DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, TABLE
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images.files import shipped
from tests.support.images.synthetic import dataset, write
from tests.support.running.services import program
from workers.transcode import Unsuitable, transcode

NATIVE = [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE]
ENCAPSULATED = [syntax.uid for syntax in TABLE if syntax.encoded and not syntax.native]
SHIPPED = ["SC_ybr_full_422_uncompressed.dcm", "SC_ybr_full_uncompressed.dcm"]


def made(source: Path, uid: str, colour: str) -> tuple[Dataset, str]:
    """The rendition, and what the report says of it."""
    target = source.parent / f"{source.stem}.{uid}.{colour}.out"
    report = transcode(source, target, RenditionSpec(uid, colour), verify="always")
    return dcmread(target), report.notes


def here(name: str, folder: Path) -> Path:
    copy = folder / name
    copy.write_bytes(shipped(name).read_bytes())
    return copy


def by_dcmtk(source: Path, frame: int, shape: tuple[int, int]) -> np.ndarray:
    """The RGB that DCMTK shows of a frame."""
    target = source.with_suffix(".ppm")
    command = [program("dcmj2pnm"), "+F", str(frame + 1), "+op", str(source), str(target)]
    subprocess.run(command, check=True, capture_output=True)
    size = shape[0] * shape[1] * 3
    return np.frombuffer(target.read_bytes()[-size:], np.uint8).reshape(*shape, 3)


def ycbcr(kind: str, *, frames: int = 2, rows: int = 17, columns: int = 30) -> tuple[Dataset, np.ndarray]:
    """An image of all colours, those that no RGB has among them, and its samples colour by pixel."""
    cells = np.random.default_rng(5).integers(0, 256, (frames, rows, columns, 3), np.uint8)
    one = dataset(cells.shape[1:], 8, NumberOfFrames=frames, PhotometricInterpretation="YBR_FULL")
    content = cells
    if kind == "shared":
        cells[:, :, 1::2, 1:] = cells[:, :, ::2, 1:]
        pairs = cells.reshape(frames, rows, columns // 2, 2, 3)
        content = np.concatenate([pairs[..., 0], pairs[..., 0, 1:]], axis=-1)
        one.PhotometricInterpretation = "YBR_FULL_422"
    elif kind == "planes":
        content = np.moveaxis(cells, -1, 1)
        one.PlanarConfiguration = 1
    one.add_new("PixelData", "OB", content.tobytes())
    return one, cells


@pytest.mark.parametrize("uid", NATIVE[1:])
@pytest.mark.parametrize("name", SHIPPED)
def test_native_ycbcr_becomes_the_rgb_that_pydicom_makes_of_it(name: str, uid: str, tmp_path: Path) -> None:
    before = dcmread(shipped(name))
    content = before.PixelData
    if before.PhotometricInterpretation == "YBR_FULL_422":
        assert len(content) == before.Rows * before.Columns * 2
        content = expand_ybr422(content, 8)
    whole = np.frombuffer(content, np.uint8).reshape(before.Rows, before.Columns, 3)
    expected = convert_color_space(whole, "YBR_FULL", "RGB").astype(int)
    after, notes = made(here(name, tmp_path), uid, "rgb")
    assert (after.PhotometricInterpretation, after.PlanarConfiguration) == ("RGB", 0)
    assert notes == f"{before.PhotometricInterpretation} became RGB"
    got = np.frombuffer(after.PixelData, np.uint8)
    assert got.size == whole.size
    assert abs(got.reshape(whole.shape) - expected).max() <= 1
    # The same object in other colours of the same meaning: as when a codestream is decoded.
    assert after.SOPInstanceUID == before.SOPInstanceUID
    assert after.get("LossyImageCompression") == before.get("LossyImageCompression")
    assert after.get("ImageType") == before.get("ImageType")


@pytest.mark.parametrize("source_uid", NATIVE)
@pytest.mark.parametrize("kind", ["pixels", "planes", "shared"])
def test_native_ycbcr_of_every_order_becomes_the_rgb_that_dcmtk_shows(
    kind: str, source_uid: str, tmp_path: Path
) -> None:
    one, cells = ycbcr(kind)
    shown = [by_dcmtk(write(tmp_path / "shown.dcm", one, EXPLICIT_LE), n, cells.shape[1:3]) for n in (0, 1)]
    source = tmp_path / "in.dcm"
    write(source, one, EXPLICIT_LE)
    if source_uid != EXPLICIT_LE:
        option = {IMPLICIT_LE: "+ti", EXPLICIT_BE: "+tb", DEFLATED_LE: "+td"}[source_uid]
        other = tmp_path / "other.dcm"
        subprocess.run([program("dcmconv"), option, str(source), str(other)], check=True)
        source = other
    after, _ = made(source, IMPLICIT_LE if source_uid == EXPLICIT_LE else EXPLICIT_LE, "rgb")
    assert after.PhotometricInterpretation == "RGB"
    got = np.frombuffer(after.PixelData, np.uint8).reshape(cells.shape).astype(int)
    assert abs(got - convert_color_space(cells, "YBR_FULL", "RGB")).max() <= 1
    assert abs(got - np.stack(shown)).max() <= 2  # DCMTK rounds each term of a sum


@pytest.mark.parametrize("uid", NATIVE[1:])
@pytest.mark.parametrize("kind", ["pixels", "planes", "shared"])
def test_native_ycbcr_stays_byte_for_byte_where_no_rgb_is_asked_for(
    kind: str, uid: str, tmp_path: Path
) -> None:
    one, _ = ycbcr(kind)
    after, notes = made(write(tmp_path / "in.dcm", one, EXPLICIT_LE), uid, "as-encoded")
    assert after.PixelData == one.PixelData
    assert after.PhotometricInterpretation == one.PhotometricInterpretation
    assert after.PlanarConfiguration == one.PlanarConfiguration
    assert not notes


@pytest.mark.parametrize(
    "changed", [{"BitsStored": 7, "HighBit": 6}, {"BitsAllocated": 16}, {"PixelRepresentation": 1}], ids=str
)
def test_ycbcr_of_other_than_eight_bits_stays_as_it_is(changed: dict[str, int], tmp_path: Path) -> None:
    one, _ = ycbcr("pixels")
    for keyword, value in changed.items():
        setattr(one, keyword, value)
    if "BitsAllocated" in changed:
        one.PixelData *= 2
        one["PixelData"].VR = "OW"
    after, notes = made(write(tmp_path / "in.dcm", one, EXPLICIT_LE), IMPLICIT_LE, "rgb")
    assert (after.PixelData, after.PhotometricInterpretation) == (one.PixelData, "YBR_FULL")
    assert not notes


@pytest.mark.parametrize("colour", ["rgb", "as-encoded"])
@pytest.mark.parametrize(
    ("photometric", "sixths"), [("YBR_PARTIAL_422", 4), ("YBR_PARTIAL_420", 3)], ids=["422", "420"]
)
def test_retired_colours_pass_from_native_to_native(
    photometric: str, sixths: int, colour: str, tmp_path: Path
) -> None:
    one, cells = ycbcr("pixels", rows=16)
    one.PhotometricInterpretation = photometric
    one.PixelData = one.PixelData[: cells.size * sixths // 6]
    after, notes = made(write(tmp_path / "in.dcm", one, EXPLICIT_LE), IMPLICIT_LE, colour)
    assert (after.PixelData, after.PhotometricInterpretation) == (one.PixelData, photometric)
    assert not notes
    one.PixelData = one.PixelData[:-200]
    with pytest.raises(Permanent, match="truncated"):
        made(write(tmp_path / "cut.dcm", one, EXPLICIT_LE), IMPLICIT_LE, colour)


@pytest.mark.parametrize("uid", ENCAPSULATED, ids=lambda uid: BY_UID[uid].label)
@pytest.mark.parametrize("photometric", ["YBR_PARTIAL_422", "YBR_PARTIAL_420"])
def test_retired_colours_are_refused_by_encoders_and_the_reason_names_them(
    photometric: str, uid: str, tmp_path: Path
) -> None:
    one, _ = ycbcr("pixels")
    one.PhotometricInterpretation = photometric
    with pytest.raises(Unsuitable) as refused:
        made(write(tmp_path / "in.dcm", one, EXPLICIT_LE), uid, "as-encoded")
    assert photometric in str(refused.value) or "JPEG frames alone" in str(refused.value)
