"""Renditions of the files that pydicom and pydicom-data ship, compared with independent decoders.

DCMTK decodes everything but JPEG 2000. There, the lossless files are compared with the uncompressed originals
that they were made from, and the others with GDCM, which links the same OpenJPEG as we do.
"""

import re
import subprocess
from pathlib import Path

import data_store
import numpy as np
import pydicom.data
import pytest
from pydicom import Dataset, dcmread

from dicomferry.dicom.syntaxes import BY_UID, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images.files import gdcm_pixels, native_pixels, shipped
from tests.support.images.independent import dump
from tests.support.running.services import program
from workers.transcode import transcode

FOLDERS = (Path(pydicom.data.__file__).parent / "test_files", Path(data_store.__file__).parent / "data")
# Large ones say nothing that a small one doesn't.
LARGEST = 2 << 20
PIXEL_DATA = 0x7FE00010
PHOTOMETRIC = 0x00280004
PLANAR = 0x00280006

# No Part 10 file as ingest writes it, so never on a spool.
UNFRAMED = {
    "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "OT-PAL-8-face.dcm", "empty_charset_LEI.dcm",
    "meta_missing_tsyntax.dcm", "no_meta.dcm",
    "rtstruct.dcm",
}  # fmt: skip
DAMAGED = {
    "JPEG2000-embedded-sequence-delimiter.dcm": "columns",  # the SIZ is overwritten
    "MR_truncated.dcm": "truncated",
    "no_meta_group_length.dcm": "truncated",  # three elements are left of it
    "rtplan_truncated.dcm": "truncated",
}


def syntax(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True, force=True).file_meta.get("TransferSyntaxUID", ""))


FILES = sorted(
    path
    for folder in FOLDERS
    for path in folder.glob("*.dcm")
    if path.stat().st_size <= LARGEST and path.name not in UNFRAMED
)
# Its sequence delimiter is gone: DCMTK, GDCM and pydicom refuse it, though every frame is there.
UNDELIMITED = "emri_small_jpeg_2k_lossless_too_short.dcm"
UNCOUNTED = "badVR.dcm"  # its Number of Frames is no number: only a copy can be made of it
# Implicit VR in an explicit syntax, which DCMTK cannot read: see test_odd_files.
MISLABELLED = "SC_rgb_jpeg.dcm"
SOUND = [path for path in FILES if path.name not in {*DAMAGED, UNDELIMITED, UNCOUNTED, MISLABELLED}]
BY_DCMTK = {
    "rle": "dcmdrle", "jpeg": "dcmdjpeg", "jpeg-lossless": "dcmdjpeg", "jpeg-ls": "dcmdjpls",
    "uncompressed": "dcmconv", "deflated": "dcmconv",
}  # fmt: skip


def named(path: Path) -> str:
    return path.stem


def rendition(source: Path, folder: Path, uid: str = EXPLICIT_LE, colour: str = "rgb") -> Path:
    target = folder / f"{source.stem}.{BY_UID[uid].label}.{colour}.dcm"
    transcode(source, target, RenditionSpec(uid, colour))
    return target


def dcmtk(tool: str, source: Path, target: Path, *options: str) -> Path:
    subprocess.run([program(tool), *options, str(source), str(target)], check=True, capture_output=True)
    return target


@pytest.mark.parametrize("source", [p for p in SOUND if BY_UID[syntax(p)].group in BY_DCMTK], ids=named)
def test_pixels_are_those_that_dcmtk_decodes(source: Path, tmp_path: Path) -> None:
    tool = BY_DCMTK[BY_UID[syntax(source)].group]
    ours = dcmread(rendition(source, tmp_path))
    theirs = dcmread(dcmtk(tool, source, tmp_path / "dcmtk.dcm", "+te"))
    assert ("PixelData" in ours) == ("PixelData" in theirs)
    if "PixelData" in ours:
        assert ours.PixelData == theirs.PixelData
        assert ours.get("PhotometricInterpretation") == theirs.get("PhotometricInterpretation")
        assert ours.get("PlanarConfiguration") == theirs.get("PlanarConfiguration")


@pytest.mark.parametrize("target", [EXPLICIT_LE, IMPLICIT_LE])
@pytest.mark.parametrize(
    ("source", "original"),
    [
        ("693_J2KR", "693_UNCR"),
        ("MR2_J2KR", "MR2_UNCR"),
        ("RG1_J2KR", "RG1_UNCR"),
        ("RG3_J2KR", "RG3_UNCR"),
        ("US1_J2KR", "US1_UNCR"),
        ("MR_small_jp2klossless", "MR_small"),
        ("emri_small_jpeg_2k_lossless", "emri_small"),
    ],
)
def test_lossless_jpeg_2000_gives_the_uncompressed_original(
    source: str, original: str, target: str, tmp_path: Path
) -> None:
    ours = rendition(shipped(f"{source}.dcm"), tmp_path, target)
    assert native_pixels(ours) == native_pixels(shipped(f"{original}.dcm"))
    assert (
        dcmread(ours).PhotometricInterpretation
        == dcmread(shipped(f"{original}.dcm")).PhotometricInterpretation
    )


@pytest.mark.parametrize("source", [p for p in SOUND if BY_UID[syntax(p)].group == "jpeg2000"], ids=named)
def test_jpeg_2000_pixels_are_those_that_gdcm_decodes(source: Path, tmp_path: Path) -> None:
    ours = rendition(source, tmp_path)
    dataset = dcmread(ours)
    width = dataset.BitsAllocated // 8
    # GDCM leaves the bits above Bits Stored clear where the codestream is unsigned; we extend the sign.
    mask = (1 << dataset.BitsStored) - 1
    mine = np.frombuffer(native_pixels(ours), f"<u{width}") & mask
    theirs = np.frombuffer(gdcm_pixels(source, tmp_path), f"<u{width}") & mask
    assert (mine == theirs).all()


