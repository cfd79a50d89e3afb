"""A wall clock that is set while everything runs."""

from pathlib import Path

import pytest

from tests.support.faults.history import Arrived, Journal
from tests.support.faults.siege import SiegedSite
from tests.support.faults.traffic import Pacs, Receiver
from tests.support.peers.wire import Wire
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until

DAY = 86400


@pytest.mark.parametrize("wrong", [DAY, -DAY])
def test_a_destination_that_was_away_is_found_again_though_the_clock_was_set(
    tmp_path: Path, wrong: int
) -> None:
    journal, port = Journal(tmp_path / "journal.jsonl"), free_port()
    site = SiegedSite(tmp_path / "site", destination("plain", port, title="PLAIN"))
    with site, Pacs(tmp_path / "objects", site.port, journal, seed=6, per_second=0, threads=1) as pacs:
        site.clock.write_text(str(wrong))
        sent = {sending.uid for sending in pacs.add_new(3)}
        # Not by `status`, which runs by the right clock and believes nothing that is a day old.
        shown = site.spool / "status.json"
        wait_until(lambda: '"circuit": "open"' in shown.read_text(), "the circuit to open", 30)
        site.clock.write_text("0")
        with Receiver("plain", ["uncompressed"], journal) as receiver, Wire(receiver.port, port):
            wait_until(lambda: {a.uid for a in journal.of(Arrived)} == sent, "the objects", 45, strictly=True)
            site.wait_drained()
