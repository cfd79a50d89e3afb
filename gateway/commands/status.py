"""`dicomferry status`: each destination and what waits for it, and what needs a person.

It reads the dispatcher's snapshot or else the spool, and needs no Redis and no running part.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import typer

from dicomferry.settings import Ingest, Settings
from dicomferry.spool import orders
from dicomferry.spool.spool import Spool
from dicomferry.spool.tally import Tally
from dispatcher.status import NOT_CONFIGURED
from gateway.commands.selection import damage, states
from gateway.commands.words import ago, aligned, counted, lasting, say, since, width, wrapped
from ingest.room import FreeSpace

_NEARLY = 0.9  # of a bound: told before it is met
_FRESH = 5.0  # seconds; an older snapshot means that no dispatcher runs
_PATIENCE = 300.0  # seconds that a destination may be away before a person should know
_HEADINGS = ("destination", "waiting", "delivered", "dead", "state")


def dispatcher_runs(spool: Spool) -> bool:
    """Whether a dispatcher runs on this spool: its last snapshot is fresh."""
    snapshot = spool.status()
    return snapshot is not None and time.time() - snapshot["at"] < _FRESH


def print_status(settings: Settings, *, as_json: bool) -> None:
    """Print every destination: what waits, was delivered or is dead, and whether it answers."""
    runs, snapshot = _look(settings)
    if as_json:
        typer.echo(json.dumps({"dispatching": runs} | snapshot, indent=2))
        return
    columns = width()
    rows = [_HEADINGS, *(_row(lane) for lane in snapshot["lanes"])]
    for line in aligned(rows, columns):
        typer.echo(line)
    typer.echo()
    for line in (*_way_in(snapshot), *_summary(snapshot)):
        typer.echo(wrapped(line, columns, "  "))
    if concerns := list(_concerns(settings, runs, snapshot)):
        typer.echo("\nNeeds a person:")
        for line in concerns:
            typer.echo(wrapped(f"  {line}", columns, "    "))


def check_status(settings: Settings) -> bool:
    """Print what needs a person, a line each; whether nothing does."""
    concerns = list(_concerns(settings, *_look(settings)))
    for line in concerns:
        say(line)
    return not concerns


def lane_state(lane: dict[str, Any]) -> str:
    """Whether a destination answers, in words."""
    circuit, reason = lane["circuit"], lane.get("reason", "")
    if circuit == "closed":
        return "answering"
    began = f" since {since(lane['since'])}" if lane.get("since") else ""
    if circuit == "trial" and not began:
        return f"answering; it failed over an object, and one at a time is tried: {reason}"
    if circuit == "trial":
        return f"answers again, one object is tried; did not answer{began}: {reason}"
    if circuit == "open":
        wait = lasting((lane.get("probe_at") or 0.0) - time.time())
        return f"not answering{began}: {reason}; asks again in {wait}"
    return "not configured" if lane["title"] == NOT_CONFIGURED else "not known while no dispatcher runs"


def _look(settings: Settings) -> tuple[bool, dict[str, Any]]:
    """Whether a dispatcher runs, and its snapshot, or what the spool tells without it."""
    spool = Spool(settings.spool)
    runs = dispatcher_runs(spool)
    return runs, (spool.status() if runs else None) or _count_spool(settings, spool)


def _row(lane: dict[str, Any]) -> tuple[str, ...]:
    counts = (lane["pending"], lane["delivered"], lane["dead"])
    return (lane["destination"], *map(str, counts), lane_state(lane))


def _way_in(snapshot: dict[str, Any]) -> Iterator[str]:
    at = snapshot.get("last_received_at")
    yield f"last received: {ago(at) + ' ago' if at else 'nothing yet'}"
    for caller in snapshot.get("rejected", ()):
        yield (
            f"rejected {ago(caller['at'])} ago: {caller['calling']} at {caller['host']} calling "
            f"{caller['called']}: {caller['why']}"
        )


def _summary(snapshot: dict[str, Any]) -> Iterator[str]:
    dead = counted(sum(lane["dead"] for lane in snapshot["lanes"]), "dead delivery")
    yield (
        f"{counted(snapshot['instances'], 'instance')} waiting or on the way, {dead}, "
        f"{counted(snapshot['batches'], 'batch')} in Celery"
    )
    yield (
        f"on the spool: {_held(snapshot, 'dead_objects', 'dead_bytes')} with a dead delivery, "
        f"{_held(snapshot, 'kept_objects', 'kept_bytes')} kept after delivery, "
        f"{_held(snapshot, 'quarantined', 'quarantined_bytes')} in quarantine"
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


def _full_disk(settings: Settings) -> Iterator[str]:
    """That ingest turns everybody away until the spool has room again."""
    spool = Spool(settings.spool)
    if spool.incoming.exists() and (shortage := FreeSpace(spool, settings.ingest).shortage()):
        yield (
            f"{shortage}: until there is room, senders are rejected or answered 0xA700. Free or add space; "
            "what is here already is delivered meanwhile."
        )


def _concerns(settings: Settings, runs: bool, snapshot: dict[str, Any]) -> Iterator[str]:
    """What needs a person, one line each."""
    yield from _full_disk(settings)
    if not runs:
        yield (
            "No dispatcher runs on this spool: nothing moves. Start `dicomferry up` or `dispatcher`; counts "
            "are read from the spool meanwhile."
        )
    elif not snapshot["redis"]:
        yield "Redis does not answer the dispatcher: nothing moves until it does."
    for lane in snapshot["lanes"]:
        name = lane["destination"]
        if lane.get("since") and time.time() - lane["since"] > _PATIENCE:
            yield f"{name} is {lane_state(lane)}. `dicomferry echo {name}` asks it now."
        if lane["title"] == NOT_CONFIGURED and lane["pending"]:
            yield (
                f"{name}: {lane['pending']} pending, and the configuration has no such destination. Put it "
                "back, or `dicomferry reroute`."
            )
    if dead := sum(lane["dead"] for lane in snapshot["lanes"]):
        yield (
            f"{counted(dead, 'dead delivery')}: `dicomferry dead list` says why, `dead retry` and `dead "
            "discard` end it."
        )
    if damaged := snapshot.get("damaged"):
        yield (
            f"{counted(len(damaged), 'object')} on the spool cannot be read, so nobody gets it: "
            f"{damaged[0]}. Restore the file from a backup, or move it away and have it sent again."
        )
    yield from _quarantine_warnings(settings.ingest, snapshot)
    if snapshot["quarantined"]:
        yield f"{snapshot['quarantined']} in quarantine: `dicomferry quarantine list` says why."
    if snapshot["orders"]:
        yield f"{counted(snapshot['orders'], 'order')} not carried out yet."


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
        "damaged": damage(spool),
        "batches": 0,
        "orders": len(orders.outstanding(spool.orders)),
        "last_received_at": max((state.instance.received_at for state in found), default=None),
    }
