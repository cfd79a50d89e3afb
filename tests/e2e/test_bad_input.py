"""Bad input: each gets a clear answer, and nothing that was answered success is lost."""

import subprocess
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification

from dicomferry.dicom.part10 import dataset_offset
from tests.support.images.files import fresh_copies, uid_of
from tests.support.peers.dcmtk import send
from tests.support.running.services import program
from tests.support.running.site import Site, progress

J2K = "1.2.840.10008.1.2.4.90"


def store(site: Site, path: Path, content: bytes) -> int:
    """Send `content` as the data set of the image at `path`; the status that comes back."""
    meta = dcmread(path, specific_tags=[]).file_meta
    ae = AE(ae_title="PACS")
    ae.add_requested_context(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", site.port, ae_title="FERRY")
    assert association.is_established
    cut = path.with_suffix(".cut")
    cut.write_bytes(path.read_bytes()[: dataset_offset(path)] + content)
    try:
        from pynetdicom import _config

        _config.STORE_SEND_CHUNKED_DATASET = True
        return int(association.send_c_store(cut).Status)
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = False
        association.release()


def test_an_unknown_called_ae_is_rejected_and_told_so(site):
    echo = subprocess.run(
        [program("echoscu"), "-aec", "NOBODY", "127.0.0.1", str(site.port)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert echo.returncode != 0
    assert "Called AE Title Not Recognized" in echo.stdout + echo.stderr


def test_an_unsupported_sop_class_gets_no_context_and_the_rest_still_does(site):
    ae = AE(ae_title="PACS")
    ae.add_requested_context("1.2.3.4.5.6.7", J2K)
    ae.add_requested_context(CTImageStorage, J2K)
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", site.port, ae_title="FERRY")
    assert association.is_established
    assert {str(c.abstract_syntax) for c in association.accepted_contexts} == {CTImageStorage, Verification}
    assert association.send_c_echo().Status == 0
    association.release()


def test_garbage_instead_of_a_data_set_is_refused_and_kept_in_quarantine(site):
    (path,) = fresh_copies("MR2_J2KR.dcm", 1, site.folder / "garbage")
    before = site.status()["quarantined"]
    assert store(site, path, b"this is no data set " * 200) & 0xF000 == 0xC000
    progress(lambda: site.status()["quarantined"], before + 1)


def test_a_data_set_that_ends_too_early_is_refused(site):
    (path,) = fresh_copies("MR2_J2KR.dcm", 1, site.folder / "cut")
    content = path.read_bytes()[dataset_offset(path) :]
    assert store(site, path, content[: len(content) // 2]) & 0xF000 == 0xC000


def test_a_damaged_image_is_parked_with_its_reason_and_the_others_pass(site, workstation):
    damaged, *healthy = fresh_copies("MR2_J2KR.dcm", 5, site.folder / "damaged")
    dataset = dcmread(damaged)
    pixels = bytearray(dataset.PixelData)
    start = pixels.index(b"\xff\x4f\xff\x51")
    pixels[start + 4 : start + 40] = bytes(36)
    dataset.PixelData = bytes(pixels)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.save_as(damaged)
    assert send(site.port, [damaged, *healthy]).returncode == 0
    progress(lambda: len({uid_of(p) for p in healthy} & workstation.by_uid().keys()), len(healthy))
    progress(lambda: site.lane("ws1")["dead"], 1)
    told = site.command("explain", uid_of(damaged)).stdout
    assert "dead since" in told
    assert uid_of(damaged) not in workstation.by_uid()


def test_an_image_with_more_frames_than_it_says_is_parked_with_both_numbers(site, workstation):
    case = Path(__file__).parent.parent / "data" / "cases" / "frames" / "jls_nf1_bot1.dcm"
    before = site.lane("ws1")["dead"]
    assert send(site.port, [case]).returncode == 0
    progress(lambda: site.lane("ws1")["dead"], before + 1)
    told = " ".join(site.command("explain", uid_of(case)).stdout.split())
    assert "Number of Frames is 1, pixel data holds 3 codestreams (JPEGLS)" in told
    assert uid_of(case) not in workstation.by_uid()


def test_the_site_still_works_after_all_that(site, workstation):
    files = fresh_copies("US1_J2KR.dcm", 2, site.folder / "after")
    assert send(site.port, files).returncode == 0
    progress(lambda: len({uid_of(p) for p in files} & workstation.by_uid().keys()), 2)
