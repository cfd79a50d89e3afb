"""A forwarder on a real Redis and a real spool; the test plays the dispatcher."""

import shutil
from pathlib import Path
from typing import Any

from redis import Redis

from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, Parcel, ProbeBatch, new_batch_id
from dicomferry.messages.broker import client_for
from dicomferry.messages.events import EVENTS_KEY, EventSender, Finished
from dicomferry.settings import Settings
from dicomferry.spool.instance import Instance, RenditionSpec
from dicomferry.spool.spool import Spool
from forwarder.forwarder import Forwarder
from tests.support.images.files import shipped
from tests.support.running.processes import wait_until
from tests.support.stages.spools import a_spool, put

BOOT = "this-boot"


class Post:
    """A spool, a forwarder, and what the dispatcher would hear of it."""

    def __init__(self, root: Path, broker: str, **destinations: dict[str, Any]) -> None:
        self.spool: Spool = a_spool(root / "spool")
        self.settings = Settings(
            spool=self.spool.root,
            broker=broker,
            ae=[{"title": "FERRY"}],
            destination=[
                {"name": name, "title": "WS1", "host": "127.0.0.1", "port": 104, "timeout": 60, "linger": 0}
                | keys
                for name, keys in destinations.items()
            ],
            route=[{"to": list(destinations)}],
        )
        self.redis: Redis = client_for(broker)
        self.redis.flushall()
        self._sender = EventSender(self.redis)
        self.forwarder = Forwarder(self.settings, self._sender)
        self.forwarder._associations._idle_seconds = 60.0  # else a machine that stalls ends what is kept

    def put(self, name: str = "CT_small.dcm", **keys: Any) -> Instance:
        return put(self.spool, shipped(name), *(d.name for d in self.settings.destination), **keys)

    def batch(
        self, *parcels: Instance | Parcel, to: str = "ws", more: bool = False, after: str | None = None
    ) -> DeliverBatch:
        made = tuple(p if isinstance(p, Parcel) else Parcel(p.id, None, "as received") for p in parcels)
        batch = DeliverBatch(new_batch_id(), BOOT, to, made, more, after)
        self.spool.leases.create(batch.id)
        return batch

    def deliver(self, *parcels: Instance | Parcel, to: str = "ws", more: bool = False) -> list[events.Event]:
        """Run one batch; the events of it, Finished left out."""
        batch = self.batch(*parcels, to=to, more=more)
        self.forwarder.deliver(batch)
        return self.inner(batch.id)

    def probe(self, *sop_classes: str, to: str = "ws") -> list[events.Event]:
        batch = ProbeBatch(new_batch_id(), to, sop_classes)
        self.spool.leases.create(batch.id)
        self.forwarder.probe(batch)
        return self.inner(batch.id)

    def inner(self, batch: str) -> list[events.Event]:
        heard: list[events.Event] = []

        def finished() -> bool:
            while (text := self.redis.lpop(EVENTS_KEY)) is not None:
                event = events.parse(text)  # type: ignore[arg-type]
                assert event is not None
                heard.append(event)
            return Finished(batch) in heard

        wait_until(finished, "the batch to be finished")
        assert self.spool.leases.state(batch) == "gone"
        return heard[:-1]


def only(kind: type, heard: list[events.Event]) -> list[Any]:
    return [event for event in heard if isinstance(event, kind)]


def told(instance: Instance) -> Parcel:
    """As the dispatcher tells of what goes to one destination, as received."""
    uids = instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid
    return Parcel(instance.id, None, "as received", True, *uids, instance.calling_ae_title, instance.size)


def make_rendition(post: Post, instance: Instance, source: Path, syntax: str) -> Parcel:
    """Put a file where a worker would have put its rendition."""
    key = RenditionSpec(syntax).key
    path = post.spool.rendition(BOOT, instance.id, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)
    return Parcel(instance.id, key, "J2K->ExplicitLE")
