"""`dicomferry explain`: what the spool and the history say of one SOP instance.

Needs no Redis and no running part.
"""

from typing import Any

from rich.console import Console
from rich.table import Table

from dicomferry.dicom.syntaxes import label
from dicomferry.settings import Settings
from dicomferry.spool.instance import Instance, State
from dicomferry.spool.spool import Spool
from dispatcher.history import Row, lines_of
from gateway.commands.selection import Filter, states
from gateway.commands.words import local_time


def print_explanation(settings: Settings, sop_instance_uid: str, console: Console) -> bool:
    """Print what happened to a SOP instance and why; False where it was never received."""
    spool = Spool(settings.spool)
    history = lines_of(spool.history, sop_instance_uid)
    on_spool = list(states(spool, Filter(sop_instance_uid=sop_instance_uid)))
    for state in on_spool:
        _print_state(spool, state, console)
    if history:
        console.print(_history_table(history))
    elif not on_spool:
        console.print(f"{sop_instance_uid}: neither on the spool nor in the history: never received here")
    return bool(history or on_spool)


def _print_state(spool: Spool, state: State, console: Console) -> None:
    instance = state.instance
    console.print(_describe_instance(instance))
    for record in spool.rendition_records(instance.id):
        console.print(_describe_rendition(record))
    for name in dict.fromkeys((*state.destinations, *sorted(state.delivered))):
        if marker := spool.marker(instance.id, "delivered", name):
            syntax = label(str(marker.get("transfer_syntax_uid", "")))
            console.print(
                f"  {name}: delivered as {syntax} at {local_time(marker.get('at'))}: {marker.get('why', '')}"
                + (f"; {marker['note']}" if marker.get("note") else "")
            )
        elif marker := spool.marker(instance.id, "dead", name):
            console.print(f"  {name}: dead since {local_time(marker.get('at'))}: {marker.get('reason', '')}")
        else:
            attempts = state.attempts.get(name, 0)
            console.print(f"  {name}: pending" + (f", refused {attempts} times" if attempts else ""))


def _describe_instance(instance: Instance) -> str:
    return (
        f"instance {instance.id} on the spool: received {local_time(instance.received_at)} as "
        f"{label(instance.transfer_syntax_uid)} from {instance.calling_ae_title} ({instance.peer}) to "
        f"{instance.called_ae_title}, {instance.modality or 'no modality'}, {instance.size} bytes\n"
        f"  study {instance.study_instance_uid}\n  series {instance.series_instance_uid}"
    )


def _describe_rendition(record: dict[str, Any]) -> str:
    before, after = record.get("digest_before", ""), record.get("digest_after", "")
    pixels = f"pixels {before}" + (f", decoded back {after}" if after not in ("", before) else "")
    return (
        f"  rendition {label(str(record.get('transfer_syntax_uid', '')))}: "
        f"{record.get('verified') or 'not verified'}" + (f"; {pixels}" if before else "")
    )


def _history_table(history: list[Row]) -> Table:
    table = Table("when", "what", "destination", "why")
    for at, _, _, what, destination, words in history:
        table.add_row(local_time(at), what, destination, words)
    return table
