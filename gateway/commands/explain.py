"""`dicomferry explain`: what spool, quarantine and history say of an instance, a series or a study.

Needs no Redis and no running part.
"""

import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import typer

from dicomferry.dicom.syntaxes import label
from dicomferry.settings import Settings
from dicomferry.spool.instance import Instance, State
from dicomferry.spool.spool import Spool
from dicomferry.text import shown_value
from dispatcher.history import Row, lines_of, lines_of_lane, received_as, received_in
from gateway.commands.selection import Filter, states
from gateway.commands.status import dispatcher_runs, lane_state
from gateway.commands.words import aligned, counted, lasting, local_time, width, wrapped
from ingest.quarantine import quarantined

_ID = re.compile(r"[0-9a-f]{6,64}")
_AROUND = " \t\r\n\0\"'`,;:()[]{}<>"
_MAX_LISTED = 200  # instances of a study or a series that are listed
_MAX_OF_LANE = 20  # lines of a destination's history
_BEFORE = 7 * 86_400.0  # seconds before it came, that a destination may have been away


def explain(settings: Settings, what: str) -> bool:
    """Print what is known of a SOP Instance, Series or Study UID, or of an id; False if nothing is."""
    # As it is copied: with blanks, quotes, and the key that stands before it in a line of the log.
    name = re.sub(r"^\w+=", "", what.strip(_AROUND)).strip(_AROUND)
    spool = Spool(settings.spool)
    # Without a name it would be all that has no UID.
    found = bool(name) and (
        _explain_instance(spool, name)
        or _explain_many(spool, name, "series")
        or _explain_many(spool, name, "study")
        or _explain_id(spool, name)
    )
    if not found:
        _print(
            f"{shown_value(name) or 'nothing'}: not on the spool, not in quarantine, and not in the history, "
            f"which is kept for {lasting(settings.keep_history)} (keep_history): never received here, or "
            "longer ago"
        )
    return found


def _explain_instance(spool: Spool, uid: str) -> bool:
    history = lines_of(spool.history, uid)
    on_spool = list(states(spool, Filter(sop_instance_uid=uid)))
    kept = [kept for kept in quarantined(spool) if kept.sop_instance_uid == uid]
    lanes = _lanes(spool)
    for state in on_spool:
        for line in _describe(spool, state, lanes, history):
            _print(line)
    for item in kept:
        _print(f"in quarantine as {item.id} since {local_time(item.received_at)}: {item.reason}")
    _print_history([*history, *_lane_lines(spool, history, on_spool)])
    return bool(history or on_spool or kept)


def _explain_many(spool: Spool, uid: str, level: Literal["study", "series"]) -> bool:
    """A series or a study: a line for each of its instances, and what became of it."""
    on_spool = {
        state.instance.sop_instance_uid: state
        for state in states(spool)
        if getattr(state.instance, f"{level}_instance_uid") == uid
    }
    received = received_in(spool.history, level, uid, _MAX_LISTED)
    uids = list(dict.fromkeys([*on_spool, *(row.sop_instance_uid for row in received)]))
    if not uids:
        return False
    more = "+" if len(received) == _MAX_LISTED else ""
    _print(f"{level} {uid}: {len(uids)}{more} SOP instances; `dicomferry explain` of one tells more")
    rows = []
    for sop in uids[:_MAX_LISTED]:
        state = on_spool.get(sop)
        words = "; ".join(_outcomes(state)) if state else _ended(lines_of(spool.history, sop))
        rows.append((f"  {sop}", words))
    for line in aligned(rows, width()):
        typer.echo(line)
    return True


def _explain_id(spool: Spool, prefix: str) -> bool:
    """An id, or its beginning, as lines of the log and error comments of C-STORE show it."""
    if not _ID.fullmatch(prefix):
        return False
    found = {row.sop_instance_uid for row in received_as(spool.history, prefix, 10)}
    found |= {s.instance.sop_instance_uid for s in states(spool) if s.instance.id.startswith(prefix)}
    for uid in sorted(found):
        _print(f"{prefix}: SOP instance {uid}")
        _explain_instance(spool, uid)
    kept = [kept for kept in quarantined(spool) if kept.id.startswith(prefix)]
    for item in kept:
        _print(
            f"{item.id}: in quarantine since {local_time(item.received_at)}: {item.reason}; SOP instance "
            f"{item.sop_instance_uid}, from {item.calling_ae_title} ({item.peer}) to {item.called_ae_title}"
        )
    return bool(found or kept)


