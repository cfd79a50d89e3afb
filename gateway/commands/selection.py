"""Which deliveries an operator means: read from the spool, which is the truth, and narrowed by filters."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from dicomferry.spool.instance import Instance, State, instance_id
from dicomferry.spool.spool import SHARDS, Spool


@dataclass(frozen=True, slots=True)
class Filter:
    """What all that is meant has in common; None and empty say nothing."""

    destination: str | None = None
    study: str | None = None  # Study Instance UID
    sop_instance_uid: str | None = None
    reason: str = ""  # a part of it, in any case
    older_than: float | None = None  # seconds
    newer_than: float | None = None

    @property
    def is_open(self) -> bool:
        """Whether everything passes."""
        return self == Filter()

    def passes(self, *, at: float, now: float, reason: str = "") -> bool:
        """Whether something of that age, for that reason, is meant; times in seconds since the epoch."""
        age = now - at
        return (
            (self.older_than is None or age >= self.older_than)
            and (self.newer_than is None or age <= self.newer_than)
            and self.reason.casefold() in reason.casefold()
        )

    def goes_to(self, name: str) -> bool:
        """Whether deliveries to that destination are meant."""
        return self.destination in {None, name}


@dataclass(frozen=True, slots=True)
class Done:
    """A delivery that is over: dead for a reason, or delivered."""

    instance: Instance
    destination: str
    at: float  # since when, seconds since the epoch
    reason: str = ""
    status: int | None = None  # of the destination's last answer
    attempts: int = 0


def states(spool: Spool, wanted: Filter = Filter(), mark: str = "") -> Iterator[State]:
    """Instances on the spool of that study and that SOP Instance UID; only those with a `mark` file, if any.

    `mark` is what the name of the file starts with.
    """
    if not spool.instances.exists():
        return
    for instance in _ids(spool, wanted.sop_instance_uid):
        if mark and not _has(spool, instance, mark):
            continue
        state = spool.state(instance)
        if state is not None and wanted.study in {None, state.instance.study_instance_uid}:
            yield state


def dead(spool: Spool, wanted: Filter, now: float) -> list[Done]:
    """Dead deliveries, longest dead first; their age is how long they are dead."""
    found = [
        _done(spool, state, name, "dead")
        for state in states(spool, wanted, "dead-")
        for name in state.dead
        if wanted.goes_to(name)
    ]
    return _sorted(done for done in found if wanted.passes(at=done.at, now=now, reason=done.reason))


def delivered(spool: Spool, wanted: Filter, now: float) -> list[Done]:
    """Delivered ones of the instances that are still there, earliest first; their age is since then."""
    found = [
        _done(spool, state, name, "delivered")
        for state in states(spool, wanted, "delivered-")
        for name in state.delivered.intersection(state.destinations)
        if wanted.goes_to(name)
    ]
    return _sorted(done for done in found if wanted.passes(at=done.at, now=now))


def _done(spool: Spool, state: State, name: str, kind: str) -> Done:
    marker = spool.marker(state.instance.id, kind, name) or {}
    return Done(
        state.instance,
        name,
        marker.get("at", 0.0),
        marker.get("reason", ""),
        marker.get("status"),
        marker.get("attempts", 0),
    )


def _sorted(found: Iterator[Done]) -> list[Done]:
    return sorted(found, key=lambda done: (done.at, done.instance.id, done.destination))


def _ids(spool: Spool, sop_instance_uid: str | None) -> Iterator[str]:
    if sop_instance_uid is not None:
        yield from spool.namesakes(instance_id(sop_instance_uid, "", ()))
        return
    for shard in SHARDS:
        yield from spool.ids(shard)


def _has(spool: Spool, instance: str, mark: str) -> bool:
    try:
        return any(name.startswith(mark) for name in os.listdir(spool.folder(instance)))
    except FileNotFoundError:
        return False
