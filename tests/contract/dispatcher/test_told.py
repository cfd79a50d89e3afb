"""What the event of an instance tells is believed where nothing else stands there, and else looked up."""

import pytest

from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch
from dicomferry.spool.spool import Spool
from tests.support.images.files import shipped
from tests.support.running.processes import wait_until
from tests.support.stages.spools import put

PLAIN = "MR_small.dcm"


@pytest.fixture
def reads(bench, monkeypatch):
    """The ids of the instances whose files are read; not by the periodic look at the spool, which is off."""
    seen, read = [], Spool.read
    monkeypatch.setattr("dispatcher.service.SpoolReader.read_next_shards", lambda *_: ())
    monkeypatch.setattr(Spool, "read", lambda spool, instance: seen.append(instance) or read(spool, instance))
    bench.start()
    wait_until(lambda: bench.redis.get(events.CANARY_KEY), "the dispatcher to listen")
    return seen


@pytest.mark.parametrize("destinations", [("ws1",), ("ws1", "ws2")])
def test_what_is_told_is_not_read(bench, reads, destinations):
    instance = put(bench.spool, shipped(PLAIN), *destinations)
    events.push(bench.redis, [events.Received(instance.id, instance.to_record())])
    bench.learn()
    (parcel,) = bench.fetch(DeliverBatch).parcels
    assert (parcel.instance, parcel.sop_instance_uid) == (instance.id, instance.sop_instance_uid)
    assert reads == []


@pytest.mark.parametrize("record", [None, {"of": "another version"}])
def test_what_is_not_told_in_our_words_is_read(bench, reads, record):
    instance = put(bench.spool, shipped(PLAIN), "ws1")
    events.push(bench.redis, [events.Received(instance.id, record)])
    bench.learn()
    assert bench.fetch(DeliverBatch).parcels[0].instance == instance.id
    assert reads == [instance.id]


def test_what_has_markers_is_read(bench, reads):
    instance = put(bench.spool, shipped(PLAIN), "ws1", "ws2")
    bench.spool.mark_delivered(instance.id, "ws2", {"status": 0, "at": 1.0})
    events.push(bench.redis, [events.Received(instance.id, instance.to_record())])
    bench.learn()
    assert bench.fetch(DeliverBatch).parcels[0].last  # ws2 has it
    assert instance.id in reads


def test_an_earlier_one_with_its_uid_whose_event_was_lost_goes_first(bench, reads):
    older = put(bench.spool, shipped(PLAIN), "ws1", fresh_uid=False)
    newer = put(bench.spool, shipped(PLAIN), "ws1", "ws2", fresh_uid=False)
    events.push(bench.redis, [events.Received(newer.id, newer.to_record())])
    bench.learn()
    assert [parcel.instance for parcel in bench.deliver().parcels] == [older.id]
    assert {older.id, newer.id} <= set(reads)


@pytest.mark.usefixtures("reads")
def test_what_is_gone_is_not_delivered_again(bench):
    gone, there = (put(bench.spool, shipped(PLAIN), "ws1") for _ in range(2))
    bench.spool.received(gone.id).unlink()
    events.push(bench.redis, [events.Received(i.id, i.to_record()) for i in (gone, there)])
    bench.learn()
    assert [parcel.instance for parcel in bench.fetch(DeliverBatch).parcels] == [there.id]
