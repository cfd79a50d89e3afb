"""Markers: small files beside an instance that say what became of it; each appears whole or not at all."""

import json
import time
from contextlib import suppress
from typing import Any

from dicomferry.spool import durable
from dicomferry.spool.instance import Instance, State
from dicomferry.spool.places import RECORD, Places, read_small

_REDIRECTED, _RENEWED = "redirected.json", "renewed.json"


class Markers:
    """The markers of one spool; writing one raises FileNotFoundError where its instance is gone."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def _marked(self, found: Instance, names: list[str]) -> State:
        """The state of an instance with markers of these names, without `delivered_at`."""
        redirected, redirected_at = self._redirected(found.id) if _REDIRECTED in names else (None, 0.0)
        renewed_at = self._renewed(found.id) if _RENEWED in names else 0.0
        delivered = frozenset(_between(name, "delivered-", ".json") for name in names) - {""}
        dead = frozenset(_between(name, "dead-", ".json") for name in names) - {""} - delivered
        if redirected is not None:
            dead &= frozenset(redirected)
        attempts = {
            what: self.attempts(found.id, what) for name in names if (what := _between(name, "attempts-", ""))
        }
        return State(found, delivered, dead, attempts, redirected, renewed_at=max(redirected_at, renewed_at))

    def _mark(self, instance: str, name: str, record: dict[str, Any]) -> None:
        durable.replace(self._places.make_folder(instance) / name, json.dumps(record).encode())

    def redirect(self, instance: str, destinations: tuple[str, ...], why: str) -> None:
        """Durably replace the destinations of an instance."""
        record = {"schema": RECORD, "destinations": destinations, "why": why, "at": time.time()}
        self._mark(instance, _REDIRECTED, record)

    def _redirected(self, instance: str) -> tuple[tuple[str, ...] | None, float]:
        try:
            record = json.loads((self._places.folder(instance) / _REDIRECTED).read_bytes())
        except FileNotFoundError:
            return None, 0.0
        return tuple(record["destinations"]), record["at"]

    def renew(self, instance: str) -> None:
        """Record durably that an operator asked for its delivery; its age counts from now."""
        self._mark(instance, _RENEWED, {"at": time.time()})

    def _renewed(self, instance: str) -> float:
        try:
            at: float = json.loads((self._places.folder(instance) / _RENEWED).read_bytes())["at"]
        except FileNotFoundError:
            return 0.0
        return at

    def mark_delivered(self, instance: str, destination: str, record: dict[str, Any]) -> None:
        """Record durably that `destination` has the instance; this overrides a dead marker."""
        self._mark(instance, f"delivered-{destination}.json", record)

    def mark_dead(self, instance: str, destination: str, record: dict[str, Any]) -> None:
        """Record durably that a delivery is dead, with its reason."""
        self._mark(instance, f"dead-{destination}.json", record)

    def marker(self, instance: str, kind: str, destination: str) -> dict[str, Any] | None:
        """The content of a marker (`kind` "delivered" or "dead"), or None where there is none."""
        try:
            content: dict[str, Any] = json.loads(
                read_small(self._places.folder(instance) / f"{kind}-{destination}.json")
            )
        except FileNotFoundError:
            return None
        return content

    def unmark(self, instance: str, kind: str, destination: str) -> None:
        """Durably remove a marker (`kind` "delivered" or "dead"); the delivery is pending again."""
        path = self._places.folder(instance) / f"{kind}-{destination}.json"
        with suppress(FileNotFoundError):
            path.unlink()
            durable.sync_folder(path.parent)

    def is_delivered(self, instance: str, destination: str) -> bool:
        """Whether there is a delivered marker."""
        return (self._places.folder(instance) / f"delivered-{destination}.json").exists()

    def add_attempt(self, instance: str, what: str) -> int:
        """Durably count an attempt before it is made; returns the number of attempts with this one."""
        return durable.append_synced(self._places.make_folder(instance) / f"attempts-{what}", b".")

    def clear_attempts(self, instance: str, what: str) -> None:
        """Reset the count of attempts."""
        (self._places.folder(instance) / f"attempts-{what}").unlink(missing_ok=True)

    def attempts(self, instance: str, what: str) -> int:
        """How many attempts were counted."""
        try:
            return (self._places.folder(instance) / f"attempts-{what}").stat().st_size
        except FileNotFoundError:
            return 0


def _between(name: str, prefix: str, suffix: str) -> str:
    """The part of `name` between `prefix` and `suffix`; empty where it lacks one of them."""
    return (
        name[len(prefix) : len(name) - len(suffix)]
        if name.startswith(prefix) and name.endswith(suffix)
        else ""
    )
