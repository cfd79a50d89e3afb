"""Small inputs that went wrong once (tests/data/cases), and what each must give. One row a file.

Files are read by pydicom, compressed pixel data by decoders that the engine has no part in.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicomferry.dicom.syntaxes import BY_UID, DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomferry.errors import NoPixelData, Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images import independent
from tests.support.images.conformant import problems
from workers.transcode import transcode

CASES = Path(__file__).parent.parent / "data" / "cases"
JPEG = "1.2.840.10008.1.2.4."
RLE, SV1, JPEG_LS, J2K, JXL = "1.2.840.10008.1.2.5", JPEG + "70", JPEG + "80", JPEG + "90", JPEG + "110"
NATIVE = (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE)
COMPRESSED = (RLE, SV1, JPEG_LS, J2K, JXL)


def values(made: Dataset, cells: np.ndarray) -> np.ndarray:
    """Unsigned values of cells (PS3.5 8.1.1)."""
    below = made.HighBit + 1 - made.BitsStored
    return cells >> below & (1 << made.BitsStored) - 1


def native_values(source: Path) -> np.ndarray:
    made = dcmread(source)
    frames = int(made.get("NumberOfFrames") or 1)
    cells = np.frombuffer(made.PixelData, f"<u{made.BitsAllocated // 8}", frames * made.Rows * made.Columns)
    return values(made, cells.reshape(frames, made.Rows, made.Columns))


def same_values(source: Path, out: Path, work: Path) -> None:
    """Every value as in the source, which is native."""
    got = values(dcmread(out), independent.cells(out, work)[0])
    assert np.array_equal(got, native_values(source))


def values_of_lower_bits(source: Path, out: Path, work: Path) -> None:
    same_values(source, out, work)
    native = BY_UID[str(dcmread(out).file_meta.TransferSyntaxUID)].native
    assert dcmread(out).HighBit == (11 if native else 9)


def icon_kept(source: Path, out: Path, work: Path) -> None:
    """The icon is native; what GDCM and DCMTK decode of it and of the image is the same as before."""
    before, after = dcmread(source), dcmread(out)
    icon, icon_after = before.IconImageSequence[0], after.IconImageSequence[0]
    alone = work / "icon.dcm"
    icon.file_meta = before.file_meta
    icon.file_meta.TransferSyntaxUID = JPEG_LS
    icon.SOPClassUID, icon.SOPInstanceUID = before.SOPClassUID, before.SOPInstanceUID
    icon.save_as(alone, enforce_file_format=True)
    assert independent.cells(alone, work)[0].tobytes() == bytes(icon_after.PixelData)[: 8 * 9]
    assert np.array_equal(independent.cells(source, work)[0], independent.cells(out, work)[0])


def no_pixels(source: Path, out: Path, _work: Path) -> None:
    before, after = dcmread(source), dcmread(out)
    assert not after.PixelData
    del before.PixelData, after.PixelData
    assert before == after


@dataclass(frozen=True)
class Row:
    """A case: `check` of each rendition in `targets`, or the `error` that refuses it, whose text matches."""

    file: str
    targets: tuple[str, ...]
    check: Callable[[Path, Path, Path], None] | None = None
    error: type[Permanent] = Permanent
    words: str = ""  # found in the error, or in the notes; empty: no notes


ROWS = (
    Row(
        "frames/jpegll_nf1_bot0.dcm", (EXPLICIT_LE, J2K),
        words=r"^Number of Frames is 1, pixel data holds 3 codestreams \(JPEGLosslessSV1\): ",
    ),
    Row("frames/jls_nf1_bot1.dcm", (EXPLICIT_LE, J2K), words=r"holds 3 codestreams \(JPEGLS\)"),
    Row("frames/j2k_nfNone_bot1.dcm", (EXPLICIT_LE, JPEG_LS), words=r"holds 3 codestreams \(J2K\)"),
    Row("attributes/number_of_frames_plus_3.dcm", (*NATIVE, *COMPRESSED), same_values),
    Row("attributes/native27.dcm", (*NATIVE, RLE, SV1, J2K, JXL), same_values),  # too small for JPEG-LS
    Row("attributes/st10_hb11_s0.dcm", NATIVE, values_of_lower_bits),
    Row(
        "attributes/st10_hb11_s0.dcm", COMPRESSED, values_of_lower_bits,
        words="^values moved from High Bit 11 to 9",
    ),
    Row(
        "dataset/icon_jpegls_in_j2k.dcm", (*NATIVE, RLE, SV1, JPEG_LS, JXL), icon_kept,
        words="^an icon is JPEGLS",
    ),
    Row("dataset/sr_with_empty_pixel_data.dcm", NATIVE, no_pixels),
    Row("dataset/sr_with_empty_pixel_data.dcm", COMPRESSED, error=NoPixelData, words="has no pixel data"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("row", "target"),
    [
        pytest.param(row, uid, id=f"{Path(row.file).stem}-{BY_UID[uid].label}")
        for row in ROWS
        for uid in row.targets
    ],
)
def test_a_case_gives_what_it_must(row: Row, target: str, tmp_path: Path) -> None:
    source, out = CASES / row.file, tmp_path / "out.dcm"
    if row.check is None:
        with pytest.raises(row.error, match=row.words):
            transcode(source, out, RenditionSpec(target))
        assert list(tmp_path.iterdir()) == []
        return
    report = transcode(source, out, RenditionSpec(target), verify="always")
    assert re.search(row.words or "^$", report.notes)
    assert problems(out) == []
    row.check(source, out, tmp_path)


def test_every_case_has_a_row() -> None:
    ours = {"frames", "attributes", "dataset"}
    found = {str(p.relative_to(CASES)) for p in CASES.glob("*/*.dcm") if p.parent.name in ours}
    assert found == {row.file for row in ROWS}
