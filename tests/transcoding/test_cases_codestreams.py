"""Codestreams that field equipment writes and the attributes around them deny: each case, and its kind.

The cases in `tests/data/cases` were made for this. DCMTK or GDCM says what their values are, whichever of the
two reads the case as the standard wants.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, Sequence, dcmread

from dicomferry.dicom.syntaxes import BY_UID, DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomferry.spool.instance import RenditionSpec
from tests.support.images import independent
from tests.support.images.files import gdcm_pixels
from tests.support.images.independent import DEFLATED_FRAME, HTJ2K, J2K, JPEG, JPEG_XL, RLE
from tests.support.images.synthetic import dataset, image, write
from workers.transcode import Unsuitable, transcode

CASES = Path(__file__).parent.parent / "data" / "cases"
TARGETS = [EXPLICIT_LE, EXPLICIT_BE, RLE, JPEG + "57", JPEG + "80", J2K[0]]
# Everything that carries cells or samples of 16 bits.
ENCODINGS = [
    EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, RLE, DEFLATED_FRAME, JPEG + "57", JPEG + "70",
    JPEG + "80", J2K[0], HTJ2K[0], JPEG_XL[0],
]  # fmt: skip


def label(uid: str) -> str:
    return BY_UID[uid].label


def rendition(source: Path, target: str) -> tuple[Path, str]:
    """The verified rendition, and what was noted."""
    out = source.with_name(f"{source.stem}.{label(target)}.out.dcm")
    report = transcode(source, out, RenditionSpec(target), verify="always")
    return out, report.notes


def read(path: Path) -> np.ndarray:
    """Every value, by somebody else's decoder; sign extended from High Bit."""
    return independent.cells(path, path.parent)[0].astype(np.int64)


def by_dcmtk(tool: str, path: Path, work: Path) -> bytes:
    independent.run(tool, str(path), str(work / "dcmtk.dcm"))
    return bytes(dcmread(work / "dcmtk.dcm").PixelData)


def by_dcmdjpeg(path: Path, work: Path) -> bytes:
    return by_dcmtk("dcmdjpeg", path, work)


def by_dcmdrle(path: Path, work: Path) -> bytes:
    return by_dcmtk("dcmdrle", path, work)


@dataclass(frozen=True)
class Case:
    name: str
    decoder: Callable[[Path, Path], bytes]  # whoever reads it right
    stored: int
    noted: str


@pytest.mark.parametrize("target", TARGETS, ids=label)
@pytest.mark.parametrize(
    "case",
    [
        # Unused DC categories above 15, and above 16 in lossless JPEG. GDCM refuses both.
        Case("jpeg/ext12_dc17.dcm", by_dcmdjpeg, 12, ""),
        Case("jpeg/ll_dc17.dcm", by_dcmdjpeg, 12, ""),
        # A JPEG of 12 bits in a data set that says 10; values up to 1073. GDCM cuts them to 10 bits.
        Case("jpeg/ext12_stored10.dcm", by_dcmdjpeg, 11, "values of 11 bits: Bits Stored said 10"),
        # Differences that wrap at 12 bits. DCMTK lets the values run up to 6143.
        Case("jpeg/wrap12_16.dcm", gdcm_pixels, 12, "wrap"),
        # 510 zeros behind the last segment.
        Case("rle/trail_end.dcm", by_dcmdrle, 16, ""),
        Case("rle/trail_end.dcm", gdcm_pixels, 16, ""),
    ],
    ids=lambda case: f"{Path(case.name).stem}-{case.decoder.__name__}",
)
def test_each_case_has_the_values_that_dcmtk_or_gdcm_reads(case: Case, target: str, tmp_path: Path) -> None:
    source = tmp_path / Path(case.name).name
    source.write_bytes((CASES / case.name).read_bytes())
    if case.name.startswith("rle") and target == RLE:
        target = IMPLICIT_LE
    out, notes = rendition(source, target)
    made = dcmread(out)
    assert (made.BitsStored, made.HighBit) == (case.stored, case.stored - 1)
    expected = np.frombuffer(case.decoder(source, tmp_path), "<u2").reshape(1, made.Rows, made.Columns)
    found = read(out)
    assert (found == expected).all()
    assert found.max() < 1 << case.stored
    assert case.noted in notes if case.noted else notes == ""


