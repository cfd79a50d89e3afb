"""A lossy rendition of an enhanced multi-frame image says of each frame what it says of itself.

What its functional groups should hold is written by pydicom, and compared byte for byte.
"""

import subprocess
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, Sequence, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element

from dicomferry.dicom.syntaxes import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomferry.spool.instance import RenditionSpec
from tests.support.images.synthetic import dataset, image, write
from tests.support.running.services import program
from workers.transcode import transcode

J2K_LOSSLESS, J2K = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
FRAMES = 3


def one(**elements: object) -> Sequence:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return Sequence([item])


def enhanced(types: list[str], *, shared_type: str | None = None) -> Dataset:
    """An Enhanced MR Image of three frames with the Frame Types `types`, or one that they share."""
    cells = np.stack([image(40, 48, 12, seed=n) for n in range(FRAMES)])
    made = dataset(cells.shape[1:], 12, NumberOfFrames=FRAMES, SOPClassUID=ENHANCED_MR)
    made.ImageType = ["ORIGINAL", "PRIMARY", "T1", "NONE"]
    made.SharedFunctionalGroupsSequence = one(PixelMeasuresSequence=one(PixelSpacing=["0.5", "0.5"]))
    if shared_type:
        made.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence = one(FrameType=shared_type)
    made.PerFrameFunctionalGroupsSequence = Sequence()
    for number, kind in enumerate(types):
        item = Dataset()
        item.FrameContentSequence = one(DimensionIndexValues=[1, number + 1], FrameComments="ORIGINAL\\X")
        item.MRImageFrameTypeSequence = one(FrameType=kind, PixelPresentation="MONOCHROME")
        made.PerFrameFunctionalGroupsSequence.append(item)
    made.add_new("PixelData", "OW", cells.tobytes())
    return made


def derivation(source: Dataset, frame: int | None) -> Sequence:
    """The item that says where a frame comes from."""
    purpose = one(CodeValue="121320", CodingSchemeDesignator="DCM", CodeMeaning="Uncompressed predecessor")
    named = {"ReferencedFrameNumber": frame} if frame else {}
    return one(
        DerivationCodeSequence=one(
            CodeValue="113040", CodingSchemeDesignator="DCM", CodeMeaning="Lossy Compression"
        ),
        SourceImageSequence=one(
            ReferencedSOPClassUID=ENHANCED_MR,
            ReferencedSOPInstanceUID=source.SOPInstanceUID,
            PurposeOfReferenceCodeSequence=purpose,
            **named,
        ),
    )


def element(of: Dataset, keyword: str) -> bytes:
    """An element in Explicit VR Little Endian, by pydicom."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, of[keyword])
    return buffer.getvalue()


def made(source: Path, uid: str) -> Path:
    target = source.with_suffix(f".{uid}.out")
    transcode(source, target, RenditionSpec(uid, "as-encoded"), verify="always")
    return target


def read_by_dcmtk(path: Path) -> Dataset:
    """The same, written again by DCMTK, which reads every length and delimiter for that."""
    target = path.with_suffix(".dcmtk")
    subprocess.run([program("dcmconv"), "+t=", str(path), str(target)], check=True, capture_output=True)
    return dcmread(target)


@pytest.mark.parametrize("source_uid", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE])
@pytest.mark.parametrize("undefined", [False, True], ids=["lengths", "delimiters"])
@pytest.mark.parametrize("home", ["nowhere", *GROUPS])
def test_each_frame_is_derived_and_nothing_else_of_the_functional_groups_changes(
    home: str, undefined: bool, source_uid: str, tmp_path: Path
) -> None:
    before = enhanced(
        ["ORIGINAL\\PRIMARY\\T1\\NONE", "DERIVED\\PRIMARY\\T1\\ADDED", "ORIGINAL\\PRIMARY\\M\\NONE"]
    )
    items = [item for keyword in GROUPS for item in before[keyword].value]
    if home != "nowhere":
        for item in before[home].value:
            item.DerivationImageSequence = derivation(dataset((8, 8), 8), None)
    for item in items:
        item.is_undefined_length_sequence_item = undefined
        for held in item:
            held.is_undefined_length = undefined
    for keyword in GROUPS:
        before[keyword].is_undefined_length = undefined
    expected = deepcopy(before)
    for number, item in enumerate(expected.PerFrameFunctionalGroupsSequence, 1):
        kind = item.MRImageFrameTypeSequence[0]
        kind.FrameType = ["DERIVED", *kind.FrameType[1:]]
        if home == GROUPS[1]:
            item.DerivationImageSequence.append(derivation(before, number)[0])
    shared = expected.SharedFunctionalGroupsSequence[0]
    if home == GROUPS[0]:
        shared.DerivationImageSequence.append(derivation(before, None)[0])
    elif home == "nowhere":
        shared.DerivationImageSequence = derivation(before, None)
    if source_uid == EXPLICIT_BE:
        before.PixelData = np.frombuffer(before.PixelData, "<u2").astype(">u2").tobytes()
    content = made(write(tmp_path / "in.dcm", before, source_uid), J2K).read_bytes()
    for keyword in GROUPS:
        assert content.count(element(expected, keyword)) == 1
    after = read_by_dcmtk(tmp_path / f"in.{J2K}.out")
    assert after.ImageType == ["DERIVED", "PRIMARY", "T1", "NONE"]
    assert after.LossyImageCompression == "01"
    assert after.SOPInstanceUID != before.SOPInstanceUID


def test_a_frame_type_that_all_frames_share_is_found(tmp_path: Path) -> None:
    before = enhanced([], shared_type="ORIGINAL\\PRIMARY\\AXIAL\\NONE")
    del before.PerFrameFunctionalGroupsSequence
    after = read_by_dcmtk(made(write(tmp_path / "in.dcm", before, EXPLICIT_LE), J2K))
    shared = after.SharedFunctionalGroupsSequence[0]
    assert shared.CTImageFrameTypeSequence[0].FrameType == ["DERIVED", "PRIMARY", "AXIAL", "NONE"]
    assert shared.DerivationImageSequence == derivation(before, None)


def test_where_frames_share_nothing_each_says_itself_where_it_comes_from(tmp_path: Path) -> None:
    before = enhanced(["ORIGINAL\\PRIMARY\\T1\\NONE"] * FRAMES)
    before.SharedFunctionalGroupsSequence = Sequence()
    after = read_by_dcmtk(made(write(tmp_path / "in.dcm", before, EXPLICIT_LE), J2K))
    for number, item in enumerate(after.PerFrameFunctionalGroupsSequence, 1):
        assert item.DerivationImageSequence == derivation(before, number)


def test_without_loss_the_functional_groups_stay_byte_for_byte(tmp_path: Path) -> None:
    before = enhanced(["ORIGINAL\\PRIMARY\\T1\\NONE"] * FRAMES)
    content = made(write(tmp_path / "in.dcm", before, EXPLICIT_LE), J2K_LOSSLESS).read_bytes()
    for keyword in GROUPS:
        assert content.count(element(before, keyword)) == 1


def test_other_images_get_no_functional_groups(tmp_path: Path) -> None:
    plain = dataset((40, 48), 12)
    plain.add_new("PixelData", "OW", image(40, 48, 12).tobytes())
    after = dcmread(made(write(tmp_path / "in.dcm", plain, EXPLICIT_LE), J2K))
    assert not any(keyword in after for keyword in (*GROUPS, "DerivationImageSequence"))
