"""The dispatcher's process on a real Redis and a real spool; the test plays worker and forwarder."""

import threading
import time
from contextlib import contextmanager

import pytest
from pydicom import dcmread

from dicomferry.errors import Misconfigured
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, TranscodeBatch
from dicomferry.spool.spool import SHARDS, Spool
from dispatcher import bookkeeping, service
from dispatcher.history import lines_of, received_in
from tests.support.images.files import shipped
from tests.support.running.processes import wait_until
from tests.support.running.redis import private_redis
from tests.support.stages.bench import IMAGE, Bench
from tests.support.stages.spools import put


def test_an_instance_goes_through_probe_transcode_deliver_and_is_retired(bench):
    bench.start()
    instance = bench.receive()
    bench.learn()
    bench.render()
    bench.deliver()
    bench.wait_retired(instance)
    told = [line[3] for line in lines_of(bench.spool.history, instance.sop_instance_uid)]
    assert told == ["received", "planned", "rendered", "delivered"]
    assert not bench.spool.leases.batches()
    for level, uid in (("study", instance.study_instance_uid), ("series", instance.series_instance_uid)):
        (row,) = received_in(bench.spool.history, level, uid, 10)
        assert row.instance == instance.id
        for words in (f"{instance.size} bytes", f"from {instance.calling_ae_title} ({instance.peer})"):
            assert words in row.words


def test_a_dead_delivery_is_logged_with_its_uid(bench, caplog):
    bench.configure({"name": "ws1", "transfer_syntaxes": ["mpeg"]})
    bench.start()
    instance = bench.receive()
    bench.learn()
    wait_until(lambda: "Dead instance=" in caplog.text, "its end")
    (line,) = (r.getMessage() for r in caplog.records if r.getMessage().startswith("Dead "))
    assert f"instance={instance.id} uid={instance.sop_instance_uid} destination=ws1: " in line
    assert "MR Image Storage that it shows (mpeg)" in line


def test_the_last_arrival_and_rejected_callers_stand_in_the_status(bench):
    bench.start()
    instance = bench.receive()
    rejected = {"calling": "CT9", "called": "FERRY", "host": "10.0.0.9", "why": "is not one of callers"}
    events.push(bench.redis, [events.CallerRejected("CT9", "FERRY", "10.0.0.9", "is not one of callers")])
    wait_until(lambda: (bench.spool.status() or {}).get("rejected"), "the status")
    status = bench.spool.status()
    assert [{key: caller[key] for key in rejected} for caller in status["rejected"]] == [rejected]
    assert status["last_received_at"] == instance.received_at
    bench.learn()
    bench.render()
    bench.deliver()
    bench.wait_retired(instance)
    bench.stop()
    bench.start()
    bench.wait_looks(2)
    assert bench.spool.status()["last_received_at"] == instance.received_at


def test_an_instance_whose_event_was_lost_is_found_on_the_spool_at_start(bench):
    instance = put(bench.spool, shipped(IMAGE), "ws1")
    bench.start()
    bench.learn()
    bench.render()
    bench.deliver()
    bench.wait_retired(instance)


def test_everything_goes_on_after_redis_forgot_everything(bench):
    bench.start()
    instance = bench.receive()
    bench.learn()
    bench.fetch(TranscodeBatch)  # fetched, and never run
    bench.redis.flushall()
    bench.render()  # of a batch that was published again
    bench.deliver()
    bench.wait_retired(instance)


def test_events_that_were_lost_are_read_from_lease_and_marker(bench):
    bench.start()
    instance = bench.receive()
    bench.learn()
    bench.render()
    bench.deliver(say=False)
    bench.wait_retired(instance)
    assert lines_of(bench.spool.history, instance.sop_instance_uid)[-1][3] == "delivered"


def total(bench):
    """What `status` says was delivered."""
    return bench.spool.status()["lanes"][0]["delivered"] if bench.spool.status() else None


@pytest.mark.parametrize("keep", [{}, {"keep_delivered": "1h"}])
def test_what_was_delivered_while_no_dispatcher_ran_counts_once_however_often_one_starts(bench, keep):
    bench.configure({"name": "ws1"}, **keep)
    bench.start()
    instances = [bench.receive(shipped("CT_small.dcm")), bench.receive()]
    bench.learn()
    bench.deliver()
    wait_until(lambda: total(bench) == 1, "the first to be counted")
    bench.stop()  # the second is delivered meanwhile, and its event is lost
    at = time.time()
    bench.spool.mark_delivered(instances[1].id, "ws1", {"status": 0, "at": at, "why": "as received"})
    for _ in range(3):
        bench.redis.flushall()
        bench.spool.forget_status()
        bench.start()
        wait_until(lambda: total(bench) is not None, "the status")
        wait_until(lambda: total(bench) == 2, "both to be counted")
        bench.stop()
    lines = lines_of(bench.spool.history, instances[1].sop_instance_uid)
    (line,) = [line for line in lines if line.what == "delivered"]
    assert (line.at, line.words) == (at, "as its marker says: as received")


