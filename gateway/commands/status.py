"""`dicomferry status`: the lanes and their counts, from the dispatcher's snapshot or else from the spool.

Needs no Redis and no running part.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from dicomferry.settings import Ingest, Settings
from dicomferry.spool import orders
from dicomferry.spool.spool import Spool
from dicomferry.spool.tally import Tally
from dispatcher.status import NOT_CONFIGURED
from gateway.commands.selection import states
from gateway.commands.words import counted, plain

_NEARLY = 0.9  # of a bound: told before it is met
_FRESH = 5.0  # seconds; an older snapshot means that no dispatcher runs


def dispatcher_runs(spool: Spool) -> bool:
    """Whether a dispatcher runs on this spool: its last snapshot is fresh."""
    snapshot = spool.status()
    return snapshot is not None and time.time() - snapshot["at"] < _FRESH


def print_status(settings: Settings, console: Console, *, as_json: bool) -> None:
    """Print every lane: what is pending, delivered and dead, and its circuit."""
    spool = Spool(settings.spool)
    runs = dispatcher_runs(spool)
    snapshot = (spool.status() if runs else None) or _count_spool(settings, spool)
    if as_json:
        console.print_json(json.dumps({"dispatching": runs} | snapshot))
        return
    if not runs:
        console.print(
            "No dispatcher runs on this spool: nothing moves; counts are read from the spool.", style="yellow"
        )
    elif not snapshot["redis"]:
        console.print("Redis does not answer the dispatcher: nothing moves until it does.", style="yellow")
    table = Table()
    for heading in (
        "destination", "AE title", "address", "circuit", "pending", "sending", "delivered", "dead",
    ):  # fmt: skip
        table.add_column(heading, overflow="fold")
    for lane in snapshot["lanes"]:
        table.add_row(*map(plain, (
            lane["destination"], lane["title"], lane["address"], lane["circuit"], str(lane["pending"]),
            str(lane.get("sending", 0)), str(lane["delivered"]), str(lane["dead"]),
        )))  # fmt: skip
    console.print(table)
    for line in (*_warnings(snapshot), *_quarantine_warnings(settings.ingest, snapshot)):
        console.print(plain(line), soft_wrap=True, highlight=False)
    console.print(
        f"{snapshot['instances']} instances on their way, {snapshot['parked']} parked with a dead delivery, "
        f"{snapshot['quarantined']} quarantined, {snapshot['batches']} batches in Celery, "
        f"{snapshot['orders']} orders not carried out yet",
        soft_wrap=True,
    )
    console.print(
        f"on the spool: {_held(snapshot, 'dead_objects', 'dead_bytes')} with a dead delivery, "
        f"{_held(snapshot, 'kept_objects', 'kept_bytes')} kept after delivery, "
        f"{_held(snapshot, 'quarantined', 'quarantined_bytes')} in the quarantine",
        soft_wrap=True,
    )


def _held(snapshot: dict[str, Any], number: str, size: str) -> str:
    """A number of objects and their bytes; a dispatcher of before 0.2.0 does not tell them all."""
    return f"{counted(snapshot.get(number, 0), 'object')} ({snapshot.get(size, 0) / 1e6:.1f} MB)"


def _quarantine_warnings(ingest: Ingest, snapshot: dict[str, Any]) -> Iterator[str]:
    """That the quarantine is full, or will be soon."""
    number, size = snapshot["quarantined"], snapshot.get("quarantined_bytes", 0) / 1e6
    for key, held, most in (
        ("quarantine_max_count", number, ingest.quarantine_max_count),
        ("quarantine_max_mb", size, ingest.quarantine_max_mb),
    ):
        if number and held >= _NEARLY * most:
            yield (
                f"the quarantine holds {held:.0f} of {most} ([ingest] {key}): what cannot be read is refused "
                "(0xA700) once it is full; `dicomferry quarantine retry` and `discard` make room"
            )


def _warnings(snapshot: dict[str, Any]) -> Iterator[str]:
    """What needs an operator, one line each."""
    for lane in snapshot["lanes"]:
        name = lane["destination"]
        if lane.get("probe_at"):
            wait = max(0, round(lane["probe_at"] - time.time()))
            yield f"{name}: {lane['reason']}; asks again in {wait} s"
        if lane["title"] == NOT_CONFIGURED and lane["pending"]:
            yield (
                f"{name}: {lane['pending']} pending, and the configuration has no such destination: put it "
                "back, or `dicomferry reroute`"
            )
    if any(lane["dead"] for lane in snapshot["lanes"]):
        yield "dead deliveries: `dicomferry dead list` says why, `dead retry` and `dead discard` end it"
    if snapshot["quarantined"]:
        yield "quarantined: `dicomferry quarantine list` says why"


def _count_spool(settings: Settings, spool: Spool) -> dict[str, Any]:
    found = list(states(spool))
    pending = Counter(name for state in found for name in state.pending)
    delivered = Counter(name for state in found for name in state.delivered)
    dead = Counter(name for state in found for name in state.dead)
    configured = {destination.name: destination for destination in settings.destination}
    lanes = []
    for name in dict.fromkeys([*configured, *pending, *dead]):
        destination = configured.get(name)
        lanes.append(
            {
                "destination": name,
                "title": destination.title if destination else NOT_CONFIGURED,
                "address": f"{destination.host}:{destination.port}" if destination else "",
                "circuit": "unknown",
                "pending": pending[name],
                "delivered": delivered[name],
                "dead": dead[name],
            }
        )
    quarantined, quarantined_bytes = Tally(spool.quarantine).count()
    with_dead = [state.instance.size for state in found if state.dead]
    kept = [state.instance.size for state in found if not (state.dead or state.pending)]
    return {
        "lanes": lanes,
        "instances": sum(1 for state in found if state.pending),
        "parked": sum(1 for state in found if state.dead and not state.pending),
        "dead_objects": len(with_dead),
        "dead_bytes": sum(with_dead),
        "kept_objects": len(kept),
        "kept_bytes": sum(kept),
        "quarantined": quarantined,
        "quarantined_bytes": quarantined_bytes,
        "batches": 0,
        "orders": len(orders.outstanding(spool.orders)),
    }
