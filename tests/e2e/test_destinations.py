"""Destinations that differ, and destinations that are off."""

import subprocess
import time

from pydicom import dcmread

from dicomferry.dicom.part10 import dataset_offset
from dicomferry.dicom.syntaxes import EXPLICIT_LE
from tests.support.images.files import fresh_copies, gdcm_pixels, native_pixels, syntax_of, uid_of
from tests.support.peers.dcmtk import Workstation, send
from tests.support.peers.scps import ends_after, pynetdicom_scp, relay
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.running.services import program
from tests.support.running.site import Site, progress

OFF_FOR = 60.0  # seconds


def as_dcmtk_writes_it(path):
    """dcmsend writes sequences with explicit lengths: let the file have them before it is sent."""
    subprocess.run([program("dcmconv"), str(path), str(path)], check=True, capture_output=True)
    return path


def dataset_bytes(path):
    return path.read_bytes()[dataset_offset(path) :]


def test_each_of_two_workstations_gets_what_it_shows_and_one_the_original_bytes(tmp_path):
    plain = Workstation(tmp_path / "plain", free_port(), title="PLAIN")
    able = Workstation(tmp_path / "able", free_port(), "+xa", "+B", title="ABLE")
    files = [as_dcmtk_writes_it(path) for path in fresh_copies("MR2_J2KR.dcm", 5, tmp_path / "pacs")]
    site = Site(
        tmp_path / "site",
        destination("plain", plain.port, title="PLAIN"),
        destination("able", able.port, title="ABLE", transfer_syntaxes="negotiate"),
    )
    with plain, able, site:
        assert send(site.port, files).returncode == 0
        progress(lambda: min(len(plain.files()), len(able.files())), len(files))
        site.wait_drained()
    for path in files:
        original = able.by_uid()[uid_of(path)]
        assert syntax_of(original) == syntax_of(path)
        assert dataset_bytes(original) == dataset_bytes(path)
        native = plain.by_uid()[uid_of(path)]
        assert syntax_of(native) == EXPLICIT_LE
        assert native_pixels(native) == gdcm_pixels(path, tmp_path)


def test_what_arrives_while_the_workstation_is_off_is_delivered_once_when_it_is_on(tmp_path):
    off = Workstation(tmp_path / "off", free_port(), title="OFF")
    on = Workstation(tmp_path / "on", free_port(), title="ON")
    files = fresh_copies("US1_J2KR.dcm", 8, tmp_path / "pacs")
    site = Site(
        tmp_path / "site",
        destination("off", off.port, title="OFF"),
        destination("on", on.port, title="ON"),
    )
    with on, site:
        sent_at = time.monotonic()
        assert send(site.port, files).returncode == 0
        progress(lambda: len(on.files()), len(files))  # the other one does not notice
        assert time.monotonic() - sent_at < OFF_FOR
        wait_until(lambda: site.lane("off")["circuit"] == "open", "the circuit to open", 30)
        lane = site.lane("off")
        assert (lane["circuit"], lane["pending"], lane["dead"]) == ("open", len(files), 0)
        assert "connection refused" in lane["reason"]
        time.sleep(OFF_FOR - (time.monotonic() - sent_at))
        with off:
            progress(lambda: len(off.files()), len(files), idle=120)
            site.wait_drained()
    for workstation in (off, on):
        assert sorted(uid_of(p) for p in workstation.files()) == sorted(uid_of(p) for p in files)


def test_status_and_explain_tell_what_happened_and_why(tmp_path):
    workstation = Workstation(tmp_path / "ws1", free_port())
    (file,) = fresh_copies(
        "MR2_J2KR.dcm", 1, tmp_path / "pacs", PatientName="Secret^Name", PatientID="S3CR3T"
    )
    with workstation, Site(tmp_path / "site", destination("ws1", workstation.port)) as site:
        assert send(site.port, [file]).returncode == 0
        progress(lambda: len(workstation.files()), 1)
        site.wait_drained()
        shown = site.command("explain", uid_of(file))
        progress(lambda: site.lane("ws1")["delivered"], 1)
        table = site.command("status").stdout
        assert site.command("explain", "1.2.3.4").returncode == 1
    assert shown.returncode == 0
    for word in ("received", "planned", "rendered", "delivered", "J2K", "ExplicitLE", "ws1"):
        assert word in shown.stdout, shown.stdout
    assert "answering" in table
    everything = site.log.read_text() + shown.stdout + table
    assert "Secret" not in everything
    assert "S3CR3T" not in everything
    assert dcmread(workstation.files()[0]).PatientID == "S3CR3T"


def test_an_object_that_was_replaced_and_came_again_is_the_one_that_stays(tmp_path):
    """A, B, A under one SOP Instance UID, with the workstation off and the dispatcher killed in between."""
    port = free_port()
    (a,) = fresh_copies("CT_small.dcm", 1, tmp_path / "pacs")
    dataset = dcmread(a)
    dataset.SeriesDescription = "B"
    b = tmp_path / "pacs" / "b.dcm"
    dataset.save_as(b)
    with Site(tmp_path / "site", destination("ws", port, title="WS")) as site:
        for path in (a, b):
            assert send(site.port, [path]).returncode == 0
        site.kill("dispatcher")
        for path in (a, a, b, a):
            assert send(site.port, [path]).returncode == 0
        with pynetdicom_scp(port=port) as workstation:
            progress(lambda: len(workstation.datasets), 5, idle=120)
            site.wait_drained()
        arrived = [content.count(b"\x08\0\x3e\x10LO\2\0B ") for _, _, content in workstation.datasets]
    assert arrived == [0, 1, 0, 1, 0]


def test_single_objects_share_an_association_and_a_peer_that_closes_each_opens_no_circuit(tmp_path):
    files = fresh_copies("CT_small.dcm", 12, tmp_path / "pacs")
    with (
        pynetdicom_scp([EXPLICIT_LE]) as patient,
        pynetdicom_scp([EXPLICIT_LE]) as behind,
        relay(behind.port, ends_after(1, "closes")) as closing,
    ):
        site = Site(
            tmp_path / "site",
            destination("patient", patient.port, linger=30),  # a machine that stalls does not end it
            destination("closing", closing),
        )
        with site:
            for path in files:
                assert send(site.port, [path]).returncode == 0
                time.sleep(0.15)
            progress(lambda: min(len(patient.datasets), len(behind.datasets)), len(files))
            site.wait_drained()
            assert len(patient.callers) <= 2  # the first asks what it accepts
            assert "Unreachable" not in site.log.read_text()
