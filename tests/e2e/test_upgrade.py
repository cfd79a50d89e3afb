"""A spool that 0.1.0 left behind goes on under this version.

tests/data/spool-0.1.0.tar.xz was written by 0.1.0 itself (its `up`, dcmsend and two storescp). It holds four
images of 16 x 16, received in four transfer syntaxes. Each is delivered to ws1, pending for off, which was
off, and dead for narrow. A data set that could not be read is in quarantine. An order that was given after
the stop waits: discard the RLE image's dead delivery to narrow.
"""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from tests.support.images import synthetic
from tests.support.images.files import syntax_of
from tests.support.peers.dcmtk import Workstation
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.running.site import Site

SPOOL = Path(__file__).parents[1] / "data" / "spool-0.1.0.tar.xz"
IMAGES = {f"1.2.826.0.1.3680043.8.498.10.{n + 1}": synthetic.image(16, 16, 16, seed=n) for n in range(3)}
RLE = "1.2.826.0.1.3680043.8.498.10.4"
IMAGES[RLE] = synthetic.image(16, 16, 8, seed=3)


@pytest.fixture(scope="module")
def ws1(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workstation]:
    with Workstation(tmp_path_factory.mktemp("ws1"), free_port()) as peer:
        yield peer


@pytest.fixture(scope="module")
def off(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workstation]:
    with Workstation(tmp_path_factory.mktemp("off"), free_port(), title="WS2") as peer:
        yield peer


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Workstation:
    """Not started: it accepted nothing when 0.1.0 asked it."""
    return Workstation(tmp_path_factory.mktemp("narrow"), free_port(), "+xr", title="WS3")


@pytest.fixture(scope="module", autouse=True)
def site(
    tmp_path_factory: pytest.TempPathFactory, ws1: Workstation, off: Workstation, narrow: Workstation
) -> Iterator[Site]:
    site = Site(
        tmp_path_factory.mktemp("site"),
        destination("ws1", ws1.port),
        destination("off", off.port, title="WS2"),
        destination("narrow", narrow.port, title="WS3", transfer_syntaxes=["rle"]),
    )
    with tarfile.open(SPOOL) as spool:
        spool.extractall(site.spool, filter="data")
    with site:
        yield site


def test_what_was_pending_is_delivered_with_its_pixels(off: Workstation) -> None:
    wait_until(lambda: len(off.files()) == len(IMAGES), "what was pending")
    for uid, path in off.by_uid().items():
        assert (dcmread(path).pixel_array == IMAGES[uid]).all(), uid


def test_an_order_that_waited_is_carried_out(site: Site) -> None:
    wait_until(lambda: site.status()["orders"] == 0, "the order")
    assert "discarded" in site.command("explain", RLE).stdout


def test_what_was_delivered_is_counted_and_not_sent_again(
    site: Site, off: Workstation, ws1: Workstation
) -> None:
    wait_until(lambda: len(off.files()) == len(IMAGES), "what was pending")
    lanes = {lane["destination"]: lane for lane in site.status()["lanes"]}
    assert lanes["ws1"]["delivered"] == len(IMAGES)
    assert ws1.files() == []


def test_dead_deliveries_stay_dead(site: Site) -> None:
    wait_until(lambda: site.status()["orders"] == 0, "the order")
    lanes = {lane["destination"]: lane for lane in site.status()["lanes"]}
    assert lanes["narrow"]["dead"] == len(IMAGES) - 1
    assert "accepts no transfer syntax" in site.command("dead", "list").stdout


def test_history_tells_of_both_versions(site: Site, off: Workstation) -> None:
    wait_until(lambda: len(off.files()) == len(IMAGES), "what was pending")
    wait_until(lambda: site.command("explain", RLE).stdout.count("delivered") >= 2, "the history")
    assert "received" in site.command("explain", RLE).stdout


def test_the_quarantine_is_kept(site: Site) -> None:
    assert "ends early" in site.command("quarantine", "list").stdout


def test_what_died_because_its_destination_accepted_nothing_is_delivered_when_it_accepts_it_and_is_retried(
    site: Site, narrow: Workstation
) -> None:
    wait_until(lambda: site.status()["orders"] == 0, "the order")
    with narrow:
        assert site.command("dead", "retry", "--destination", "narrow", "--yes").returncode == 0
        wait_until(lambda: len(narrow.files()) == len(IMAGES) - 1, "what was dead")
        for uid, path in narrow.by_uid().items():
            assert syntax_of(path) == RLELossless
            assert (dcmread(path).pixel_array == IMAGES[uid]).all(), uid
        site.wait_drained()
