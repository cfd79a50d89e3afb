"""The queue manager's counterpart in tests: what the spool and the stages would tell it, in short."""

import itertools

from dicomferry.dicom.syntaxes import EXPLICIT_LE, IMPLICIT_LE
from dicomferry.messages import events
from dicomferry.settings import Destination
from dicomferry.spool.instance import Instance, State
from dispatcher.commands import Found, Note, Publish
from dispatcher.manager import QueueManager

CT = "1.2.840.10008.5.1.4.1.1.2"
J2K = "1.2.840.10008.1.2.4.90"


def destination(name="ws1", **keywords):
    keywords = {"transfer_syntaxes": ["uncompressed"]} | keywords
    return Destination(name=name, title=name.upper(), host="127.0.0.1", port=104, **keywords)


def manager(*destinations, learned=True, accepts=(EXPLICIT_LE, IMPLICIT_LE), **keywords):
    destinations = destinations or (destination(),)
    numbers = itertools.count()
    return QueueManager(
        destinations,
        boot="boot",
        accepted={d.name: {CT: frozenset(accepts)} for d in destinations} if learned else {},
        new_batch_id=lambda: f"batch{next(numbers)}",
        **keywords,
    )


def found(
    number, to=("ws1",), *, syntax=J2K, delivered=(), dead=(), study="1.2.3", size=500_000,
    uid=None, received_at=0.0, delivered_at=0.0, redirected=None,
):  # fmt: skip
    instance = Instance(
        id=f"i{number}", sop_class_uid=CT, sop_instance_uid=uid or f"1.2.{number}", study_instance_uid=study,
        series_instance_uid="1.2.3.4", modality="CT", transfer_syntax_uid=syntax, calling_ae_title="PACS",
        called_ae_title="FERRY", peer="127.0.0.1", received_at=received_at, size=size, digest="", route="",
        destinations=tuple(to),
    )  # fmt: skip
    return Found(
        State(
            instance, frozenset(delivered), frozenset(dead), redirected=redirected, delivered_at=delivered_at
        )
    )


def feed(queue, *what, now=0.0):
    for event in what:
        queue.handle(event, now)
    return queue.schedule(now)


def of(commands, kind):
    return [c.batch for c in commands if isinstance(c, Publish) and isinstance(c.batch, kind)]


def asked(commands):
    return [c for c in commands if not isinstance(c, Note)]


def only(commands, kind):
    batches = of(commands, kind)
    assert len(batches) == 1, commands
    return batches[0]


def rendered(batch):
    return [events.Rendered(batch.id, instance, batch.spec.key) for instance in batch.instances]


def delivered(batch):
    return [events.Delivered(batch.id, batch.destination, p.instance, p.key, 0) for p in batch.parcels]


def refused(batch, *, final=True, attempts=1, status=0xA900):
    parcel = batch.parcels[0]
    return events.Refused(
        batch.id, batch.destination, parcel.instance, parcel.key, status, "not this", final, attempts
    )
