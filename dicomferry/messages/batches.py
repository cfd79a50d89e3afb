"""The messages that Celery carries, and the names both ends know: requests to look at the spool.

They hold ids, UIDs, names of destinations and words for people; never pixels, never patient data.
"""

import uuid
from dataclasses import asdict, dataclass
from typing import Any

from dicomferry.spool.instance import RenditionSpec

TRANSCODE = "dicomferry.transcode"  # task names
DELIVER = "dicomferry.deliver"
PROBE = "dicomferry.probe"

TRANSCODE_QUEUE = "transcode"
DELIVER_QUEUE = "deliver"  # probes travel here too: it is the forwarder's


def new_batch_id() -> str:
    """A name for a batch, its lease and its Celery message."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class TranscodeBatch:
    """Make one rendition of each instance."""

    id: str
    boot: str  # under which the renditions are to stand
    spec: RenditionSpec
    instances: tuple[str, ...]
    alone: bool = False  # its batch died before: count the attempt on the spool first
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
    """One object to send: an instance as received (`key` is None) or a rendition of it, and why this one."""

    instance: str
    key: str | None
    why: str


@dataclass(frozen=True, slots=True)
class DeliverBatch:
    """Send objects to one destination in one association.

    One that follows another is published while that one still runs, so that the wire need not wait for it:
    it begins when the other's lease is gone.
    """

    id: str
    boot: str
    destination: str
    parcels: tuple[Parcel, ...]
    more: bool = False  # the lane has more: keep the association a moment
    after: str | None = None  # the batch that it follows

    def to_message(self) -> dict[str, Any]:
        """As keyword arguments of the task, made of JSON types."""
        return asdict(self)

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
            message.get("after"),  # a batch of an earlier version follows none
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