def _describe(
    spool: Spool, state: State, lanes: dict[str, dict[str, Any]], history: Sequence[Row]
) -> Iterator[str]:
    instance = state.instance
    yield _describe_instance(instance)
    yield f"  study {instance.study_instance_uid}"
    yield f"  series {instance.series_instance_uid}"
    yield from (f"  {note}" for note in instance.notes)
    for record in spool.rendition_records(instance.id):
        yield _describe_rendition(record)
    for name in dict.fromkeys((*state.destinations, *sorted(state.delivered))):
        if marker := spool.marker(instance.id, "delivered", name):
            syntax = label(str(marker.get("transfer_syntax_uid", "")))
            at, why = local_time(marker.get("at")), marker.get("why", "")
            note = f"; {marker['note']}" if marker.get("note") else ""
            yield f"  {name}: delivered as {syntax} at {at}: {why}{note}"
        elif marker := spool.marker(instance.id, "dead", name):
            yield f"  {name}: dead since {local_time(marker.get('at'))}: {marker.get('reason', '')}"
        else:
            postponed = _postponed([row for row in history if row.instance == instance.id], name)
            yield (
                f"  {name}: pending" + _why_pending(state.attempts.get(name, 0), lanes.get(name)) + postponed
            )


def _why_pending(attempts: int, lane: dict[str, Any] | None) -> str:
    words = f", {counted(attempts, 'failed attempt')}" if attempts else ""
    if lane is None:
        return words + "; no dispatcher runs"
    if lane["circuit"] != "closed":
        return f"{words}; {lane['title']} is {lane_state(lane)}"
    return f"{words}; {lane['title']} is answering, {lane['pending']} wait for it"


def _postponed(history: Sequence[Row], destination: str) -> str:
    """What an instance waits for before it can be rendered, and since when; empty: for nothing."""
    since: Row | None = None
    for row in history:
        if row.destination in {"", destination}:
            since = (since or row) if row.what == "postponed" else None
    return f"; since {local_time(since.at)} it {since.words}" if since else ""


def _describe_instance(instance: Instance) -> str:
    return (
        f"instance {instance.id} on the spool: received {local_time(instance.received_at)} as "
        f"{label(instance.transfer_syntax_uid)} from {instance.calling_ae_title} ({instance.peer}) to "
        f"{instance.called_ae_title}, {instance.modality or 'no modality'}, {instance.size} bytes"
    )


def _describe_rendition(record: dict[str, Any]) -> str:
    before, after = record.get("digest_before", ""), record.get("digest_after", "")
    pixels = f"pixels {before}" + (f", decoded back {after}" if after not in ("", before) else "")
    return (
        f"  rendition {label(str(record.get('transfer_syntax_uid', '')))}: "
        f"{record.get('verified') or 'not verified'}" + (f"; {pixels}" if before else "")
    )


def _outcomes(state: State) -> Iterator[str]:
    for name in dict.fromkeys((*state.destinations, *sorted(state.delivered))):
        done = "dead" if name in state.dead else "pending"
        yield f"{name} {'delivered' if name in state.delivered else done}"


def _ended(history: Sequence[Row]) -> str:
    """What became of an instance that has left the spool."""
    ends = {row.destination: row.what for row in history if row.what in {"delivered", "discarded"}}
    return "; ".join(f"{name} {what}" for name, what in ends.items()) or "no longer on the spool"


def _lanes(spool: Spool) -> dict[str, dict[str, Any]]:
    """The dispatcher's view of its lanes, by destination; empty where none runs."""
    snapshot = spool.status() if dispatcher_runs(spool) else None
    return {lane["destination"]: lane for lane in snapshot["lanes"]} if snapshot else {}


def _lane_lines(spool: Spool, history: Sequence[Row], found: Sequence[State]) -> Iterator[Row]:
    """When the destinations of an instance stopped answering and answered again, while it was on the way."""
    if not history:
        return
    names = {row.destination for row in history} | {name for state in found for name in state.destinations}
    first = min(row.at for row in history)
    last = time.time() if found else max(row.at for row in history)
    for name in sorted(names - {""}):
        lines = lines_of_lane(spool.history, name, first - _BEFORE, last, _MAX_OF_LANE)
        earlier = [row for row in lines if row.at < first]
        # It may have been away already when the instance came.
        yield from (*(row for row in earlier[-1:] if row.what == "not answering"), *lines[len(earlier) :])


def _print_history(lines: Sequence[Row]) -> None:
    """Print lines in the order of time, each with the time since the one before."""
    if not lines:
        return
    rows = [("when", "after", "what", "destination", "why")]
    before: float | None = None
    for row in sorted(lines, key=lambda row: row.at):
        after = "" if before is None else _short(row.at - before)
        rows.append((local_time(row.at), after, row.what, row.destination, row.words))
        before = row.at
    for line in aligned(rows, width()):
        typer.echo(line)


def _short(seconds: float) -> str:
    return f"{seconds:.3f} s" if 0 <= seconds < 10 else lasting(seconds)


def _print(text: str) -> None:
    typer.echo(wrapped(text, width(), "    "))
