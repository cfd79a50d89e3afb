"""One image of each syntax that we receive, PACS to stock storescp, pixels compared with DCMTK or GDCM.

HTJ2K: neither decodes it; its source's pixels are known, since the image was encoded here without loss.
"""

import subprocess
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid
from pynetdicom import AE, _config
from pynetdicom.sop_class import EncapsulatedPDFStorage, GrayscaleSoftcopyPresentationStateStorage

from dicomferry.dicom.syntaxes import EXPLICIT_LE, GROUPS, keyword
from tests.support.images.files import fresh_copies, gdcm_pixels, native_pixels, syntax_of, uid_of
from tests.support.peers.dcmtk import send
from tests.support.running.services import program
from tests.support.running.site import progress

GREY, UNSIGNED, COLOUR = "CT_small.dcm", "ExplVR_BigEnd.dcm", "examples_rgb_color.dcm"
_JPEG = "1.2.840.10008.1.2.4."

# received syntax -> source, DCMTK tool and its options that make it, DCMTK tool that decodes it
MADE = {
    "1.2.840.10008.1.2": (GREY, ("dcmconv", "+ti"), ("dcmconv", "+te")),
    "1.2.840.10008.1.2.2": (GREY, ("dcmconv", "+tb"), ("dcmconv", "+te")),
    "1.2.840.10008.1.2.1.99": (GREY, ("dcmconv", "+td"), ("dcmconv", "+te")),
    "1.2.840.10008.1.2.5": (GREY, ("dcmcrle",), ("dcmdrle",)),
    _JPEG + "50": (COLOUR, ("dcmcjpeg", "+eb", "+un"), ("dcmdjpeg", "+px")),
    _JPEG + "51": (GREY, ("dcmcjpeg", "+ee"), ("dcmdjpeg",)),
    _JPEG + "57": (GREY, ("dcmcjpeg", "+el", "+un"), ("dcmdjpeg",)),
    _JPEG + "70": (COLOUR, ("dcmcjpeg", "+e1", "+un"), ("dcmdjpeg",)),
    _JPEG + "80": (GREY, ("dcmcjpls", "+el"), ("dcmdjpls",)),
    _JPEG + "81": (UNSIGNED, ("dcmcjpls", "+en", "+md", "2"), ("dcmdjpls",)),
}
SHIPPED = {_JPEG + "90": "693_J2KR.dcm", _JPEG + "91": "693_J2KI.dcm"}
LOSSY_DCT = {_JPEG + "50", _JPEG + "51"}  # right decoders of these differ by 1


def convert(tool, source: Path, target: Path) -> Path:
    subprocess.run([program(tool[0]), *tool[1:], str(source), str(target)], check=True, capture_output=True)
    return target


def delivered(workstation, path: Path) -> Path:
    uid = uid_of(path)
    progress(lambda: uid in workstation.by_uid(), True)
    return workstation.by_uid()[uid]


@pytest.mark.parametrize("received", MADE, ids=keyword)
def test_what_dcmtk_encodes_arrives_with_the_pixels_that_dcmtk_decodes(site, workstation, tmp_path, received):
    source, encode, decode = MADE[received]
    (plain,) = fresh_copies(source, 1, tmp_path)
    encoded = convert(encode, plain, tmp_path / "encoded.dcm")
    dataset = dcmread(encoded, specific_tags=["SOPInstanceUID"])
    assert syntax_of(encoded) == received, "the tool made another syntax"
    assert send(site.port, [encoded]).returncode == 0
    target = delivered(workstation, encoded)
    expected = native_pixels(convert(decode, encoded, tmp_path / "decoded.dcm"))
    got = dcmread(target)
    assert got.file_meta.TransferSyntaxUID in GROUPS["uncompressed"]
    assert got.SOPInstanceUID == dataset.SOPInstanceUID
    values = np.dtype(
        f"<i{got.BitsAllocated // 8}" if got.PixelRepresentation else f"<u{got.BitsAllocated // 8}"
    )
    ours = np.frombuffer(native_pixels(target), values).astype(int)
    theirs = np.frombuffer(expected, values).astype(int)
    assert np.abs(ours - theirs).max() <= (1 if received in LOSSY_DCT else 0)


