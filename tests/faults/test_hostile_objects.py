"""Objects that would fill the disk or keep every worker busy, through a whole `up` on a small disk.

Each ends parked with its reason, or delivered. Another caller's objects go through meanwhile, and ingest
refuses nobody.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults import hostile
from tests.support.faults.history import Arrived, History, Journal, Sent, violations
from tests.support.faults.siege import SiegedSite, SmallDisk
from tests.support.faults.traffic import Pacs, Receiver
from tests.support.running.configuration import destination
from tests.support.running.processes import wait_until
from tests.support.running.services import missing

DISK_MB, MARK_MB = 160, 40
HOSTILE, HEALTHY = 12, 60


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


@pytest.fixture
def receiver(journal: Journal) -> Iterator[Receiver]:
    with Receiver("plain", ["uncompressed"], journal) as receiver:
        yield receiver


@pytest.fixture
def site(tmp_path: Path, receiver: Receiver) -> Iterator[SiegedSite]:
    folder = tmp_path / "site"
    with SmallDisk(folder / "spool", DISK_MB) as disk:
        if not disk.mounted:
            missing("only root, outside a container, mounts file systems")
        site = SiegedSite(folder, destination("plain", receiver.port, title="PLAIN"))
        site.config.write_text(
            site.config.read_text().replace("min_free_mb = 1\n", f"min_free_mb = {MARK_MB}\n")
        )
        with site:
            yield site


class Gauge(threading.Thread):
    """Notes the least free space of a disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self.least = 1 << 60
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.005):
            found = os.statvfs(self._folder)
            self.least = min(self.least, found.f_bavail * found.f_frsize)


@pytest.mark.timeout(600)
def test_hostile_objects_end_by_themselves_and_keep_nobody_waiting(
    site: SiegedSite, receiver: Receiver, journal: Journal, tmp_path: Path
) -> None:
    gauge = Gauge(site.spool)
    gauge.start()
    folder = tmp_path / "objects"
    bad = Pacs(
        folder / "bad", site.port, journal, seed=3, per_second=0, threads=1,
        title="BAD", other=hostile.make, one_in=1,
    )  # fmt: skip
    good = Pacs(folder / "good", site.port, journal, seed=5, per_second=0, threads=1, title="GOOD")
    with bad, good:
        kinds = {s.uid: hostile.KINDS[n % len(hostile.KINDS)] for n, s in enumerate(bad.add_new(HOSTILE))}
        healthy = {s.uid for s in good.add_new(HEALTHY)}
        wait_until(lambda: not (bad.unanswered or good.unanswered), "all to be answered", 200)
        wait_until(lambda: healthy <= {a.uid for a in journal.of(Arrived)}, "the healthy ones", 200)
        wait_until(lambda: not site.on_spool()[1], "nothing to be left to do", 300)
    gauge.over.set()
    gauge.join()
    parked, left = site.on_spool()
    assert {s.status for s in journal.of(Sent)} == {0}, "ingest refused somebody"
    reasons = {kind: {p.reason for p in parked if kinds[p.uid] == kind} for kind in hostile.KINDS}
    assert all("announces 89455275 packets" in reason for reason in reasons["layers"])
    assert all("raise [worker] largest_ratio" in reason for reason in reasons["black"])
    assert all("min_free_mb; tried three times" in reason for reason in reasons["deflated"])
    assert [len(reasons[kind]) for kind in hostile.KINDS] == [1, 1, 1, 0]
    assert len(parked) == HOSTILE * 3 // 4
    accepts = {"plain": frozenset(receiver.accepts)}
    history = History(accepts, {}, journal.of(Sent), journal.of(Arrived), [], parked, left)
    assert violations(history) == []  # nor is one late
    assert gauge.least > MARK_MB * 1_000_000, "renditions left ingest less than its mark"
    wait_until(lambda: not site.litter(), "nothing to be left of them")
    assert "Traceback" not in site.logs()
    assert site.logs().count("Postponed") <= 2 * HOSTILE  # no hot loop