def over(tmp_path: Path, uid: str, frames: list[np.ndarray], bits: int, **elements: object) -> Path:
    """An object whose codestreams have 16 bits, and whose Bits Stored says `bits`."""
    whole = dataset(frames[0].shape, 16, signed=frames[0].dtype.kind == "i", **elements)
    if len(frames) > 1:
        whole.NumberOfFrames = len(frames)
    whole.PixelData = b"".join(frame.astype(frame.dtype.newbyteorder("<")).tobytes() for frame in frames)
    native = write(tmp_path / "whole.dcm", whole, EXPLICIT_LE)
    made = dcmread(independent.encode(native, tmp_path / "encoded.dcm", uid))
    made.BitsStored, made.HighBit = bits, bits - 1
    made.save_as(tmp_path / "in.dcm")
    return tmp_path / "in.dcm"


@pytest.mark.parametrize("target", [EXPLICIT_LE, RLE, J2K[0]], ids=label)
@pytest.mark.parametrize(("extremes", "stored"), [
    ((5000,), 13), ((0xF000,), 16), ((-3, 5000), 14), ((-4096, 4095), 13),
])  # fmt: skip
@pytest.mark.parametrize("uid", ENCODINGS, ids=label)
def test_values_beyond_bits_stored_correct_it_whatever_carries_them(
    uid: str, extremes: tuple[int, ...], stored: int, target: str, tmp_path: Path
) -> None:
    signed = extremes[0] < 0
    if signed and uid in JPEG_XL:
        pytest.skip("the encoder takes no signed samples")
    if uid == target or (BY_UID[uid].native and BY_UID[target].native):
        pytest.skip("no codec runs: the cells pass as they are")
    frames = [image(40, 48, 12, signed=signed, seed=n) for n in range(3)]
    frames[1].flat[7 : 7 + len(extremes)] = np.array(extremes).astype(frames[1].dtype)
    out, notes = rendition(over(tmp_path, uid, frames, 12), target)
    made = dcmread(out)
    assert (made.BitsStored, made.HighBit) == (stored, stored - 1)
    assert f"values of {stored} bits: Bits Stored said 12" in notes
    assert (read(out) == np.stack(frames)).all()


@pytest.mark.parametrize("target", [EXPLICIT_LE, RLE, J2K[0]], ids=label)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("uid", ENCODINGS, ids=label)
def test_values_that_fit_leave_bits_stored_as_it_is(
    uid: str, signed: bool, target: str, tmp_path: Path
) -> None:
    if signed and uid in JPEG_XL:
        pytest.skip("the encoder takes no signed samples")
    frames = [image(40, 48, 12, signed=signed, seed=n) for n in range(2)]
    out, notes = rendition(over(tmp_path, uid, frames, 12), target)
    assert (dcmread(out).BitsStored, notes) == (12, "")
    assert (read(out) == np.stack(frames)).all()


