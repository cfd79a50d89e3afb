"""Values in any bits of their cells: nothing that a rendition says of them is another value (PS3.5 8.1.1).

An independent decoder reads the rendition's cells, and its own attributes say which bits of them are values.
"""

import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from dicomferry.dicom.syntaxes import BY_UID, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, TABLE, label
from dicomferry.errors import Permanent, Unsuitable
from dicomferry.spool.instance import RenditionSpec
from tests.support.images import independent
from tests.support.images.independent import DEFLATED_FRAME, RLE, codestreams, run
from tests.support.images.synthetic import dataset, write
from workers.transcode import transcode

SIDE = 32
# Bits Allocated, Bits Stored, High Bit.
FIELDS = [
    (8, 8, 7), (8, 6, 5), (8, 6, 7), (8, 4, 5), (8, 1, 7), (16, 16, 15), (16, 12, 11), (16, 12, 15),
    (16, 10, 13), (16, 10, 9), (16, 2, 15), (32, 32, 31), (32, 20, 25), (32, 24, 31), (32, 12, 11),
]  # fmt: skip
CONTRADICTORY = [(8, 6, 3), (8, 1, 8), (16, 12, 10), (16, 12, 3), (16, 12, 255), (16, 12, 0), (32, 20, 10)]
TARGETS = [s.uid for s in TABLE if s.encoded and s.lossless and s.uid != "1.2.840.10008.1.2.1.99"]
WHOLE_CELLS = (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, RLE, DEFLATED_FRAME)
JPEG_LS = "1.2.840.10008.1.2.4.80"


def source(tmp_path: Path, cells: np.ndarray, stored: int, high: int, *, signed: bool) -> Path:
    allocated = cells.dtype.itemsize * 8
    made = dataset(
        cells.shape, stored, signed=signed, BitsAllocated=allocated, BitsStored=stored, HighBit=high
    )
    made.add_new("PixelData", "OB" if allocated == 8 else "OW", cells.tobytes())
    return write(tmp_path / "in.dcm", made, EXPLICIT_LE)


def drawn(allocated: int, stored: int, high: int, kind: str, *, signed: bool) -> np.ndarray:
    """Cells of which `kind` says what stands beside the values."""
    random = np.random.default_rng(allocated * stored + high)
    low = max(0, high + 1 - stored)
    cells = random.integers(0, 1 << stored, (SIDE, SIDE), np.int64) << min(low, 30)
    if kind == "extended" and signed and high < allocated:
        cells = np.where(cells >> high & 1, cells | -1 << high, cells)
    if kind == "one above":
        cells[3, 4] = 1 << allocated - 2
    if kind == "all bits":
        cells = random.integers(0, 1 << allocated, (SIDE, SIDE), np.int64)
    return (cells & (1 << allocated) - 1).astype(f"<u{allocated // 8}")


def values(made: Dataset, cells: np.ndarray) -> np.ndarray:
    """The values that the attributes say are in the cells."""
    below = made.HighBit + 1 - made.BitsStored
    found = cells.astype(np.int64) >> below & (1 << made.BitsStored) - 1
    if made.PixelRepresentation:
        found = np.where(found >> made.BitsStored - 1, found - (1 << made.BitsStored), found)
    return found


def raw_cells(path: Path, work: Path) -> np.ndarray:
    """All bits of the cells of a rendition that keeps them all."""
    made = dcmread(path)
    uid, kind = made.file_meta.TransferSyntaxUID, f"<u{made.BitsAllocated // 8}"
    content = made.PixelData
    if uid == DEFLATED_FRAME:
        content = zlib.decompress(codestreams(made)[0], -zlib.MAX_WBITS)
    elif uid in {RLE, EXPLICIT_BE}:
        run("dcmdrle" if uid == RLE else "dcmconv", "+te", str(path), str(work / "native.dcm"))
        content = dcmread(work / "native.dcm").PixelData
    return np.frombuffer(content, kind).reshape(SIDE, SIDE)


