"""A lossy rendition is another instance, and says how it came to be, as DCMTK and pydicom read it."""

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames

from dicomferry.dicom.syntaxes import EXPLICIT_LE, IMPLICIT_LE
from tests.support.images.files import shipped
from tests.support.images.independent import dump
from tests.support.images.renditions import made, rendition
from tests.support.images.synthetic import dataset, image, write
from workers.transcode import Unsuitable

RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4."
LOSSY = [(JPEG + "50", {"quality": 80}), (JPEG + "81", {"near": 3}), (JPEG + "91", {"ratio": 4.0}),
         (JPEG + "203", {"ratio": 4.0}), (JPEG + "112", {"quality": 80})]  # fmt: skip


@pytest.mark.parametrize(("uid", "settings"), LOSSY)
def test_a_lossy_rendition_is_a_derived_instance_of_its_own(
    uid: str, settings: dict[str, float], tmp_path: Path
) -> None:
    values = image(64, 64, 8)
    one = dataset(values.shape, 8, ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    one.add_new("PixelData", "OB", values.tobytes())
    source = write(tmp_path / "in.dcm", one, IMPLICIT_LE)
    target, report = made(source, uid, tmp_path, **settings)
    read = dcmread(target)
    assert read.SOPInstanceUID != one.SOPInstanceUID
    assert read.SOPInstanceUID == read.file_meta.MediaStorageSOPInstanceUID
    assert read.ImageType == ["DERIVED", "PRIMARY", "AXIAL"]
    assert read.LossyImageCompression == "01"
    codestream = next(generate_frames(read.PixelData, number_of_frames=1))
    assert float(read.LossyImageCompressionRatio) == pytest.approx(values.nbytes / len(codestream), rel=1e-4)
    assert str(read.LossyImageCompressionMethod).startswith("ISO_")
    assert read.SourceImageSequence[0].ReferencedSOPInstanceUID == one.SOPInstanceUID
    assert read.SourceImageSequence[0].ReferencedSOPClassUID == one.SOPClassUID
    assert "off by at most" in report.verified
    again = rendition(source, uid, tmp_path / "again", **settings)
    assert again.read_bytes() == target.read_bytes()
    changed = (
        "(0008,0008)", "(0008,0018)", "(0008,2111)", "(0008,2112)", "(0008,9215)", "(0028,2110)",
        "(0028,2112)", "(0028,2114)", "(0008,11", "(0040,a170)", "(0008,010",
    )  # fmt: skip
    assert dump(target, *changed) == dump(rendition(source, EXPLICIT_LE, tmp_path), *changed)


def test_other_parameters_make_another_instance(tmp_path: Path) -> None:
    source = shipped("CT_small.dcm")
    uids = {
        dcmread(rendition(source, JPEG + "81", tmp_path / str(near), near=near)).SOPInstanceUID
        for near in (1, 2)
    }
    assert len(uids) == 2


def test_lossy_history_grows_and_outlives_decoding(tmp_path: Path) -> None:
    source = shipped("CT_small.dcm")
    first = rendition(source, JPEG + "91", tmp_path, ratio=5.0)
    native = rendition(first, EXPLICIT_LE, tmp_path)
    lossless = rendition(native, RLE, tmp_path)
    for path in (native, lossless):
        assert dcmread(path).SOPInstanceUID == dcmread(first).SOPInstanceUID
        assert dcmread(path).LossyImageCompressionMethod == "ISO_15444_1"
    second = dcmread(rendition(lossless, JPEG + "81", tmp_path, near=4))
    assert list(second.LossyImageCompressionMethod) == ["ISO_15444_1", "ISO_14495_1"]
    assert len(second.LossyImageCompressionRatio) == 2
    sources = [item.ReferencedSOPInstanceUID for item in second.SourceImageSequence]
    assert sources == [dcmread(source).SOPInstanceUID, dcmread(first).SOPInstanceUID]
    assert second.DerivationDescription.count("ratio") >= 2


def test_a_palette_image_is_no_lossy_one(tmp_path: Path) -> None:
    with pytest.raises(Unsuitable, match="PALETTE COLOR"):
        rendition(shipped("OBXXXX1A.dcm"), JPEG + "91", tmp_path)