@pytest.mark.parametrize("target", [EXPLICIT_LE, RLE, JPEG + "80", J2K[0]], ids=label)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("below", [False, True], ids=["nothing_below", "bits_below"])
@pytest.mark.parametrize("uid", [EXPLICIT_LE, RLE, JPEG + "70", JPEG + "80", J2K[0]], ids=label)
def test_nothing_changes_where_values_stand_high_and_need_more_bits(
    uid: str, below: bool, signed: bool, target: str, tmp_path: Path
) -> None:
    """10 bits stored up to High Bit 12; the second frame has values that reach bit 14."""
    if uid == target:
        pytest.skip("no codec runs: the cells pass as they are")
    frames = [image(40, 48, 10, signed=signed, seed=n) << 3 for n in range(2)]
    frames[1][3, 4:6] = np.array([0x2AA8, -0x3008 if signed else 0x7008]).astype(frames[1].dtype)
    if below:
        frames[1][3, 6] |= 1
    source = over(tmp_path, uid, frames, 10)
    stated = dcmread(source)
    stated.HighBit = 12
    stated.save_as(source)
    if target not in {EXPLICIT_LE, RLE}:
        with pytest.raises(Unsuitable, match="outside of the"):
            rendition(source, target)
        return
    out, notes = rendition(source, target)
    made = dcmread(out)
    assert "bits above the 10 stored belong to no overlay, and were kept" in notes or BY_UID[uid].native
    assert (made.BitsStored, made.HighBit) == (10, 12)
    # DCMTK reads cells as they are
    cells = by_dcmdrle(out, tmp_path) if target == RLE else made.PixelData
    assert cells == b"".join(frame.tobytes() for frame in frames)


OVERLAY = {
    0x0010: ("US", 40), 0x0011: ("US", 48), 0x0040: ("CS", "G"), 0x0050: ("SS", [1, 1]), 0x0100: ("US", 16),
    0x0102: ("US", 12),
}  # fmt: skip


def with_overlay(source: Path) -> Path:
    made = dcmread(source)
    for element, (vr, value) in OVERLAY.items():
        made.add_new(0x60000000 | element, vr, value)
    made.save_as(source)
    return source


@pytest.mark.parametrize("uid", [RLE, JPEG + "70", JPEG + "80", J2K[0]], ids=label)
def test_an_overlay_above_bits_stored_is_no_value(uid: str, tmp_path: Path) -> None:
    frame = image(40, 48, 12)
    frame[3:9, 4:20] |= 1 << 12
    source = with_overlay(over(tmp_path, uid, [frame], 12))
    out, notes = rendition(source, EXPLICIT_LE)
    assert (dcmread(out).BitsStored, notes) == (12, "")
    assert dcmread(out).PixelData == frame.tobytes()


def test_bits_that_neither_overlay_nor_value_can_claim_are_told_or_refused(tmp_path: Path) -> None:
    frame = image(40, 48, 12)
    frame[3, 4] |= 1 << 12
    frame[3, 5] |= 1 << 14
    source = with_overlay(over(tmp_path, RLE, [frame], 12))
    out, notes = rendition(source, EXPLICIT_LE)
    assert "belong to no overlay, and were kept" in notes
    assert dcmread(out).PixelData == frame.tobytes()
    with pytest.raises(Unsuitable, match="belong to no overlay"):
        rendition(source, J2K[0])


@pytest.mark.parametrize("target", [EXPLICIT_LE, EXPLICIT_BE], ids=label)
def test_an_icon_is_corrected_by_itself(target: str, tmp_path: Path) -> None:
    """The icon stands before the pixel data that is corrected too."""
    frame, small = image(40, 48, 12), image(8, 8, 12)
    frame[1, 1], small[2, 2] = 5000, 20000
    icon = dcmread(over(tmp_path, RLE, [small], 12))
    item = Dataset()
    for keyword in (
        "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored",
        "HighBit", "PixelRepresentation",
    ):  # fmt: skip
        setattr(item, keyword, icon[keyword].value)
    item.add(icon["PixelData"])
    made = dcmread(over(tmp_path, RLE, [frame], 12))
    made.IconImageSequence = Sequence([item])
    made.save_as(tmp_path / "with_icon.dcm")
    out, notes = rendition(tmp_path / "with_icon.dcm", target)
    after = dcmread(out)
    icon_after = after.IconImageSequence[0]
    assert (after.BitsStored, icon_after.BitsStored, icon_after.HighBit) == (13, 15, 14)
    order = ">u2" if target == EXPLICIT_BE else "<u2"
    assert (np.frombuffer(icon_after.PixelData, order).reshape(8, 8) == small).all()
    assert (np.frombuffer(after.PixelData, order).reshape(40, 48) == frame).all()
    assert "13 bits" in notes
    assert "15 bits" in notes
