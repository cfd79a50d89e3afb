"""The main job, over real sockets: a PACS that compresses, a workstation that shows only what is not."""

from pathlib import Path

import pytest

from dicomferry.dicom.syntaxes import GROUPS
from tests.support.images.files import fresh_copies, gdcm_pixels, native_pixels, syntax_of, uid_of
from tests.support.peers.dcmtk import Workstation, send
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port
from tests.support.running.site import Site, progress

J2K_FILES = ("693_J2KR.dcm", "MR2_J2KR.dcm", "RG3_J2KR.dcm", "US1_J2KR.dcm")


@pytest.fixture
def workstation(tmp_path: Path) -> Workstation:
    return Workstation(tmp_path / "ws1", free_port())


def sixty(folder: Path) -> list[Path]:
    return [path for name in J2K_FILES for path in fresh_copies(name, 15, folder)]


def test_sixty_jpeg2000_images_reach_a_stock_storescp_pixel_for_pixel(tmp_path, workstation):
    files = sixty(tmp_path / "pacs")
    with workstation, Site(tmp_path / "site", destination("ws1", workstation.port)) as site:
        sent = send(site.port, files)
        assert sent.returncode == 0, sent.stderr
        progress(lambda: len(workstation.files()), len(files))
        site.wait_drained()
        received = workstation.by_uid()
    assert received.keys() == {uid_of(path) for path in files}
    assert len(workstation.files()) == len(files), "something came twice"
    originals = {name: gdcm_pixels(fresh_copies(name, 1, tmp_path / name)[0], tmp_path) for name in J2K_FILES}
    for path in files:
        target = received[uid_of(path)]
        assert syntax_of(target) in GROUPS["uncompressed"]
        name = path.name.rsplit("-", 1)[0] + ".dcm"
        assert native_pixels(target) == originals[name], path.name


def test_kill_9_of_worker_forwarder_and_dispatcher_loses_nothing(tmp_path, workstation):
    files = sixty(tmp_path / "pacs")
    with workstation, Site(tmp_path / "site", destination("ws1", workstation.port)) as site:
        assert send(site.port, files[:40]).returncode == 0
        for part, seen in (("worker", 3), ("forwarder", 8), ("dispatcher", 14)):
            progress(lambda: len(workstation.files()), seen)
            site.kill(part)
        assert send(site.port, files[40:]).returncode == 0
        progress(lambda: len(workstation.by_uid()), len(files))
        site.wait_drained()
        assert workstation.by_uid().keys() == {uid_of(path) for path in files}