def test_a_codestream_and_header_of_different_sign_give_the_headers_and_a_note(tmp_path: Path) -> None:
    source = shipped("J2K_pixelrep_mismatch.dcm")
    target = tmp_path / "out.dcm"
    notes = transcode(source, target, RenditionSpec(EXPLICIT_LE)).notes
    assert "signed" in notes
    values = dcmread(target).pixel_array
    assert values.dtype == np.int16
    # pydicom's own correction reads it so: the padding outside of the field of view is -2000.
    assert values.min() == dcmread(source).pixel_array.min() == -2000


@pytest.mark.parametrize("target", [EXPLICIT_LE, IMPLICIT_LE])
@pytest.mark.parametrize("source", SOUND, ids=named)
def test_every_other_element_keeps_its_bytes(source: Path, target: str, tmp_path: Path) -> None:
    before, after = dcmread(source), dcmread(rendition(source, tmp_path, target))
    assert after.file_meta.TransferSyntaxUID == target
    if BY_UID[syntax(source)].uid == EXPLICIT_BE:
        before = dcmread(dcmtk("dcmconv", source, tmp_path / "little.dcm", "+te", "-u", "-g"))
    converted = syntax_is_compressed(source) or (
        source.stem.startswith("SC_ybr_full") and syntax(source) != target
    )
    changed = {PIXEL_DATA, PHOTOMETRIC, PLANAR} if converted else set()
    assert raw_values(after, changed) == raw_values(before, changed)


def syntax_is_compressed(path: Path) -> bool:
    return not BY_UID[syntax(path)].native


def raw_values(dataset: Dataset, without: set[int], prefix: str = "") -> dict[str, object]:
    """The bytes of every value, by path; group lengths, retired, are left out."""
    found: dict[str, object] = {}
    for tag in list(dataset.keys()):
        if tag.element == 0 or tag in without:
            continue
        element = dataset.get_item(tag)
        if dataset[tag].VR == "SQ":
            found[f"{prefix}{tag}"] = len(dataset[tag].value)
            for number, item in enumerate(dataset[tag].value):
                found |= raw_values(item, set(), f"{prefix}{tag}[{number}].")
        else:
            # pydicom converts a few elements while it reads, such as the character set.
            value = element.value if element.is_raw or not element.value else str(element.value)
            odd = isinstance(value, bytes) and len(value) % 2  # one shipped file has such a value
            found[f"{prefix}{tag}"] = value + b"\0" if odd else value or b""
    return found


@pytest.mark.parametrize(
    "source",
    [p for p in SOUND if syntax(p) not in (IMPLICIT_LE, EXPLICIT_BE)],
    ids=named,
)
def test_dcmdump_reads_the_same_of_everything_around_the_pixels(source: Path, tmp_path: Path) -> None:
    assert around_pixels(rendition(source, tmp_path)) == around_pixels(source)


def around_pixels(path: Path) -> list[str]:
    shown = dump(path, "(0028,0004)", "(0028,0006)")
    return [line for line in shown if not re.match(r"\s*\([0-9a-f]{4},0000\)", line)]  # group lengths


def test_pixel_data_without_its_last_delimiter_is_decoded_when_all_frames_are_there(tmp_path: Path) -> None:
    ours = rendition(shipped(UNDELIMITED), tmp_path)
    assert native_pixels(ours) == native_pixels(shipped("emri_small.dcm"))


@pytest.mark.parametrize("name", sorted(DAMAGED))
def test_damage_is_named_and_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=DAMAGED[name]):
        rendition(shipped(name), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_native_pixels_that_nobody_can_count_are_copied_or_refused(tmp_path: Path) -> None:
    source = shipped(UNCOUNTED)
    copied = rendition(source, tmp_path)
    assert dcmread(copied).PixelData == dcmread(source).PixelData
    with pytest.raises(Permanent, match="Number of Frames"):
        rendition(source, tmp_path, IMPLICIT_LE)


def test_equal_inputs_and_specs_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("US1_J2KR.dcm", "image_dfl.dcm", "rtplan.dcm"):
        first = rendition(shipped(name), tmp_path / "one").read_bytes()
        assert rendition(shipped(name), tmp_path / "two").read_bytes() == first


def test_a_lossy_source_keeps_its_uid_and_its_lossy_history(tmp_path: Path) -> None:
    source = shipped("US1_J2KI.dcm")
    before, after = dcmread(source), dcmread(rendition(source, tmp_path))
    assert after.SOPInstanceUID == before.SOPInstanceUID == after.file_meta.MediaStorageSOPInstanceUID
    assert after.LossyImageCompression == "01"
    assert after.get("LossyImageCompressionRatio") == before.get("LossyImageCompressionRatio")


def test_colour_as_encoded_leaves_ycbcr_as_gdcm_writes_it(tmp_path: Path) -> None:
    source = shipped("SC_rgb_dcmtk_+eb+cy+n2.dcm")
    ours = rendition(source, tmp_path, colour="as-encoded")
    assert dcmread(ours).PhotometricInterpretation == "YBR_FULL"
    mine, theirs = (
        np.frombuffer(p, np.uint8).astype(int) for p in (native_pixels(ours), gdcm_pixels(source, tmp_path))
    )
    assert abs(mine - theirs).max() <= 1


def test_what_workers_cannot_decode_or_make_says_so(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="cannot make MPEG2MPML"):
        rendition(shipped("CT_small.dcm"), tmp_path, "1.2.840.10008.1.2.4.100")