def test_of_a_small_spool_a_single_event_that_was_lost_is_found_by_reading_on(bench):
    bench.start()
    wait_until(lambda: bench.redis.get(events.CANARY_KEY), "the canary")
    for _ in range(3):  # in different shards, whichever is read next
        put(bench.spool, shipped(IMAGE), "ws1")
    bench.learn()
    bench.render()


def test_an_object_that_arrived_while_redis_knew_nothing_of_it_is_found_when_the_canary_is_gone(bench):
    bench.start()
    wait_until(lambda: bench.redis.get(events.CANARY_KEY), "the canary")
    instance = put(bench.spool, shipped(IMAGE), "ws1")
    bench.redis.delete(events.CANARY_KEY)
    bench.learn()
    bench.render()
    bench.deliver()
    bench.wait_retired(instance)


@contextmanager
def sending_through_a_restart(bench):
    """A deliver batch that an earlier dispatcher handed out runs while the next one starts, and after."""
    batch = bench.fetch(DeliverBatch)
    with bench.spool.leases.acquire(batch.id) as held:
        assert held
        bench.stop()
        bench.start()
        bench.wait_looks(3)
        yield


def test_a_batch_that_still_runs_when_the_dispatcher_restarts_is_not_handed_out_again(bench):
    bench.start()
    instance = bench.receive()
    bench.learn()
    bench.render()
    with sending_through_a_restart(bench):
        assert not bench.redis.llen("deliver")
        bench.spool.mark_delivered(instance.id, "ws1", {"status": 0})
    bench.wait_retired(instance)
    assert not bench.redis.llen("deliver")


def test_a_lane_whose_batch_still_runs_when_the_dispatcher_restarts_sends_nothing_newer(bench, tmp_path):
    """Its peer may bear one association, and the batch may hold an older object with the same UID."""
    mended = tmp_path / "mended.dcm"
    dataset = dcmread(shipped(IMAGE))
    dataset.SeriesDescription = "mended"
    dataset.save_as(mended)
    bench.start()
    older = bench.receive(shipped(IMAGE))
    bench.learn()
    bench.render()
    with sending_through_a_restart(bench):
        newer = bench.receive(mended)
        assert newer.sop_instance_uid == older.sop_instance_uid
        bench.render()
        bench.wait_looks(3)
        assert not bench.redis.llen("deliver")
    bench.render()  # of what was not sent, as its rendition is not known to stand
    assert [parcel.instance for parcel in bench.deliver().parcels] == [older.id]
    bench.wait_retired(older)
    assert [parcel.instance for parcel in bench.deliver().parcels] == [newer.id]
    bench.wait_retired(newer)


def test_what_an_earlier_dispatcher_published_and_nobody_runs_is_published_anew(bench):
    bench.start()
    instance = bench.receive()
    bench.learn()
    old = bench.fetch(TranscodeBatch)
    bench.stop()
    bench.start()
    new = bench.fetch(TranscodeBatch)
    assert (old.instances, old.id != new.id) == (new.instances, True)
    with bench.spool.leases.acquire(old.id) as held:
        assert not held
    assert bench.spool.read(instance.id) == instance


@contextmanager
def chatter(bench):
    """Others' events, so that the dispatcher always has something to hear."""
    busy, done = threading.Event(), threading.Event()

    def talk():
        while not done.wait(0.005):
            events.push(bench.redis, [events.Started("nobody's")])
            busy.set()

    talker = threading.Thread(target=talk)
    talker.start()
    try:
        assert busy.wait(60)
        yield
    finally:
        done.set()
        talker.join()


@pytest.fixture
def no_time_to_remove(monkeypatch):
    """What has ended is written to the history at once, and not removed while events come."""
    for seconds in ("HISTORY_EVERY", "REMOVE_FOR", "ROUND", "RENDERING_ROUND", "CROWDED_ROUND"):
        monkeypatch.setattr(service, seconds, 0.0)
    monkeypatch.setattr(service, "POLL_FOR", 3.0)  # else a machine that stalls makes it idle


