"""Every source syntax to every target syntax, and every kind of image to every target.

The rows come from `dicomferry.dicom.syntaxes.TABLE`: a syntax that is added there is tested here at once, or
fails `test_each_syntax_that_is_decoded_has_a_source`. `tests.support.images.independent` says who makes
and who reads what, and where no independent decoder exists.

Three sweeps instead of the whole product: each pair of syntaxes with a grey and a colour image; each kind of
image, native, to each target; each shipped file to a few targets, which rotate.
"""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicomferry.dicom.syntaxes import BY_UID, EXPLICIT_LE, TABLE
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images import independent
from tests.support.images.conformant import problems
from tests.support.images.gallery import BY_NAME, PICTURES, SECRET, Picture
from tests.support.images.independent import JPEG, RECOMPRESSED
from tests.support.images.sources import KINDS, Maker, kinds, maker
from tests.support.images.surroundings import changeable, values
from workers.codecs.encoders import refusal
from workers.codecs.image import to_rgb
from workers.transcode import Unsuitable, transcode

SOURCES = [syntax for syntax in TABLE if syntax.decoded]
TARGETS = [syntax for syntax in TABLE if syntax.encoded]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Sources, each made once by an encoder that is not ours."""
    return maker(tmp_path_factory.mktemp("sources"))


@lru_cache(maxsize=64)
def truth(source: Path, work: Path) -> tuple[np.ndarray, str]:
    """What an independent decoder reads of a source."""
    return independent.cells(source, work)


def spec_for(uid: str, colour: str = "rgb") -> RenditionSpec:
    if BY_UID[uid].lossless or BY_UID[uid].native:
        return RenditionSpec(uid, colour)
    if BY_UID[uid].group in ("jpeg", "jpeg-xl"):
        return RenditionSpec(uid, colour, quality=95)
    return (
        RenditionSpec(uid, colour, near=2)
        if BY_UID[uid].group == "jpeg-ls"
        else RenditionSpec(uid, colour, ratio=3.0)
    )


def image_of(path: Path):
    """The image as the engine's refusals are asked about it, or None."""
    from workers.dataset import attributes

    data = dcmread(path)
    found = {}
    for tag in attributes.DESCRIBING:
        if tag in data:
            value = data[tag].value
            found[tag] = int(value).to_bytes(2, "little") if data[tag].VR == "US" else str(value).encode()
    return attributes.describe(found)


def rendition(source: Path, folder: Path, spec: RenditionSpec, predicted: str | None) -> Path | None:
    """The rendition, or None where it was refused and that was predicted; everything else is an error."""
    target = folder / "out.dcm"
    before = source.read_bytes()
    try:
        transcode(source, target, spec)
    except Permanent as error:
        refused = error
    else:
        refused = None
    assert source.read_bytes() == before
    if refused is None:
        assert not predicted, f"made though the table says: {predicted}"
        return target
    assert predicted, f"refused though the table has room for it: {refused}"
    assert isinstance(refused, Unsuitable), refused
    assert SECRET not in str(refused)
    assert not target.exists()
    return None


