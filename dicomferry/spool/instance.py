"""What the spool holds, as values: an instance, its state, and what a worker is asked to make of it."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import lru_cache

UID_BYTES = 8  # of an id: the SOP Instance UID's hash


@dataclass(frozen=True, slots=True)
class Instance:
    """One SOP instance as received: what instance.json holds. It never changes."""

    id: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    transfer_syntax_uid: str
    calling_ae_title: str
    called_ae_title: str
    peer: str  # address of the requestor
    received_at: float  # seconds since the epoch
    size: int  # bytes of the data set
    digest: str  # of the data set's bytes, see `digests`
    route: str  # in words: which rule took it
    destinations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RenditionSpec:
    """What a worker is asked to make of an instance; equal specs give equal bytes."""

    transfer_syntax_uid: str
    colour: str = "rgb"  # "rgb" or "as-encoded": what YCbCr becomes in native pixel data
    # Of lossy targets alone; None everywhere else, so that equal renditions have equal specs.
    quality: int | None = None  # JPEG and JPEG XL: 1 (worst) to 100
    ratio: float | None = None  # JPEG 2000 and HTJ2K: compressed to one part in so many
    near: int | None = None  # JPEG-LS: how far a sample may be off

    @property
    def key(self) -> str:
        """Names the rendition in its instance's folder: the UID and a hash of the encoder's settings."""
        return _key(self)


@lru_cache(maxsize=1024)
def _key(spec: RenditionSpec) -> str:
    settings = json.dumps(asdict(spec), sort_keys=True).encode()
    return f"{spec.transfer_syntax_uid}-{hashlib.blake2b(settings, digest_size=4).hexdigest()}"


@dataclass(frozen=True, slots=True)
class State:
    """What the spool says of one instance at one moment."""

    instance: Instance
    delivered: frozenset[str]  # names of destinations
    dead: frozenset[str]  # names of destinations, those delivered left out
    attempts: dict[str, int] = field(default_factory=dict)  # by what was attempted
    redirected: tuple[str, ...] | None = None  # destinations that an operator has given it instead
    delivered_at: float = 0.0  # of the last delivery, where no other is left; seconds since the epoch
    renewed_at: float = 0.0  # when an operator last asked for its delivery

    @property
    def destinations(self) -> tuple[str, ...]:
        """Names of all destinations that have it or are to have it."""
        return self.instance.destinations if self.redirected is None else self.redirected

    @property
    def asked_at(self) -> float:
        """Since when it is to be delivered, seconds since the epoch."""
        return max(self.instance.received_at, self.renewed_at)

    @property
    def pending(self) -> tuple[str, ...]:
        """Names of the destinations that still wait for it."""
        return tuple(n for n in self.destinations if n not in self.delivered and n not in self.dead)


def instance_id(sop_instance_uid: str, digest: str, destinations: tuple[str, ...], again: str = "") -> str:
    """The id of an instance: the same object for the same destinations has the same one.

    `again` makes another id for an object that is sent anew after it was delivered somewhere. All that comes
    with one SOP Instance UID begins alike, so that `Spool.namesakes` finds it.
    """
    uid = hashlib.blake2b(sop_instance_uid.encode(), digest_size=UID_BYTES).hexdigest()
    content = "\0".join((sop_instance_uid, digest, *destinations, again))
    return uid + hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