def is_there(bench, instance):
    """Whether its file is not removed yet, in its place or after it left it."""
    departed = {departure.instance for departure in bench.spool.departures()}
    return bench.spool.exists(instance.id) or instance.id in departed


@pytest.mark.usefixtures("no_time_to_remove")
def test_a_lane_is_given_more_while_what_has_ended_waits_to_be_removed(bench):
    bench.start()
    first = bench.receive()
    bench.learn()
    bench.render()
    with chatter(bench):
        bench.deliver()
        wait_until(lambda: lines_of(bench.spool.history, first.sop_instance_uid)[-1][3] == "delivered", "it")
        second = bench.receive()
        bench.render()
        bench.fetch(DeliverBatch)
        assert is_there(bench, first)
    bench.wait_retired(first)
    assert bench.spool.read(second.id) == second


@pytest.mark.usefixtures("no_time_to_remove")
def test_what_has_ended_and_waits_to_be_removed_is_not_read_again(bench, monkeypatch):
    monkeypatch.setattr(service, "SYNC_EVERY", 0.0)
    read, state = [], Spool.state
    monkeypatch.setattr(
        Spool, "state", lambda spool, instance: read.append(instance) or state(spool, instance)
    )
    seen, ids = [], Spool.ids
    monkeypatch.setattr(Spool, "ids", lambda spool, shard: seen.append(shard) or ids(spool, shard))
    bench.start()
    instance = bench.receive()
    bench.learn()
    bench.render()
    with chatter(bench):
        bench.deliver()
        wait_until(
            lambda: lines_of(bench.spool.history, instance.sop_instance_uid)[-1][3] == "delivered", "it"
        )
        read.clear()
        seen.clear()
        wait_until(lambda: len(seen) > len(SHARDS), "the whole spool to be looked at")
        assert read == []
        assert is_there(bench, instance)


@pytest.mark.usefixtures("no_time_to_remove")
def test_what_has_ended_does_not_fill_a_disk_that_is_slow_to_remove_it(bench, monkeypatch):
    monkeypatch.setattr(bookkeeping, "MAX_UNREMOVED", 1)
    bench.start()
    instances = [bench.receive() for _ in range(3)]
    bench.learn()
    bench.render()
    with chatter(bench):
        assert len(bench.deliver().parcels) == len(instances)
        wait_until(lambda: sum(is_there(bench, i) for i in instances) == 1, "room")


def test_the_end_of_a_batch_waits_for_nothing_more_to_tell(bench, monkeypatch):
    monkeypatch.setattr(events, "SEND_INTERVAL", 3600.0)
    sender = events.EventSender(bench.redis)
    sender.send(events.Started("a"))  # the first after a pause leaves at once
    wait_until(lambda: bench.redis.llen(events.EVENTS_KEY), "the first event")
    sender.send(events.Delivered("a", "ws1", "i", None, 0))
    sender.send(events.Finished("a"))
    wait_until(lambda: bench.redis.llen(events.EVENTS_KEY) == 3, "the end of the batch")
    sender.send(events.Delivered("b", "ws1", "i", None, 0))
    sender.close()
    told = [events.parse(text) for text in bench.redis.lrange(events.EVENTS_KEY, 0, -1)]
    assert [type(event).__name__ for event in told] == ["Started", "Delivered", "Finished", "Delivered"]


def test_a_second_dispatcher_on_the_same_spool_is_refused(bench):
    lock = service._lock(bench.spool)
    with pytest.raises(Misconfigured, match="another dispatcher"):
        service._lock(Spool(bench.spool.root))
    service.os.close(lock)


def test_a_dispatcher_without_redis_waits_and_goes_on_when_it_is_back(tmp_path):
    with private_redis() as url:
        bench = Bench(tmp_path / "spool", url)
        bench.redis.shutdown(nosave=True)
        instance = put(bench.spool, shipped(IMAGE), "ws1")
        bench.start()
        try:
            wait_until(lambda: instance.id in bench._dispatcher._manager.entries, "the spool to be read")
            assert bench.spool.read(instance.id) == instance
            assert bench._thread.is_alive()
        finally:
            bench.stop()


def test_a_damaged_history_is_set_aside(bench):
    bench.spool.history.write_bytes(b"this is no database" * 100)
    bench.start()
    bench.stop()
    assert bench.spool.history.with_suffix(".damaged").exists()