@pytest.mark.parametrize("received", SHIPPED, ids=keyword)
def test_jpeg2000_arrives_with_the_pixels_that_gdcm_decodes(site, workstation, tmp_path, received):
    (path,) = fresh_copies(SHIPPED[received], 1, tmp_path)
    assert syntax_of(path) == received
    assert send(site.port, [path]).returncode == 0
    assert native_pixels(delivered(workstation, path)) == gdcm_pixels(path, tmp_path)


@pytest.mark.parametrize("received", GROUPS["htj2k"], ids=keyword)
def test_htj2k_arrives_with_the_pixels_that_were_encoded(site, workstation, tmp_path, received, monkeypatch):
    (plain,) = fresh_copies(GREY, 1, tmp_path)
    dataset = dcmread(plain)
    pixels = np.frombuffer(dataset.PixelData, "<i2").reshape(dataset.Rows, dataset.Columns)
    codestream = imagecodecs.htj2k_encode(np.ascontiguousarray(pixels), reversible=True)
    dataset.PixelData = encapsulate([codestream])
    dataset["PixelData"].is_undefined_length = True
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.file_meta.TransferSyntaxUID = received
    dataset.save_as(plain, enforce_file_format=True)
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)  # dcmsend 3.6.7 does not know HTJ2K
    ae = AE(ae_title="PACS")
    ae.add_requested_context(dataset.SOPClassUID, received)
    association = ae.associate("127.0.0.1", site.port, ae_title="FERRY")
    assert association.send_c_store(plain).Status == 0
    association.release()
    assert native_pixels(delivered(workstation, plain)) == pixels.tobytes()


@pytest.mark.parametrize(
    "name", ["test-SR.dcm", "rtplan.dcm", "waveform_ecg.dcm", "pdf", "presentation state"]
)
def test_objects_without_pixels_arrive_with_every_element(site, workstation, tmp_path, name):
    (plain,) = fresh_copies(name if name.endswith(".dcm") else "test-SR.dcm", 1, tmp_path)
    if not name.endswith(".dcm"):
        elements = {
            "pdf": {
                "EncapsulatedDocument": b"%PDF-1.4 ",
                "MIMETypeOfEncapsulatedDocument": "application/pdf",
            },
            "presentation state": {"ContentLabel": "MARKS", "PresentationLUTShape": "IDENTITY"},
        }[name]
        dataset = dcmread(plain)
        del dataset.ContentSequence
        dataset.SOPClassUID = (
            EncapsulatedPDFStorage if name == "pdf" else GrayscaleSoftcopyPresentationStateStorage
        )
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        for element, value in elements.items():
            setattr(dataset, element, value)
        dataset.save_as(plain, enforce_file_format=True)
    path = convert(("dcmconv", "+td"), plain, tmp_path / "deflated.dcm")  # so that it has to be re-encoded
    assert send(site.port, [path]).returncode == 0
    ours, theirs = dcmread(delivered(workstation, path)), dcmread(path)
    assert ours.file_meta.TransferSyntaxUID == EXPLICIT_LE
    assert ours == theirs


RETIRED = {"US": "6", "US multi-frame": "3", "NM": "5", "overlay": "8", "curve": "9", "trial": "77.1"}


@pytest.mark.parametrize("number", RETIRED.values(), ids=RETIRED.keys())
def test_an_object_of_a_retired_sop_class_arrives(site, workstation, tmp_path, number):
    (plain,) = fresh_copies("CT_small.dcm", 1, tmp_path)
    dataset = dcmread(plain)
    dataset.SOPClassUID = f"1.2.840.10008.5.1.4.1.1.{number}"
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(plain, enforce_file_format=True)
    path = convert(("dcmconv", "+td"), plain, tmp_path / "deflated.dcm")  # so that it has to be re-encoded
    assert send(site.port, [path]).returncode == 0
    arrived = dcmread(delivered(workstation, path))
    assert (arrived.SOPClassUID, arrived.PixelData) == (dataset.SOPClassUID, dataset.PixelData)


def test_a_multi_frame_image_arrives_frame_by_frame(site, workstation, tmp_path):
    (plain,) = fresh_copies("rtdose.dcm", 1, tmp_path)
    encoded = convert(("dcmcrle",), plain, tmp_path / "encoded.dcm")
    assert send(site.port, [encoded]).returncode == 0
    target = delivered(workstation, encoded)
    assert syntax_of(target) == EXPLICIT_LE
    assert native_pixels(target) == native_pixels(plain)
