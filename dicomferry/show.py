"""What `status` and `explain` print: the spool's state in words. Needs no Redis and no running part."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from dicomferry.settings import Settings
from dicomferry.spool import SHARDS, Instance, Spool, State
from dicomferry.syntaxes import label
from dispatcher.history import Row, lines_of

FRESH = 5.0  # seconds: an older snapshot means that no dispatcher runs


def status(settings: Settings, console: Console, *, as_json: bool) -> None:
    """Print every lane: what is pending, delivered and dead, and its circuit."""
    spool = Spool(settings.spool)
    snapshot = spool.status()
    dispatching = snapshot is not None and time.time() - snapshot["at"] < FRESH
    view = snapshot if snapshot is not None and dispatching else _from_spool(settings, spool)
    if as_json:
        console.print_json(json.dumps({"dispatching": dispatching} | view))
        return
    if not dispatching:
        console.print(
            "[yellow]No dispatcher runs on this spool[/]: nothing moves; counts are read from the spool."
        )
    table = Table("destination", "AE title", "address", "circuit", "pending", "sending", "delivered", "dead")
    for lane in view["lanes"]:
        table.add_row(
            lane["destination"], lane["title"], lane["address"], _circuit(lane), str(lane["pending"]),
            str(lane.get("sending", 0)), str(lane["delivered"]), str(lane["dead"]),
        )  # fmt: skip
    console.print(table)
    console.print(
        f"{view['instances']} instances on their way, {view['parked']} parked with a dead delivery, "
        f"{view['quarantined']} quarantined, {view['batches']} batches in Celery"
    )


def _circuit(lane: dict[str, Any]) -> str:
    state = str(lane["circuit"])
    if lane.get("probe_at"):
        wait = max(0, round(lane["probe_at"] - time.time()))
        return f"{state}: {lane['reason']}; asks again in {wait} s"
    return state


def _from_spool(settings: Settings, spool: Spool) -> dict[str, Any]:
    states = list(_all(spool))
    pending = Counter(name for state in states for name in state.pending)
    delivered = Counter(name for state in states for name in state.delivered)
    dead = Counter(name for state in states for name in state.dead)
    known = {destination.name: destination for destination in settings.destination}
    lanes = []
    for name in dict.fromkeys([*known, *pending, *dead]):
        destination = known.get(name)
        lanes.append(
            {
                "destination": name,
                "title": destination.title if destination else "(not in the configuration)",
                "address": f"{destination.host}:{destination.port}" if destination else "",
                "circuit": "unknown",
                "pending": pending[name],
                "delivered": delivered[name],
                "dead": dead[name],
            }
        )
    return {
        "lanes": lanes,
        "instances": sum(1 for state in states if state.pending),
        "parked": sum(1 for state in states if state.dead),
        "quarantined": sum(1 for _ in spool.quarantine.iterdir()) if spool.quarantine.exists() else 0,
        "batches": 0,
    }


def _all(spool: Spool) -> Iterator[State]:
    if not spool.instances.exists():
        return
    for shard in SHARDS:
        for instance in spool.ids(shard):
            if state := spool.state(instance):
                yield state


def explain(settings: Settings, sop_instance_uid: str, console: Console) -> bool:
    """Print what happened to a SOP instance and why; False where nobody has heard of it."""
    spool = Spool(settings.spool)
    lines = lines_of(spool.history, sop_instance_uid)
    states = [s for instance in dict.fromkeys(line[1] for line in lines) if (s := spool.state(instance))]
    if not lines:  # not planned yet, or the history was deleted: the spool knows
        states = [s for s in _all(spool) if s.instance.sop_instance_uid == sop_instance_uid]
    for state in states:
        _print_state(spool, state, console)
    if lines:
        console.print(_history(lines))
    elif not states:
        console.print(f"{sop_instance_uid}: neither on the spool nor in the history: never received here")
    return bool(lines or states)


def _print_state(spool: Spool, state: State, console: Console) -> None:
    instance = state.instance
    console.print(_received(instance))
    for record in spool.rendition_records(instance.id):
        console.print(_rendition(record))
    for name in instance.destinations:
        if marker := spool.marker(instance.id, "delivered", name):
            syntax = label(str(marker.get("transfer_syntax_uid", "")))
            console.print(
                f"  {name}: delivered as {syntax} at {_when(marker.get('at'))}: {marker.get('why', '')}"
            )
        elif marker := spool.marker(instance.id, "dead", name):
            console.print(f"  {name}: dead since {_when(marker.get('at'))}: {marker.get('reason', '')}")
        else:
            attempts = state.attempts.get(name, 0)
            console.print(f"  {name}: pending" + (f", refused {attempts} times" if attempts else ""))


def _received(instance: Instance) -> str:
    return (
        f"instance {instance.id} on the spool: received {_when(instance.received_at)} as "
        f"{label(instance.transfer_syntax_uid)} from {instance.calling_ae_title} ({instance.peer}) to "
        f"{instance.called_ae_title}, {instance.modality or 'no modality'}, {instance.size} bytes\n"
        f"  study {instance.study_instance_uid}\n  series {instance.series_instance_uid}"
    )


def _rendition(record: dict[str, Any]) -> str:
    before, after = record.get("digest_before", ""), record.get("digest_after", "")
    pixels = f"pixels {before}" + (f", decoded back {after}" if after not in ("", before) else "")
    return (
        f"  rendition {label(str(record.get('transfer_syntax_uid', '')))}: "
        f"{record.get('verified') or 'not verified'}" + (f"; {pixels}" if before else "")
    )


def _history(lines: list[Row]) -> Table:
    table = Table("when", "what", "destination", "why")
    for at, _, _, what, destination, words in lines:
        table.add_row(_when(at), what, destination, words)
    return table


def _when(at: float | None) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(" ", "milliseconds") if at else "unknown"
