"""The files that pydicom and pydicom-data ship, each to two targets, which rotate from file to file."""

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from dicomferry.dicom.syntaxes import BY_UID, EXPLICIT_BE, EXPLICIT_LE, TABLE
from dicomferry.spool.instance import RenditionSpec
from tests.contract.workers.test_transcode import SOUND, syntax
from tests.support.images import independent
from tests.support.images.surroundings import changeable, values
from workers.transcode import Unsuitable, transcode

TARGETS = [s for s in TABLE if s.encoded and s.lossless]
# One's Number of Frames is no number, the other's pixel data have no attributes: both are refused wherever
# pixels are looked at.
REFUSED = {"badVR.dcm", "nested_priv_SQ.dcm"}
SMALL = [
    path
    for path in SOUND
    if path.stat().st_size <= 300_000 and path.name not in REFUSED and BY_UID[syntax(path)].decoded
]
PAIRS = [
    (path, TARGETS[(number * 3 + step * 5) % len(TARGETS)])
    for number, path in enumerate(SMALL)
    for step in range(2)
]


def trimmed(found: dict[str, object], trims: bool) -> dict[str, object]:
    return {k: v.strip(b" \0") if trims and isinstance(v, bytes) else v for k, v in found.items()}


@pytest.mark.parametrize(
    ("source", "target"), PAIRS, ids=[f"{path.stem}-{target.label}" for path, target in PAIRS]
)
def test_a_lossless_rendition_has_the_pixels_of_the_native_one(source: Path, target, tmp_path: Path) -> None:
    out, native = tmp_path / "out.dcm", tmp_path / "native.dcm"
    transcode(source, native, RenditionSpec(EXPLICIT_LE, "as-encoded"))
    try:
        transcode(source, out, RenditionSpec(target.uid, "as-encoded"))
    except Unsuitable:
        return
    data = dcmread(source)
    overlay = any((group, 0x0102) in data for group in range(0x6000, 0x6020, 2))
    if not overlay:
        without = changeable(syntax(source), target.uid)
        # DCMTK trims text where it turns the byte order for us.
        trims = EXPLICIT_BE in (syntax(source), target.uid)
        before, after = (trimmed(values(path, without, tmp_path), trims) for path in (source, out))
        assert after == before
    if "PixelData" not in data or target.native:
        return
    expected, colour = independent.cells(native, tmp_path)
    got, got_colour = independent.cells(out, tmp_path)
    if (colour, got_colour) != ("YBR_FULL_422", "YBR_FULL"):
        assert got_colour == colour
    mask = (1 << int(data.BitsStored)) - 1
    assert (got.astype(np.int64) & mask == expected.astype(np.int64) & mask).all()
