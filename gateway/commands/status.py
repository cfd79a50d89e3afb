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

from dicomferry.settings import Settings
from dicomferry.spool import orders
from dicomferry.spool.spool import Spool
from dispatcher.status import NOT_CONFIGURED
from gateway.commands.selection import states
from gateway.commands.words import plain

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
    for line in _warnings(snapshot):
        console.print(plain(line), soft_wrap=True, highlight=False)
    console.print(
        f"{snapshot['instances']} instances on their way, {snapshot['parked']} parked with a dead delivery, "
        f"{snapshot['quarantined']} quarantined, {snapshot['batches']} batches in Celery, "
        f"{snapshot['orders']} orders not carried out yet",
        soft_wrap=True,
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
    return {
        "lanes": lanes,
        "instances": sum(1 for state in found if state.pending),
        "parked": sum(1 for state in found if state.dead and not state.pending),
        "quarantined": sum(1 for _ in spool.quarantine.iterdir()) if spool.quarantine.exists() else 0,
        "batches": 0,
        "orders": len(orders.outstanding(spool.orders)),
    }
