"""A dispatcher on a real Redis and a real spool, whose workers and forwarder the test plays."""

import base64
import json
import threading
import time

from redis import Redis

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, ProbeBatch, TranscodeBatch
from dicomferry.messages.broker import client_for
from dicomferry.settings import Settings
from dicomferry.spool.departures import Departure, in_ms
from dispatcher import service
from tests.support.images.files import shipped
from tests.support.running.processes import wait_until
from tests.support.stages.spools import a_spool, put

IMAGE = "MR_small_jp2klossless.dcm"
_KINDS = {
    "dicomferry.transcode": TranscodeBatch,
    "dicomferry.deliver": DeliverBatch,
    "dicomferry.probe": ProbeBatch,
}


class Bench:
    """A dispatcher in a thread, and both ends of its queues."""

    def __init__(self, root, url):
        self._root, self._url = root, url
        self.configure({"name": "ws1"})
        self.spool = a_spool(root)
        self.redis: Redis = client_for(url)
        self.seen = []
        self._dispatcher = None
        self._thread = None

    def configure(self, *destinations, **keys):
        """What the next dispatcher is started with; everything goes to all destinations."""
        always = {"title": "WS1", "host": "127.0.0.1", "port": 104, "transfer_syntaxes": ["uncompressed"]}
        self.settings = Settings(
            spool=self._root,
            broker=self._url,
            ae=[{"title": "FERRY"}],
            destination=[always | destination for destination in destinations],
            route=[{"to": [destination["name"] for destination in destinations]}],
            **keys,
        )

    def start(self, *, park=False):
        made = threading.Event()

        def run():  # SQLite wants its connection used in the thread that made it
            self._dispatcher = service.Dispatcher(
                self.settings, self.spool, client_for(self.settings.broker), park=park
            )
            made.set()
            self._dispatcher.run()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert made.wait(60)

    def stop(self):
        if self._thread is not None:
            self._dispatcher.stopping = True
            self._thread.join(60)
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

    def receive(self, source=None, *, told=True):
        """Commit an object, by default one like no other, and tell of it."""
        instance = put(self.spool, source or shipped(IMAGE), "ws1", fresh_uid=source is None)
        events.push(self.redis, [events.Received(instance.id, instance.to_record() if told else None)])
        return instance

    def learn(self):
        probe = self.fetch(ProbeBatch)
        with self.spool.leases.acquire(probe.id) as held:
            assert held
            answer = {sop_class: [EXPLICIT_LE] for sop_class in probe.sop_classes}
            self.spool.learn(probe.destination, answer)
            events.push(self.redis, [events.Learned(probe.id, probe.destination, answer, probe=True)])
        events.push(self.redis, [events.Finished(probe.id)])

    def render(self):
        batch = self.fetch(TranscodeBatch)
        with self.spool.leases.acquire(batch.id) as held:
            assert held
            told = [events.Rendered(batch.id, i, batch.spec.key) for i in batch.instances]
            events.push(self.redis, [events.Started(batch.id), *told])
        events.push(self.redis, [events.Finished(batch.id)])

    def deliver(self, *, say=True, leaving=True):
        """`say`: send the events; `leaving`: as the forwarder does, let those leave that may."""
        batch = self.fetch(DeliverBatch)
        with self.spool.leases.acquire(batch.id) as held:
            assert held
            for parcel in batch.parcels:
                at = in_ms(time.time())
                left = Departure(parcel.instance, batch.destination, 0, parcel.key, at)
                if not (leaving and parcel.last and self.spool.depart(left)):
                    self.spool.mark_delivered(parcel.instance, batch.destination, {"status": 0, "at": at})
                if say:
                    told = events.Delivered(
                        batch.id, batch.destination, parcel.instance, parcel.key, 0, at=at
                    )
                    events.push(self.redis, [told])
        if say:
            events.push(self.redis, [events.Finished(batch.id)])
        return batch

    def wait_looks(self, count):
        """Until the dispatcher, perhaps one that was just started, has looked around so many times."""
        told = set()

        def look():
            told.add((self.spool.status() or {}).get("at"))
            return len(told) > count

        wait_until(look, f"{count} looks around", 20 + 2 * count)

    def wait_retired(self, instance):
        def is_retired():
            left = {departure.instance for departure in self.spool.departures()}
            return self.spool.read(instance.id) is None and instance.id not in left

        wait_until(is_retired, "the instance to be retired", 20)
