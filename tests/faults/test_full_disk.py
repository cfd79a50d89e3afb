"""A disk that received objects fill up to the last byte that ingest takes: all of them get out after all."""

import os
from pathlib import Path

from dicomferry.spool.spool import Spool
from tests.support.peers.dcmtk import Workstation
from tests.support.peers.raw import Raw, tiny_image
from tests.support.running.configuration import destination
from tests.support.running.mounts import small_file_system
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.running.site import Site, progress
from tests.support.stages.spools import instances_of

SIDE = 128  # of an image of 16 kB
DISK = 32 << 20


def fill(port: int) -> int:
    """Send objects until one is refused; how many were taken."""
    taken = 0
    with Raw.associated(port) as peer:
        while True:
            uid = f"1.2.3.{taken}".encode()
            status = peer.store(uid, tiny_image(uid, side=SIDE))
            if status != 0:
                assert status == 0xA700
                return taken
            taken += 1
            assert taken * SIDE * SIDE < DISK, "the mark is not heeded"


def test_what_filled_the_disk_gets_out_however_low_its_mark_is(tmp_path: Path) -> None:
    """Leases, history and a marker for each delivery need room, whatever min_free_mb says."""
    port = free_port()
    room = destination("ws1", port, transfer_syntaxes=["uncompressed"])
    with small_file_system(tmp_path / "disk", DISK) as disk:
        spool = Spool(disk / "spool")
        with Site(tmp_path / "site", room, spool=str(spool.root)) as site:
            taken = fill(site.port)
            assert taken > 200
            with Workstation(tmp_path / "ws1", port, "+xa") as workstation:
                progress(lambda: len(workstation.files()), taken, idle=90)
            wait_until(lambda: not instances_of(spool), "all to be retired", 60)
            found = os.statvfs(disk)
            assert found.f_bavail * found.f_frsize > DISK // 2
