"""The dispatcher's process on a real Redis and a real spool; the test plays worker and forwarder."""

import base64
import json
import threading
import time

import pytest
from redis import Redis

from dicomferry import events
from dicomferry.batches import DeliverBatch, ProbeBatch, TranscodeBatch
from dicomferry.broker import client_for
from dicomferry.errors import Misconfigured
from dicomferry.settings import Settings
from dicomferry.spool import Spool
from dicomferry.syntaxes import EXPLICIT_LE
from dispatcher import service
from dispatcher.history import lines_of
from tests.support.images import shipped
from tests.support.processes import wait_until
from tests.support.redis import private_redis
from tests.support.spools import a_spool, put

IMAGE = "MR_small_jp2klossless.dcm"
_KINDS = {
    "dicomferry.transcode": TranscodeBatch,
    "dicomferry.deliver": DeliverBatch,
    "dicomferry.probe": ProbeBatch,
}


class Bench:
    """A dispatcher in a thread, and both ends of its queues."""

    def __init__(self, root, url):
        self.settings = Settings(
            spool=root,
            broker=url,
            ae=[{"title": "FERRY"}],
            destination=[
                {
                    "name": "ws1",
                    "title": "WS1",
                    "host": "127.0.0.1",
                    "port": 104,
                    "transfer_syntaxes": ["uncompressed"],
                }
            ],
            route=[{"to": ["ws1"]}],
        )
        self.spool = a_spool(root)
        self.redis: Redis = client_for(url)
        self.seen = []
        self._dispatcher = None
        self._thread = None

    def start(self):
        made = threading.Event()

        def run():  # SQLite wants its connection used in the thread that made it
            self._dispatcher = service.Dispatcher(self.settings, self.spool, client_for(self.settings.broker))
            made.set()
            self._dispatcher.run()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert made.wait(10)

    def stop(self):
        if self._thread is not None:
            self._dispatcher.stopping = True
            self._thread.join(10)
            assert not self._thread.is_alive()
            self._thread = None

    def fetch(self, kind):
        """The next batch of a kind from its queue, as a worker would take it."""
        found = []

        def look():
            for queue in ("transcode", "deliver"):
                while text := self.redis.lpop(queue):
                    message = json.loads(text)
                    _, keywords, _ = json.loads(base64.b64decode(message["body"]))
                    self.seen.append(_KINDS[message["headers"]["task"]].from_message(keywords))
                    assert message["headers"]["id"] == self.seen[-1].id
                    assert message["headers"]["argsrepr"].startswith("WS1 ")
            found[:] = [batch for batch in self.seen if isinstance(batch, kind)]
            return found

        wait_until(look, kind.__name__)
        self.seen.remove(found[0])
        return found[0]

    def receive(self):
        instance = put(self.spool, shipped(IMAGE), "ws1")
        events.push(self.redis, [events.Received(instance.id)])
        return instance

    def learn(self):
        probe = self.fetch(ProbeBatch)
        with self.spool.hold_lease(probe.id) as held:
            assert held
            answer = {sop_class: [EXPLICIT_LE] for sop_class in probe.sop_classes}
            self.spool.learn("ws1", answer)
            events.push(self.redis, [events.Learned(probe.id, "ws1", answer, probe=True)])
        events.push(self.redis, [events.Finished(probe.id)])

    def render(self):
        batch = self.fetch(TranscodeBatch)
        with self.spool.hold_lease(batch.id) as held:
            assert held
            told = [events.Rendered(batch.id, i, batch.spec.key) for i in batch.instances]
            events.push(self.redis, [events.Started(batch.id), *told])
        events.push(self.redis, [events.Finished(batch.id)])

    def deliver(self, *, say=True):
        batch = self.fetch(DeliverBatch)
        with self.spool.hold_lease(batch.id) as held:
            assert held
            for parcel in batch.parcels:
                self.spool.mark_delivered(parcel.instance, "ws1", {"status": 0})
                if say:
                    told = events.Delivered(batch.id, "ws1", parcel.instance, parcel.key, 0)
                    events.push(self.redis, [told])
        if say:
            events.push(self.redis, [events.Finished(batch.id)])

    def wait_retired(self, instance):
        wait_until(lambda: self.spool.read(instance.id) is None, "the instance to be retired", 20)


@pytest.fixture
def bench(tmp_path):
    with private_redis() as url:
        bench = Bench(tmp_path / "spool", url)
        try:
            yield bench
        finally:
            bench.stop()


def test_an_instance_goes_through_probe_transcode_deliver_and_is_retired(bench):
    bench.start()
    instance = bench.receive()
    bench.learn()
    bench.render()
    bench.deliver()
    bench.wait_retired(instance)
    told = [line[3] for line in lines_of(bench.spool.history, instance.sop_instance_uid)]
    assert told == ["received", "planned", "rendered", "delivered"]
    assert not bench.spool.lease_names()


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


def test_an_object_that_arrived_while_redis_knew_nothing_of_it_is_found_when_the_canary_is_gone(bench):
    bench.start()
    wait_until(lambda: bench.redis.get(events.CANARY_KEY), "the canary")
    instance = put(bench.spool, shipped(IMAGE), "ws1")
    bench.redis.delete(events.CANARY_KEY)
    bench.learn()
    bench.render()
    bench.deliver()
    bench.wait_retired(instance)


def test_a_batch_that_still_runs_when_the_dispatcher_restarts_is_not_handed_out_again(bench):
    bench.start()
    instance = bench.receive()
    bench.learn()
    bench.render()
    batch = bench.fetch(DeliverBatch)
    with bench.spool.hold_lease(batch.id) as held:
        assert held
        bench.stop()
        bench.start()
        wait_until(
            lambda: (bench.spool.status() or {}).get("read_at", 0) > time.time() - 60, "the new dispatcher"
        )
        wait_until(lambda: bench.redis.get(events.CANARY_KEY), "the canary")
        before = time.monotonic()
        while time.monotonic() < before + 3:  # three looks around
            assert not bench.redis.llen("deliver")
            time.sleep(0.1)
        bench.spool.mark_delivered(instance.id, "ws1", {"status": 0})
    bench.wait_retired(instance)
    assert not bench.redis.llen("deliver")


def test_what_an_earlier_dispatcher_published_and_nobody_runs_is_published_anew(bench):
    bench.start()
    instance = bench.receive()
    bench.learn()
    old = bench.fetch(TranscodeBatch)
    bench.stop()
    bench.start()
    new = bench.fetch(TranscodeBatch)
    assert (old.instances, old.id != new.id) == (new.instances, True)
    with bench.spool.hold_lease(old.id) as held:
        assert not held
    assert bench.spool.read(instance.id) == instance


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
