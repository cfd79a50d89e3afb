"""What a header claims is held against ceilings before anything is allocated; a refusal names the key."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomferry.ceilings import Ceilings
from dicomferry.dicom.part10 import dataset_offset, file_header
from dicomferry.dicom.syntaxes import DEFLATED_LE, EXPLICIT_LE, IMPLICIT_LE
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images.files import shipped
from tests.support.images.synthetic import SECONDARY_CAPTURE, dataset, encapsulated, write
from workers.codecs import decoders
from workers.transcode import transcode

RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4."
J2K = JPEG + "90"


def native(path: Path, rows: int, frames: int) -> Path:
    one = dataset((rows, 512), 16, NumberOfFrames=frames)
    one.add_new("PixelData", "OW", bytes(frames * rows * 1024))
    return write(path, one, EXPLICIT_LE)


def deflated(path: Path) -> Path:
    plain = native(path, 512, 3)
    compressor = zlib.compressobj(wbits=-15)
    content = compressor.compress(plain.read_bytes()[dataset_offset(plain) :]) + compressor.flush()
    path.write_bytes(
        file_header(SECONDARY_CAPTURE, "1.2.3", DEFLATED_LE) + content + b"\0" * (len(content) % 2)
    )
    return path


def blank_rle(path: Path) -> Path:
    """One frame of 65 MiB of zeros, in runs of 128."""
    rows, columns = 8320, 8192
    run = b"\x81\x00" * (rows * columns // 128)
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    return encapsulated(path, dataset((rows, columns), 8), RLE, [header + run])


Make = Callable[[Path], Path]
TABLE: list[tuple[str, int, Make, str]] = [
    ("largest_frame_mb", 1, lambda path: native(path, 1100, 1), RLE),
    ("largest_image_mb", 1, lambda path: native(path, 512, 3), RLE),
    ("most_fragments", 2, lambda path: native(path, 8, 3), RLE),
    ("largest_frame_mb", 32, blank_rle, EXPLICIT_LE),
    ("largest_image_mb", 64, blank_rle, EXPLICIT_LE),
    ("largest_ratio", 60, blank_rle, EXPLICIT_LE),
    ("most_fragments", 9, lambda _: shipped("emri_small_RLE.dcm"), EXPLICIT_LE),
    ("most_fragments", 9, lambda _: shipped("emri_small_RLE.dcm"), J2K),
    ("most_elements", 50, lambda _: shipped("emri_small_RLE.dcm"), EXPLICIT_LE),
    ("most_elements", 12, lambda path: native(path, 8, 1), IMPLICIT_LE),
    ("largest_inflated_mb", 1, deflated, EXPLICIT_LE),
]  # fmt: skip


@pytest.mark.parametrize(("key", "lowered", "make", "uid"), TABLE)
def test_what_is_over_a_ceiling_is_refused_by_the_name_of_its_key_and_made_without(
    key: str, lowered: int, make: Make, uid: str, tmp_path: Path
) -> None:
    source, target = make(tmp_path / "in.dcm"), tmp_path / "out.dcm"
    with pytest.raises(Permanent, match=rf"the ceiling is {lowered}; .* raise \[worker\] {key}$"):
        transcode(source, target, RenditionSpec(uid), ceilings=replace(Ceilings(), **{key: lowered}))
    assert not target.exists()
    transcode(source, target, RenditionSpec(uid))
    assert target.exists()


def test_every_ceiling_on_a_claim_is_in_the_table() -> None:
    assert {row[0] for row in TABLE} == set(vars(Ceilings())) - {"memory_mb"}


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "MR_small.dcm", "693_J2KI.dcm", "JPGExtended.dcm"])
@pytest.mark.parametrize(
    "claim",
    [
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 65535, "Columns": 65535, "NumberOfFrames": 2**31 - 1},
        {"NumberOfFrames": 2**31 - 1},
        {"Rows": 20000, "Columns": 20000},
    ],
    ids=str,
)
def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken_for_it(
    name: str, claim: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object) -> None:
        pytest.fail("the decoder was reached")

    hostile = dcmread(shipped(name))
    for keyword, value in claim.items():
        setattr(hostile, keyword, value)
    hostile.save_as(tmp_path / "in.dcm")
    if name != "JPGExtended.dcm":  # which is large enough for an image of 20,000 x 20,000
        monkeypatch.setattr(decoders, "DECODERS", dict.fromkeys(decoders.DECODERS, reached))
    target = J2K if name == "MR_small.dcm" else EXPLICIT_LE
    tracemalloc.start()
    try:
        with pytest.raises(Permanent):
            transcode(tmp_path / "in.dcm", tmp_path / "out.dcm", RenditionSpec(target))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