def decoded(path: Path, work: Path) -> np.ndarray:
    """The cells of a rendition by somebody else's decoder; with all their bits where it keeps them."""
    made = dcmread(path)
    uid = made.file_meta.TransferSyntaxUID
    if uid in WHOLE_CELLS:
        return raw_cells(path, work)
    if uid == JPEG_LS:  # of less than 8 bits, DCMTK 3.6.7 reads few
        run("gdcmconv", "--raw", str(path), str(work / "native.dcm"))
        return raw_cells(work / "native.dcm", work)
    return independent.cells(path, work, noise=True)[0][0]


@pytest.mark.parametrize("target", TARGETS, ids=label)
@pytest.mark.parametrize("kind", ["extended", "left empty", "one above", "all bits"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("field", FIELDS, ids=str)
def test_a_rendition_says_no_other_value_than_its_source(
    field: tuple[int, int, int], signed: bool, kind: str, target: str, tmp_path: Path
) -> None:
    allocated, stored, high = field
    cells = drawn(*field, kind, signed=signed)
    path, out = source(tmp_path, cells, stored, high, signed=signed), tmp_path / "out.dcm"
    try:
        notes = transcode(path, out, RenditionSpec(target), verify="always").notes
    except Unsuitable as refusal:
        assert "PS3.5 8." in str(refusal)  # noqa: PT017
        assert target not in {*WHOLE_CELLS[:3], DEFLATED_FRAME}
        return
    before, after = dcmread(path), dcmread(out)
    found = decoded(out, tmp_path)
    if f"Bits Stored said {stored}" in notes:  # the values need more bits than that, and stay in their place
        assert high == stored - 1
        assert after.BitsStored > stored
        whole = cells.astype(np.int64) if not signed else cells.view(f"<i{allocated // 8}").astype(np.int64)
        assert np.array_equal(values(after, found), whole)
        return
    assert np.array_equal(values(after, found), values(before, cells))
    if target in WHOLE_CELLS and after.HighBit == high:
        assert np.array_equal(found, cells)


@pytest.mark.parametrize("target", [uid for uid in TARGETS if uid != EXPLICIT_LE], ids=label)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("field", CONTRADICTORY, ids=str)
def test_bits_that_contradict_each_other_are_refused_or_kept_with_a_note(
    field: tuple[int, int, int], signed: bool, target: str, tmp_path: Path
) -> None:
    cells = drawn(*field, "all bits", signed=signed)
    path, out = source(tmp_path, cells, *field[1:], signed=signed), tmp_path / "out.dcm"
    if target not in WHOLE_CELLS:
        with pytest.raises(Unsuitable, match=r"PS3\.5 8\."):
            transcode(path, out, RenditionSpec(target), verify="always")
        return
    notes = transcode(path, out, RenditionSpec(target), verify="always").notes
    assert "contradict each other (PS3.5 8.1.1): cells were kept as they are" in notes
    made = dcmread(out)
    assert (made.BitsStored, made.HighBit) == field[1:]
    assert np.array_equal(raw_cells(out, tmp_path), cells)
    if target == RLE:  # and back
        again = transcode(out, tmp_path / "back.dcm", RenditionSpec(EXPLICIT_LE), verify="always")
        assert "contradict each other" in again.notes
        assert np.array_equal(raw_cells(tmp_path / "back.dcm", tmp_path), cells)


@pytest.mark.parametrize("target", [uid for uid in TARGETS if not BY_UID[uid].native], ids=label)
@pytest.mark.parametrize("stored", [0, 17, 300])
def test_more_bits_stored_than_allocated_or_none_are_refused(
    stored: int, target: str, tmp_path: Path
) -> None:
    cells = drawn(16, 12, 11, "all bits", signed=False)
    path = source(tmp_path, cells, stored, 11, signed=False)
    with pytest.raises(Permanent, match="bits"):
        transcode(path, tmp_path / "out.dcm", RenditionSpec(target), verify="always")