def compare(
    source: Path, target: Path, work: Path, uid: str, exact: tuple[np.ndarray, str] | None = None
) -> None:
    """Pixels, elements around, and the file's own consistency."""
    source_uid = str(dcmread(source).file_meta.TransferSyntaxUID)
    same = source_uid == uid
    recompressed = {source_uid, uid} == {JPEG + "50", RECOMPRESSED}
    # The codestreams of others stay as they are, with the faults that they came with.
    found = [p for p in problems(target) if not ((same or recompressed) and p.startswith("frame "))]
    assert found == []
    overlay = (0x6000, 0x0102) in dcmread(source)
    without = changeable(source_uid, uid, overlay=overlay and not BY_UID[uid].native)
    ycbcr = str(dcmread(source).get("PhotometricInterpretation")).startswith("YBR_FULL")
    if BY_UID[uid].native and (ycbcr or not BY_UID[source_uid].native):
        without |= {0x00280004, 0x00280006}
    before, after = dcmread(source), dcmread(target)
    # Values at a High Bit of their own come down where they are compressed (PS3.5 8.1.1).
    below = (
        before.get("HighBit", 0) + 1 - before.get("BitsStored", 1) if not (same or BY_UID[uid].native) else 0
    )
    if below:
        without |= {0x00280102}
        assert after.HighBit == after.BitsStored - 1
    assert values(target, without, work) == values(source, without, work)
    is_lossy_step = not (BY_UID[uid].lossless or same or recompressed)
    assert (after.SOPInstanceUID == before.SOPInstanceUID) == (not is_lossy_step)
    expected, colour = exact or truth(source, work)
    expected = expected >> below if below else expected
    got, got_colour = independent.cells(target, work)
    colour, got_colour = colour.removesuffix("_422"), got_colour.removesuffix("_422")
    assert got.shape == expected.shape
    if colour != got_colour:
        assert {colour, got_colour} == {"RGB", "YBR_FULL"}
        if got_colour == "RGB":
            expected = to_rgb(expected, before.BitsStored)
        else:
            got = to_rgb(np.ascontiguousarray(got), after.BitsStored)
    if overlay and not BY_UID[uid].native and dcmread(target)[0x60000102].value == 0:
        # The bits above those stored are Overlay Data now.
        mask = (1 << before.BitsStored) - 1
        plane = np.packbits((expected >> before.BitsStored & 1).astype(np.uint8).ravel(), bitorder="little")
        assert after[0x60003000].value[: plane.size] == plane.tobytes()
        expected = expected & mask
    off = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    assert off.max() <= tolerance(source_uid, uid, colour != got_colour, before)


def tolerance(source_uid: str, uid: str, converted: bool, data) -> float:
    allowed = 0.0 if BY_UID[source_uid].lossless else 1.0
    if converted:
        allowed += 1
    if not BY_UID[uid].lossless:
        if uid == JPEG + "81":
            return allowed + 2 * (2.772 if converted else 1)  # B is Y + 1.772 Cb
        return (1 << data.BitsStored) / 4  # its quality is test_lossy's; here, that it is the same image
    return allowed


def predicted(uid: str, source: Path) -> str | None:
    """Why the table says that this cannot be made, if it does."""
    data = dcmread(source)
    source_uid = str(data.file_meta.TransferSyntaxUID)
    if BY_UID[uid].native or uid == source_uid:
        return None
    if "PixelData" not in data:
        return "no pixel data"
    if RECOMPRESSED in (uid, source_uid) and JPEG + "50" in (uid, source_uid):
        return None
    image = image_of(source)
    decoded = {"YBR_RCT": "RGB", "YBR_ICT": "RGB", "XYB": "RGB", "YBR_FULL_422": "YBR_FULL"}
    image = replace(image, photometric=decoded.get(image.photometric, image.photometric))
    image = replace(image, high_bit=image.bits_stored - 1)  # values come down
    if uid == JPEG + "81" and image.signed:
        # NEAR may carry a value over the end of its range: that depends on the values, these reach it.
        return "signed samples at the end of their range"
    return refusal(uid, image)


def test_each_syntax_that_is_decoded_has_a_source() -> None:
    assert {s.uid for s in SOURCES if not s.native} <= set(KINDS)


@pytest.mark.parametrize("target", TARGETS, ids=lambda s: s.label)
@pytest.mark.parametrize(
    ("source", "name"), [(s, n) for s in SOURCES for n in kinds(s.uid)], ids=lambda v: getattr(v, "label", v)
)
def test_each_syntax_becomes_each_other(source, name: str, target, made: Maker, tmp_path: Path) -> None:
    original = made(name, source.uid)
    spec = spec_for(target.uid)
    out = rendition(original, tmp_path, spec, predicted(target.uid, original))
    if out is not None:
        exact = (BY_NAME[name].cells, BY_NAME[name].photometric) if source.lossless else None
        compare(original, out, tmp_path, target.uid, exact)


@pytest.mark.parametrize("target", TARGETS, ids=lambda s: s.label)
@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.name)
def test_each_kind_of_image_becomes_each_syntax_or_is_refused_as_the_table_says(
    picture: Picture, target, made: Maker, tmp_path: Path
) -> None:
    original = made(picture.name, EXPLICIT_LE)
    out = rendition(original, tmp_path, spec_for(target.uid), predicted(target.uid, original))
    if out is not None:
        compare(original, out, tmp_path, target.uid, (picture.cells, picture.photometric))
