"""The snapshot that `dicomferry status` shows: the queue manager's state in plain values."""

from typing import Any

from dicomferry.spool import orders
from dicomferry.spool.spool import Spool
from dicomferry.spool.tally import Tally
from dispatcher.circuit import Circuit
from dispatcher.lanes import Lane, Place
from dispatcher.manager import QueueManager

NOT_CONFIGURED = "(not in the configuration)"


def snapshot(
    manager: QueueManager,
    spool: Spool,
    quarantine: Tally,
    *,
    at: float,
    read_at: float,
    redis: bool,
    ahead: float = 0.0,
) -> dict[str, Any]:
    """The state of every lane; times in seconds since the epoch.

    `at` is now; `read_at` is when the spool had been read at start; `redis`: Redis answers. `ahead` is how
    far the system clock was set forward since the start; circuits don't count it.
    """
    orphans, dead = manager.orphans(), manager.dead_elsewhere
    quarantined, quarantined_bytes = quarantine.count()
    return {
        "at": at,
        "read_at": read_at,
        "redis": redis,
        "lanes": [_lane(lane, ahead) for lane in manager.lanes.values()]
        + [_no_lane(name, orphans[name], dead[name]) for name in sorted(+(orphans + dead))],
        "instances": len(manager.entries),
        "parked": len(manager.parked),
        "dead_objects": len(manager.with_dead),
        "dead_bytes": manager.with_dead.bytes,
        "kept_objects": len(manager.kept),
        "kept_bytes": manager.kept.bytes,
        "quarantined": quarantined,
        "quarantined_bytes": quarantined_bytes,
        "batches": len(manager.outstanding),
        "orders": len(orders.outstanding(spool.orders)),
    }


def _lane(lane: Lane, ahead: float) -> dict[str, Any]:
    circuit = lane.circuit
    return {
        "destination": lane.destination.name,
        "title": lane.destination.title,
        "address": f"{lane.destination.host}:{lane.destination.port}",
        "circuit": circuit.state.value,
        "reason": circuit.reason,
        "since": circuit.since + ahead if circuit.since else None,
        "probe_at": circuit.probe_at + ahead if circuit.state is Circuit.OPEN else None,
        "pending": lane.pending,
        "rendering": lane.counts[Place.RENDERING],
        "ready": lane.counts[Place.READY],
        "sending": lane.counts[Place.SENDING],
        "delivered": lane.delivered,
        "dead": lane.dead,
    }


def _no_lane(name: str, pending: int, dead: int) -> dict[str, Any]:
    """A destination that is on the spool, but not in the configuration."""
    return {
        "destination": name,
        "title": NOT_CONFIGURED,
        "address": "",
        "circuit": "unknown",
        "reason": "",
        "since": None,
        "probe_at": None,
        "pending": pending,
        "rendering": 0,
        "ready": 0,
        "sending": 0,
        "delivered": 0,
        "dead": dead,
    }
