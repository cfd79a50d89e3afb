"""Many small objects on a file system of few inodes: ingest stops in time, and all is delivered after all."""

import os
from pathlib import Path

import pytest

from dicomferry.spool.spool import Spool
from tests.support.peers.dcmtk import Workstation
from tests.support.peers.raw import AC, RJ, RQ, Raw, association_request, pdu, tiny_image
from tests.support.running.configuration import destination
from tests.support.running.mounts import small_file_system
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.running.site import Site, progress
from tests.support.stages.spools import instances_of

INODES = 3000


def inodes_left(folder: Path) -> int:
    return os.statvfs(folder).f_favail


def fill(port: int) -> list[str]:
    """Send small objects until one is refused; the UIDs of those that were taken."""
    taken: list[str] = []
    with Raw.associated(port) as peer:
        while True:
            uid = f"1.2.3.{len(taken)}"
            status = peer.store(uid.encode(), tiny_image(uid.encode()))
            if status != 0:
                assert status == 0xA700
                return taken
            taken.append(uid)
            assert len(taken) < INODES, "the mark is not heeded"


def answer(port: int) -> int:
    with Raw(port) as peer:
        peer.send(pdu(RQ, association_request()))
        return peer.read()[0]


@pytest.mark.parametrize("shown", ["uncompressed", "rle"])
def test_what_was_taken_is_delivered_though_inodes_ran_short(tmp_path: Path, shown: str) -> None:
    port = free_port()
    with small_file_system(tmp_path / "disk", 512 << 20, INODES) as disk:
        spool = Spool(disk / "spool")
        site = Site(
            tmp_path / "site",
            destination("ws1", port, transfer_syntaxes=[shown]),
            spool=str(spool.root),
        )
        with site:
            taken = fill(site.port)
            assert len(taken) > 200
            assert inodes_left(disk) > 600
            wait_until(lambda: answer(site.port) == RJ, "associations to be rejected too")
            wait_until(lambda: "(ingest.min_free_inodes)" in site.log.read_text(), "the log to say why")
            assert len(instances_of(spool)) == len(taken)
            with Workstation(tmp_path / "ws1", port, "+xa") as workstation:
                progress(lambda: len(workstation.files()), len(taken), idle=90)
                wait_until(lambda: not instances_of(spool), "all to be retired", 60)
                wait_until(lambda: answer(site.port) == AC, "associations to be accepted again", 30)
                with Raw.associated(site.port) as peer:
                    assert peer.store(b"1.2.9", tiny_image(b"1.2.9")) == 0x0000
                progress(lambda: len(workstation.files()), len(taken) + 1)


def test_one_destination_after_the_other_gets_all_though_inodes_ran_short(tmp_path: Path) -> None:
    """What the first has still waits for the second, with a marker more for each."""
    ports = free_port(), free_port()
    rooms = [destination(f"ws{number}", port) for number, port in enumerate(ports)]
    with small_file_system(tmp_path / "disk", 512 << 20, INODES) as disk:
        spool = Spool(disk / "spool")
        with Site(tmp_path / "site", *rooms, spool=str(spool.root)) as site:
            taken = fill(site.port)
            assert len(taken) > 200
            for number, port in enumerate(ports):
                with Workstation(tmp_path / f"ws{number}", port, "+xa") as workstation:
                    progress(lambda peer=workstation: len(peer.files()), len(taken), idle=90)
                    wait_until(lambda n=number: not site.lane(f"ws{n}")["pending"], "all to be marked", 30)
            wait_until(lambda: not instances_of(spool), "all to be retired", 60)


def test_operators_discard_what_is_dead_though_inodes_ran_short(tmp_path: Path) -> None:
    port = free_port()
    with small_file_system(tmp_path / "disk", 512 << 20, INODES) as disk:
        spool = Spool(disk / "spool")
        # Each of them dies, which takes a marker.
        dead = destination("ws1", port, max_age=8)
        with Site(tmp_path / "site", dead, spool=str(spool.root)) as site:
            taken = fill(site.port)
            wait_until(lambda: site.lane("ws1")["dead"] == len(taken), "all to be dead", 120)
            done = site.command("dead", "discard", "--yes")
            assert done.returncode == 0, done.stderr
            wait_until(lambda: not instances_of(spool), "all to be gone", 60)
            wait_until(lambda: answer(site.port) == AC, "associations to be accepted again", 30)
