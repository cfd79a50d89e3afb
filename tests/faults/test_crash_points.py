"""Every process killed at every point of its work: nothing is lost, nothing comes twice without need.

One system goes through all points, one after the other. Each point of the registry must be met.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from dicomferry.crashpoints import POINTS, VARIABLE
from dicomferry.messages.events import CANARY_KEY
from tests.support.faults.history import Arrived, Fault, History, Journal, Sent, violations
from tests.support.faults.siege import SiegedSite
from tests.support.faults.traffic import Pacs, Receiver, Sending, make
from tests.support.running.configuration import destination
from tests.support.running.processes import wait_until

RECEIVERS = {"plain": ["uncompressed"], "rle": ["rle", "ImplicitVRLittleEndian"]}
BY_FORWARDER = ("delivery.", "replacement.")


class Field:
    """A system whose processes can be told where to die, a sender and two receivers."""

    def __init__(self, folder: Path, site: SiegedSite, journal: Journal, pacs: Pacs, single: Pacs) -> None:
        self.site, self.pacs, self._single = site, pacs, single
        self._folder, self._journal = folder, journal
        self._damaged = 0

    def crash_at(self, point: str) -> None:
        """Arm, send, and wait until somebody has died there."""
        armed = self._folder / "points" / point
        armed.touch()
        began = time.monotonic()
        if point.startswith("burial."):
            self.pacs.add(self._undecodable())
        self.pacs.add_new(8)  # one of each kind: some are transcoded, some pass through
        self._single.add_new(4)
        wait_until(lambda: not armed.exists(), f"a process to reach {point}", seconds=60)
        if point.startswith(BY_FORWARDER):
            self._journal.add(Fault(point, ("forwarder",), began, time.monotonic()))

    def wait_until_done(self) -> None:
        """Until nothing is left to be done."""
        deadline = time.monotonic() + 90
        hurry_at = time.monotonic() + 8
        while (unanswered := self.pacs.unanswered | self._single.unanswered) or self.site.on_spool()[1]:
            assert time.monotonic() < deadline, f"still there: {unanswered} {self.site.on_spool()[1]}"
            if time.monotonic() > hurry_at:
                # An event that died with its sender is made up for a shard a second: here, all at once.
                try:
                    self.site.redis().delete(CANARY_KEY)
                    hurry_at = float("inf")
                except (RedisError, OSError):
                    pass
            time.sleep(0.1)

    def history(self) -> History:
        parked, left = self.site.on_spool()
        accepts = {name: frozenset(Receiver(name, s, self._journal).accepts) for name, s in RECEIVERS.items()}
        entries = (self._journal.of(kind) for kind in (Sent, Arrived, Fault))
        return History(accepts, {}, *entries, parked, left)

    def _undecodable(self) -> Sending:
        """What says that it is JPEG 2000, and is none."""
        self._damaged += 1
        sending = make(self._folder, 1, 1000 + self._damaged)
        content = bytearray(sending.path.read_bytes())
        start = content.index(b"\xff\x4f\xff\x51")  # SOC and SIZ
        content[start : start + 64] = b"\0" * 64
        sending.path.write_bytes(content)
        return replace(sending, digest="of no interest: it goes nowhere")


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    folder = tmp_path_factory.mktemp("crash")
    (folder / "points").mkdir()
    journal = Journal(folder / "journal.jsonl")
    with (
        Receiver("plain", RECEIVERS["plain"], journal) as plain,
        Receiver("rle", RECEIVERS["rle"], journal) as rle,
    ):
        site = SiegedSite(
            folder / "site",
            *(
                destination(
                    r.name, r.port, title=r.name.upper(), timeout=8, transfer_syntaxes=RECEIVERS[r.name]
                )
                for r in (plain, rle)
            ),
            route=[
                {"calling": "PACS", "to": ["plain", "rle"]},
                {"calling": "SINGLE", "to": ["plain"]},  # whose instances leave the spool by their delivery
            ],
        )
        site.environment[VARIABLE] = str(folder / "points")
        with (
            site,
            Pacs(folder / "objects", site.port, journal, seed=7, per_second=0) as pacs,
            Pacs(
                folder / "single", site.port, journal, seed=8, per_second=0, title="SINGLE", only="plain"
            ) as single,
        ):
            yield Field(folder, site, journal, pacs, single)


@pytest.mark.parametrize("point", POINTS)
def test_a_process_that_is_killed_there_loses_nothing(field: Field, point: str) -> None:
    field.crash_at(point)
    field.wait_until_done()
    assert violations(field.history()) == []
