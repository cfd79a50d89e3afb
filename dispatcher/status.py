"""What `dicomferry status` shows: the queue manager's view in plain values."""

from typing import Any

from dicomferry.spool import Spool
from dispatcher.circuit import Circuit
from dispatcher.lanes import Lane, Place
from dispatcher.manager import QueueManager


def snapshot(manager: QueueManager, spool: Spool, *, at: float, read_at: float) -> dict[str, Any]:
    """The state of every lane; times in seconds since the epoch.

    `at` is now, and tells how fresh the snapshot is; `read_at` when the spool had been read at start.
    """
    return {
        "at": at,
        "read_at": read_at,
        "lanes": [_lane(lane) for lane in manager.lanes.values()],
        "instances": len(manager.entries),
        "parked": len(manager.parked),
        "quarantined": sum(1 for _ in spool.quarantine.iterdir()),
        "batches": len(manager.outstanding),
    }


def _lane(lane: Lane) -> dict[str, Any]:
    circuit = lane.circuit
    return {
        "destination": lane.destination.name,
        "title": lane.destination.title,
        "address": f"{lane.destination.host}:{lane.destination.port}",
        "circuit": circuit.state.value,
        "reason": circuit.reason,
        "probe_at": circuit.probe_at if circuit.state is Circuit.OPEN else None,
        "pending": lane.pending,
        "rendering": lane.counts[Place.RENDERING],
        "ready": lane.counts[Place.READY],
        "sending": lane.counts[Place.SENDING],
        "delivered": lane.delivered,
        "dead": lane.dead,
    }
