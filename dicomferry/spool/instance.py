"""The values that the spool stores: an instance, its state, and the specification of a rendition."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import Any

UID_BYTES = 8  # of an id: the SOP Instance UID's hash
_OTHER_BYTES = 16  # of an id: a hash of everything that makes it differ from others of that UID
_ID = re.compile(f"[0-9a-f]{{{2 * (UID_BYTES + _OTHER_BYTES)}}}")


@dataclass(frozen=True, slots=True)
class Instance:
    """One SOP instance as received: what its record holds. It never changes."""

    id: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    transfer_syntax_uid: str  # of the data set; where its presentation context had another one, see `notes`
    calling_ae_title: str
    called_ae_title: str
    peer: str  # address of the requestor
    received_at: float  # seconds since the epoch
    size: int  # bytes of the data set
    digest: str  # of the data set's bytes, see `digests`
    route: str  # in words: which rule matched
    destinations: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what is wrong with it and was taken all the same, in words
    sendable: bool = True  # its bytes may leave as they are; else only a rendition may

    def to_record(self) -> dict[str, Any]:
        """As a mapping of JSON types."""
        return {name: getattr(self, name) for name in _FIELDS}  # not asdict, which copies deeply

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Instance":
        """The reverse of `to_record`, also of what an earlier version wrote.

        Raises:
            KeyError, TypeError: it is no such record.
        """
        return cls(
            **record
            | {"destinations": tuple(record["destinations"]), "notes": tuple(record.get("notes", ()))}
        )


_FIELDS = tuple(field.name for field in fields(Instance))


@dataclass(frozen=True, slots=True)
class RenditionSpec:
    """How a worker encodes an instance; equal specs give equal bytes."""

    transfer_syntax_uid: str
    colour: str = "rgb"  # "rgb" or "as-encoded": what YCbCr becomes in native pixel data
    # For lossy syntaxes only, else None, so that equal renditions have equal specs.
    quality: int | None = None  # JPEG and JPEG XL: 1 (worst) to 100
    ratio: float | None = None  # JPEG 2000 and HTJ2K: native size to compressed size
    near: int | None = None  # JPEG-LS: largest error of a sample

    @property
    def key(self) -> str:
        """The rendition's file name, without suffix: the UID and a hash of the encoder's settings."""
        return _key(self)


@lru_cache(maxsize=1024)
def _key(spec: RenditionSpec) -> str:
    settings = json.dumps(asdict(spec), sort_keys=True).encode()
    return f"{spec.transfer_syntax_uid}-{hashlib.blake2b(settings, digest_size=4).hexdigest()}"


@dataclass(frozen=True, slots=True)
class State:
    """What the spool says of one instance at one time."""

    instance: Instance
    delivered: frozenset[str]  # names of destinations
    dead: frozenset[str]  # names of destinations without those delivered
    attempts: dict[str, int] = field(default_factory=dict)  # by what was attempted
    redirected: tuple[str, ...] | None = None  # destinations that an operator chose instead
    delivered_at: float = 0.0  # of the last delivery, if all are done; seconds since the epoch
    renewed_at: float = 0.0  # when an operator last asked for its delivery

    @property
    def destinations(self) -> tuple[str, ...]:
        """Names of all destinations that have it or are to have it."""
        return self.instance.destinations if self.redirected is None else self.redirected

    @property
    def asked_at(self) -> float:
        """When delivery was last asked for, by its sender or an operator; seconds since the epoch."""
        return max(self.instance.received_at, self.renewed_at)

    @property
    def pending(self) -> tuple[str, ...]:
        """Names of the destinations to which it is still to be delivered."""
        return tuple(n for n in self.destinations if n not in self.delivered and n not in self.dead)


def is_id(text: str) -> bool:
    """Whether an instance can have this id; what else is found as a name is not ours."""
    return _ID.fullmatch(text) is not None


def instance_id(sop_instance_uid: str, digest: str, destinations: tuple[str, ...], again: str = "") -> str:
    """The id of an instance: the same object for the same destinations has the same id.

    `again` gives another id to an object that arrives again after it was delivered somewhere. All ids of one
    SOP Instance UID have the same prefix, so that `Spool.namesakes` finds them.
    """
    uid = hashlib.blake2b(sop_instance_uid.encode(), digest_size=UID_BYTES).hexdigest()
    content = "\0".join((sop_instance_uid, digest, *destinations, again))
    return uid + hashlib.blake2b(content.encode(), digest_size=_OTHER_BYTES).hexdigest()
