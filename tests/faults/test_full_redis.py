"""A Redis that takes nothing more: events are lost, and nobody restarts it."""

from pathlib import Path

from tests.support.faults.history import Arrived, Journal
from tests.support.faults.siege import SiegedSite
from tests.support.faults.traffic import Pacs, Receiver
from tests.support.running.configuration import destination
from tests.support.running.processes import wait_until


def test_what_was_received_while_redis_was_full_is_found_as_soon_as_it_is_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with Receiver("plain", ["uncompressed"], journal) as receiver:
        site = SiegedSite(tmp_path / "site", destination("plain", receiver.port, title="PLAIN"))
        with site, Pacs(tmp_path / "objects", site.port, journal, seed=8, per_second=0, threads=1) as pacs:
            redis = site.redis()
            redis.config_set("maxmemory", 1)
            wait_until(lambda: "RedisSilent" in site.log.read_text(), "the dispatcher to notice", 10)
            sent = {sending.uid for sending in pacs.add_new(24)}
            wait_until(lambda: not pacs.unanswered, "all to be answered", 30)
            wait_until(lambda: "EventsLost" in site.log.read_text(), "events to be lost", 10)
            redis.config_set("maxmemory", 0)
            # Of 24 objects some are in shards that the dispatcher reads in four minutes only.
            wait_until(lambda: {a.uid for a in journal.of(Arrived)} == sent, "all to be delivered", 60)
