"""`dicomferry dead list`: dead deliveries with their reasons, for people or as JSON."""

import json
import sys
from typing import Any

from forwarder.outcome import of_status
from gateway.commands.selection import EndedDelivery
from gateway.commands.words import ago, counted, say


def print_dead_list(deliveries: list[EndedDelivery], *, as_json: bool) -> None:
    """Print dead deliveries to standard output, grouped by destination and reason."""
    if as_json:
        sys.stdout.write(json.dumps([_record(delivery) for delivery in deliveries], indent=2) + "\n")
        return
    groups: dict[tuple[str, str], list[EndedDelivery]] = {}
    for delivery in deliveries:
        groups.setdefault((delivery.destination, delivery.reason), []).append(delivery)
    for (destination, reason), group in groups.items():
        say(f"{destination}: {reason} ({len(group)})")
        for delivery in group:
            say(f"  {_line(delivery)}")
    say(f"dead deliveries: {len(deliveries)}")


def _line(delivery: EndedDelivery) -> str:
    instance, meaning = delivery.instance, _meaning(delivery.status)
    parts = [instance.sop_instance_uid, instance.modality, f"study {instance.study_instance_uid or 'none'}"]
    if meaning not in delivery.reason:
        parts.append(f"last answer: {meaning}")
    if delivery.attempts:
        parts.append(counted(delivery.attempts, "attempt"))
    return "  ".join(part for part in (*parts, f"dead for {ago(delivery.at)}") if part)


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
    }
