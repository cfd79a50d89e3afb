"""A destination that was started without a SOP class, and later with it."""

from pathlib import Path

from tests.support.images.files import fresh_copies, uid_of
from tests.support.peers.dcmtk import send
from tests.support.peers.scps import pynetdicom_scp
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.running.site import Site

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"


def test_a_destination_that_accepts_what_it_did_not_gets_new_objects_and_those_that_are_retried(
    tmp_path: Path,
) -> None:
    port = free_port()
    files = fresh_copies("CT_small.dcm", 4, tmp_path / "pacs")
    with Site(tmp_path / "site", destination("ws1", port)) as site:
        with pynetdicom_scp(sop_classes=[MR], port=port):
            assert send(site.port, files[:2]).returncode == 0
            wait_until(lambda: site.lane("ws1")["dead"] == 2, "both to be dead", 30)
        with pynetdicom_scp(sop_classes=[CT, MR], port=port) as peer:
            assert send(site.port, files[2:3]).returncode == 0
            wait_until(lambda: len(peer.datasets) == 1, "the new one", 30)
            assert site.lane("ws1")["dead"] == 2
            assert site.command("dead", "retry", "--yes").returncode == 0
            wait_until(lambda: len(peer.datasets) == 3, "those that were dead", 30)
            site.wait_drained()
        assert {uid for uid, _, _ in peer.datasets} == {uid_of(path) for path in files[:3]}


def test_the_command_probe_has_the_dispatcher_ask_at_once(tmp_path: Path) -> None:
    port = free_port()
    files = fresh_copies("CT_small.dcm", 5, tmp_path / "pacs")
    with Site(tmp_path / "site", destination("ws1", port)) as site:
        with pynetdicom_scp(sop_classes=[MR], port=port):
            for count, path in enumerate(files[:3], 1):  # each answer makes the next question wait longer
                assert send(site.port, [path]).returncode == 0
                wait_until(lambda count=count: site.lane("ws1")["dead"] == count, "one more to be dead", 40)
        with pynetdicom_scp(sop_classes=[CT, MR], port=port) as peer:
            assert send(site.port, files[3:4]).returncode == 0
            assert site.command("probe", "ws1", "--sop-class", "CTImageStorage").returncode == 0
            wait_until(lambda: len(peer.datasets) == 1, "the one that waited", 10, strictly=True)
        assert "Order ask" in site.log.read_text()
