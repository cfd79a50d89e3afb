"""Lanes that wait for the dead must not hold up those that serve the living."""

import time
from pathlib import Path

import pytest

from tests.support.images.files import fresh_copies
from tests.support.peers.dcmtk import Workstation, send
from tests.support.peers.scps import black_hole
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port
from tests.support.running.site import Site, progress

pytestmark = pytest.mark.alone

ALIVE, DEAD = 50, 150
SENT = 36  # seconds of work: beside less, what each black hole costs once would count
SLOWER = 3.0  # times that the dead may make it: with threads to run out of it is their timeout, 30 s


def seconds_to_deliver(folder: Path, holes: int, port_of_hole: int) -> float:
    """From the first object's sending to the last delivery of the living lanes."""
    alive = [Workstation(folder / f"alive{n}", free_port(), "--fork", title="WS1") for n in range(5)]
    lanes = [destination(f"alive{n}", alive[n % len(alive)].port) for n in range(ALIVE)]
    lanes += [destination(f"dead{n}", port_of_hole) for n in range(holes)]
    for workstation in alive:
        workstation.start()
    try:
        with Site(folder / "site", *lanes) as site:
            files = fresh_copies("CT_small.dcm", SENT, folder / "pacs")
            begun = time.time()
            assert send(site.port, files).returncode == 0

            def delivered() -> int:
                lanes = site.status()["lanes"]
                return sum(lane["delivered"] for lane in lanes if lane["destination"].startswith("alive"))

            progress(delivered, SENT * ALIVE)
            took = max(path.stat().st_mtime for at in alive for path in at.files()) - begun
            if holes:
                dead = [lane for lane in site.status()["lanes"] if lane["destination"].startswith("dead")]
                assert {lane["pending"] for lane in dead} == {SENT}
            return took
    finally:
        for workstation in alive:
            workstation.stop()


def test_150_black_holes_do_not_slow_down_the_50_that_answer(tmp_path):
    without = seconds_to_deliver(tmp_path / "without", 0, 0)
    with black_hole() as port:
        beside = seconds_to_deliver(tmp_path / "beside", DEAD, port)
    assert beside < SLOWER * without, f"{beside:.1f} s beside {DEAD} black holes, {without:.1f} s without"
