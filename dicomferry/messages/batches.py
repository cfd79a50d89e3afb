"""The Celery messages: batches of work on the spool, with the names of their tasks and queues.

They hold ids, UIDs, names of destinations and reasons in words; never pixels, never patient data.
"""

import uuid
from dataclasses import asdict, dataclass, fields
from typing import Any

from dicomferry.spool.instance import RenditionSpec

TRANSCODE = "dicomferry.transcode"  # task names
DELIVER = "dicomferry.deliver"
PROBE = "dicomferry.probe"

TRANSCODE_QUEUE = "transcode"
DELIVER_QUEUE = "deliver"  # for probes too: the forwarder reads it

DROPPED = "dropped: another run of it holds its lease, or has ended"  # the outcome of such a batch


def new_batch_id() -> str:
    """A new id, which names a batch, its lease and its Celery message."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class TranscodeBatch:
    """Make one rendition of each instance."""

    id: str
    boot: str  # boot id, under which the renditions are written
    spec: RenditionSpec
    instances: tuple[str, ...]
    alone: bool = False  # an earlier batch of it died: count the attempt on the spool first
    verify: str = "always"  # or "sampled", "never": whether an encoded rendition is decoded back and compared

    def to_message(self) -> dict[str, Any]:
        """As keyword arguments of the task, made of JSON types."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "TranscodeBatch":
        """The reverse of `to_message`."""
        spec = RenditionSpec(**message["spec"])
        return cls(
            message["id"],
            message["boot"],
            spec,
            tuple(message["instances"]),
            message["alone"],
            message["verify"],
        )


@dataclass(frozen=True, slots=True)
class Parcel:
    """One object to send: an instance as received (`key` is None) or a rendition, and why that was chosen."""

    instance: str
    key: str | None
    why: str
    last: bool = False  # nothing else is to be done with the instance: delivered, it may leave the spool
    # What it is, so that its file need not be read for it; an earlier version does not tell.
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    transfer_syntax_uid: str = ""  # in which it is sent
    caller: str = ""  # calling AE title of its sender
    size: int = 0  # bytes of the data set as received; 0 where it is not told, and for a rendition


_PARCEL = tuple(field.name for field in fields(Parcel))


@dataclass(frozen=True, slots=True)
class DeliverBatch:
    """Send objects to one destination in one association.

    A batch with `after` is published while the batch before it still runs, so that the connection does not
    idle; it begins when the lease of that batch is gone.
    """

    id: str
    boot: str
    destination: str
    parcels: tuple[Parcel, ...]
    more: bool = False  # the lane has more: keep the association open for a moment
    after: str | None = None  # the batch that it follows

    def to_message(self) -> dict[str, Any]:
        """As keyword arguments of the task, made of JSON types."""
        # Not asdict, which copies deeply.
        parcels = [{name: getattr(parcel, name) for name in _PARCEL} for parcel in self.parcels]
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"parcels": parcels}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "DeliverBatch":
        """The reverse of `to_message`."""
        parcels = tuple(Parcel(**parcel) for parcel in message["parcels"])
        return cls(
            message["id"],
            message["boot"],
            message["destination"],
            parcels,
            message["more"],
            message.get("after"),  # earlier versions do not send it
        )


@dataclass(frozen=True, slots=True)
class ProbeBatch:
    """Ask a destination whether it answers (C-ECHO) and what it accepts for these SOP classes."""

    id: str
    destination: str
    sop_classes: tuple[str, ...]

    def to_message(self) -> dict[str, Any]:
        """As keyword arguments of the task, made of JSON types."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "ProbeBatch":
        """The reverse of `to_message`."""
        return cls(message["id"], message["destination"], tuple(message["sop_classes"]))


Batch = TranscodeBatch | DeliverBatch | ProbeBatch
