"""`dicomferry dead list`: dead deliveries with their reasons, for people or as JSON."""

import json
from typing import Any

import typer

from forwarder.outcome import of_status
from gateway.commands.selection import EndedDelivery
from gateway.commands.words import ago, counted, say, width, wrapped


def print_dead_list(deliveries: list[EndedDelivery], *, as_json: bool) -> None:
    """Print dead deliveries to standard output, grouped by destination and reason, then by study."""
    if as_json:
        typer.echo(json.dumps([_record(delivery) for delivery in deliveries], indent=2))
        return
    columns = width()
    groups: dict[tuple[str, str], dict[str, list[EndedDelivery]]] = {}
    for delivery in deliveries:
        studies = groups.setdefault((delivery.destination, delivery.reason), {})
        studies.setdefault(delivery.instance.study_instance_uid, []).append(delivery)
    for (destination, reason), studies in groups.items():
        typer.echo(wrapped(f"{destination}: {reason} ({sum(map(len, studies.values()))})", columns, "  "))
        for study, group in studies.items():
            say(f"  study {study or 'none'}")
            for delivery in group:
                say(f"    {delivery.instance.sop_instance_uid}")
                typer.echo(wrapped(f"      {_details(delivery)}", columns, "      "))
    typer.echo(f"dead deliveries: {len(deliveries)}")


def _details(delivery: EndedDelivery) -> str:
    meaning = _meaning(delivery.status)
    parts = [delivery.instance.modality, f"dead for {ago(delivery.at)}"]
    if delivery.attempts:
        parts.append(counted(delivery.attempts, "attempt"))
    if meaning not in delivery.reason:
        parts.append(f"last answer: {meaning}")
    if delivery.newer:
        parts.append(f"`dead retry` leaves it alone: {delivery.newer}")
    return ", ".join(part for part in parts if part)


def _meaning(status: int | None) -> str:
    return "" if status is None else of_status(status).words


def _record(delivery: EndedDelivery) -> dict[str, Any]:
    instance = delivery.instance
    return {
        "destination": delivery.destination,
        "sop_instance_uid": instance.sop_instance_uid,
        "study_instance_uid": instance.study_instance_uid,
        "series_instance_uid": instance.series_instance_uid,
        "modality": instance.modality,
        "instance": instance.id,
        "reason": delivery.reason,
        "status": delivery.status,
        "meaning": _meaning(delivery.status),
        "attempts": delivery.attempts,
        "at": delivery.at,
        "newer": delivery.newer,
    }
