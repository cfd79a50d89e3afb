"""Selects deliveries and instances on the spool by an operator's filters."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from dicomferry.spool.instance import Instance, State, instance_id
from dicomferry.spool.spool import SHARDS, Spool
from dispatcher.newer import Received, newer


@dataclass(frozen=True, slots=True)
class Filter:
    """An operator's filters; None and "" match everything."""

    destination: str | None = None
    study: str | None = None  # Study Instance UID
    sop_instance_uid: str | None = None
    reason: str = ""  # part of the reason, case-insensitive
    older_than: float | None = None  # seconds
    newer_than: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether everything matches."""
        return self == Filter()

    def matches(self, *, at: float, now: float, reason: str = "") -> bool:
        """Whether age and reason match; `at` and `now` in seconds since the epoch."""
        age = now - at
        return (
            (self.older_than is None or age >= self.older_than)
            and (self.newer_than is None or age <= self.newer_than)
            and self.reason.casefold() in reason.casefold()
        )

    def matches_destination(self, name: str) -> bool:
        """Whether the destination `name` matches."""
        return self.destination in {None, name}


@dataclass(frozen=True, slots=True)
class EndedDelivery:
    """A delivery that has ended: dead for a reason, or delivered."""

    instance: Instance
    destination: str
    at: float  # when it ended, seconds since the epoch
    reason: str = ""
    status: int | None = None  # of the destination's last answer
    attempts: int = 0
    newer: str = ""  # of a newer object with its SOP Instance UID for this destination, in words


def states(spool: Spool, wanted: Filter = Filter(), marker_prefix: str = "") -> Iterator[State]:
    """The instances on the spool that match study and SOP Instance UID.

    With `marker_prefix`, only those with a file whose name starts with it.
    """
    if not spool.instances.exists():
        return
    for instance in _instance_ids(spool, wanted.sop_instance_uid):
        if marker_prefix and not _has_marker(spool, instance, marker_prefix):
            continue
        state = spool.state(instance)
        if state is not None and wanted.study in {None, state.instance.study_instance_uid}:
            yield state


def damage(spool: Spool) -> list[str]:
    """What cannot be read of the instances on the spool, each with its path."""
    if not spool.instances.exists():
        return []
    return [found for instance in _instance_ids(spool, None) if (found := spool.damage(instance))]


def dead(spool: Spool, wanted: Filter, now: float) -> list[EndedDelivery]:
    """Dead deliveries, longest dead first; their age counts from when they died."""
    found = [
        _ended(spool, state, name, "dead")
        for state in states(spool, wanted, "dead-")
        for name in state.dead
        if wanted.matches_destination(name)
    ]
    return _sorted(
        delivery for delivery in found if wanted.matches(at=delivery.at, now=now, reason=delivery.reason)
    )


def delivered(spool: Spool, wanted: Filter, now: float) -> list[EndedDelivery]:
    """Delivered deliveries of instances still on the spool, earliest first; age counts from delivery."""
    found = [
        _ended(spool, state, name, "delivered")
        for state in states(spool, wanted, "delivered-")
        for name in state.delivered.intersection(state.destinations)
        if wanted.matches_destination(name)
    ]
    return _sorted(delivery for delivery in found if wanted.matches(at=delivery.at, now=now))


def compared(spool: Spool, keep_history: float, found: Iterable[EndedDelivery]) -> list[EndedDelivery]:
    """The same deliveries, each with what is known of a newer object that its destination gets."""
    return [
        replace(done, newer=newer(spool, keep_history, _received(done.instance), done.destination))
        for done in found
    ]


def _received(instance: Instance) -> Received:
    return Received(instance.sop_instance_uid, instance.id, instance.received_at)


def _ended(spool: Spool, state: State, name: str, kind: str) -> EndedDelivery:
    marker = spool.marker(state.instance.id, kind, name) or {}
    return EndedDelivery(
        state.instance,
        name,
        marker.get("at", 0.0),
        marker.get("reason", ""),
        marker.get("status"),
        marker.get("attempts", 0),
    )


def _sorted(found: Iterator[EndedDelivery]) -> list[EndedDelivery]:
    return sorted(found, key=lambda delivery: (delivery.at, delivery.instance.id, delivery.destination))


def _instance_ids(spool: Spool, sop_instance_uid: str | None) -> Iterator[str]:
    if sop_instance_uid is not None:
        yield from spool.namesakes(instance_id(sop_instance_uid, "", ()))
        return
    for shard in SHARDS:
        yield from spool.ids(shard)


def _has_marker(spool: Spool, instance: str, marker_prefix: str) -> bool:
    try:
        return any(name.startswith(marker_prefix) for name in os.listdir(spool.folder(instance)))
    except FileNotFoundError:
        return False
