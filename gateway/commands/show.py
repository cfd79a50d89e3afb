"""What `status`, `explain` and the lists print: the spool's state in words.

Needs no Redis and no running part.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from dicomferry.dicom.syntaxes import label
from dicomferry.settings import Settings
from dicomferry.spool import orders
from dicomferry.spool.instance import Instance, State
from dicomferry.spool.spool import Spool
from dispatcher.history import Row, lines_of
from dispatcher.status import NOT_CONFIGURED
from forwarder.outcome import of_status
from gateway.commands.selection import Done, Filter, states

_FRESH = 5.0  # seconds: an older snapshot means that no dispatcher runs


def dispatching(spool: Spool) -> bool:
    """Whether a dispatcher runs on this spool, as its last snapshot tells."""
    snapshot = spool.status()
    return snapshot is not None and time.time() - snapshot["at"] < _FRESH


def counted(number: int, what: str) -> str:
    """A number of things, in words."""
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number} {what if number == 1 else plural}"


def ago(at: float) -> str:
    """How long ago that was, in the two largest units; `at` in seconds since the epoch."""
    left = max(0, round(time.time() - at))
    words: list[str] = []
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, seconds)
        if number or (unit == "s" and not words):
            words.append(f"{number} {unit}")
    return " ".join(words[:2])


def status(settings: Settings, console: Console, *, as_json: bool) -> None:
    """Print every lane: what is pending, delivered and dead, and its circuit."""
    spool = Spool(settings.spool)
    runs = dispatching(spool)
    view = (spool.status() if runs else None) or _from_spool(settings, spool)
    if as_json:
        console.print_json(json.dumps({"dispatching": runs} | view))
        return
    if not runs:
        console.print(
            "[yellow]No dispatcher runs on this spool[/]: nothing moves; counts are read from the spool."
        )
    elif not view["redis"]:
        console.print("[yellow]Redis does not answer the dispatcher[/]: nothing moves until it does.")
    table = Table()
    for heading in (
        "destination", "AE title", "address", "circuit", "pending", "sending", "delivered", "dead",
    ):  # fmt: skip
        table.add_column(heading, overflow="fold")
    for lane in view["lanes"]:
        table.add_row(
            lane["destination"], lane["title"], lane["address"], lane["circuit"], str(lane["pending"]),
            str(lane.get("sending", 0)), str(lane["delivered"]), str(lane["dead"]),
        )  # fmt: skip
    console.print(table)
    for line in _remarks(view):
        console.print(line, soft_wrap=True, highlight=False)
    console.print(
        f"{view['instances']} instances on their way, {view['parked']} parked with a dead delivery, "
        f"{view['quarantined']} quarantined, {view['batches']} batches in Celery, "
        f"{view['orders']} orders not carried out yet",
        soft_wrap=True,
    )


def _remarks(view: dict[str, Any]) -> Iterator[str]:
    """What asks for a look, a line each."""
    for lane in view["lanes"]:
        name = lane["destination"]
        if lane.get("probe_at"):
            wait = max(0, round(lane["probe_at"] - time.time()))
            yield f"{name}: {lane['reason']}; asks again in {wait} s"
        if lane["title"] == NOT_CONFIGURED and lane["pending"]:
            yield (
                f"{name}: {lane['pending']} pending, and the configuration has no such destination: put it "
                "back, or `dicomferry reroute`"
            )
    if any(lane["dead"] for lane in view["lanes"]):
        yield "dead deliveries: `dicomferry dead list` says why, `dead retry` and `dead discard` end it"
    if view["quarantined"]:
        yield "quarantined: `dicomferry quarantine list` says why"


def _from_spool(settings: Settings, spool: Spool) -> dict[str, Any]:
    found = list(states(spool))
    pending = Counter(name for state in found for name in state.pending)
    delivered = Counter(name for state in found for name in state.delivered)
    dead = Counter(name for state in found for name in state.dead)
    known = {destination.name: destination for destination in settings.destination}
    lanes = []
    for name in dict.fromkeys([*known, *pending, *dead]):
        destination = known.get(name)
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


def dead_list(found: list[Done], *, as_json: bool) -> None:
    """Print dead deliveries, by destination and reason, on standard output."""
    if as_json:
        sys.stdout.write(json.dumps([_dead_record(done) for done in found], indent=2) + "\n")
        return
    together: dict[tuple[str, str], list[Done]] = {}
    for done in found:
        together.setdefault((done.destination, done.reason), []).append(done)
    for (destination, reason), group in together.items():
        sys.stdout.write(f"{destination}: {reason} ({len(group)})\n")
        sys.stdout.writelines(f"  {_dead_line(done)}\n" for done in group)
    sys.stdout.write(f"dead deliveries: {len(found)}\n")


def _dead_line(done: Done) -> str:
    instance, meaning = done.instance, _meaning(done.status)
    parts = [instance.sop_instance_uid, instance.modality, f"study {instance.study_instance_uid or 'none'}"]
    if meaning not in done.reason:
        parts.append(f"last answer: {meaning}")
    if done.attempts:
        parts.append(counted(done.attempts, "attempt"))
    return "  ".join(part for part in (*parts, f"dead for {ago(done.at)}") if part)


def _meaning(status: int | None) -> str:
    return "" if status is None else of_status(status).words


def _dead_record(done: Done) -> dict[str, Any]:
    instance = done.instance
    return {
        "destination": done.destination,
        "sop_instance_uid": instance.sop_instance_uid,
        "study_instance_uid": instance.study_instance_uid,
        "series_instance_uid": instance.series_instance_uid,
        "modality": instance.modality,
        "instance": instance.id,
        "reason": done.reason,
        "status": done.status,
        "meaning": _meaning(done.status),
        "attempts": done.attempts,
        "at": done.at,
    }


def explain(settings: Settings, sop_instance_uid: str, console: Console) -> bool:
    """Print what happened to a SOP instance and why; False where nobody has heard of it."""
    spool = Spool(settings.spool)
    lines = lines_of(spool.history, sop_instance_uid)
    found = list(states(spool, Filter(sop_instance_uid=sop_instance_uid)))
    for state in found:
        _print_state(spool, state, console)
    if lines:
        console.print(_history(lines))
    elif not found:
        console.print(f"{sop_instance_uid}: neither on the spool nor in the history: never received here")
    return bool(lines or found)


def _print_state(spool: Spool, state: State, console: Console) -> None:
    instance = state.instance
    console.print(_received(instance))
    for record in spool.rendition_records(instance.id):
        console.print(_rendition(record))
    for name in dict.fromkeys((*state.destinations, *sorted(state.delivered))):
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
