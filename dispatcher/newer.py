"""Whether a destination has, or is to get, a newer object with the same SOP Instance UID.

A destination keeps what comes last, so an order that sends an older object once more would silently put it
over the newer one. While both are on the spool, the spool tells; of what has left it, the history does.
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime

from dicomferry.spool.instance import instance_id
from dicomferry.spool.spool import Spool
from dispatcher.history import lines_of


@dataclass(frozen=True, slots=True)
class Received:
    """An object: which it is, and when it came. `instance` is empty for one that is in quarantine."""

    sop_instance_uid: str
    instance: str
    at: float  # seconds since the epoch


def newer(spool: Spool, keep_history: float, older: Received, destination: str) -> str:
    """What is known of an object newer than `older` for the destination, in words; empty: there is none.

    Where the history does not reach back to the arrival of `older`, the words say that it cannot tell.
    """
    return (
        _on_spool(spool, older, destination)
        or _in_history(spool, older, destination)
        or _out_of_reach(keep_history, older)
    )


def _on_spool(spool: Spool, older: Received, destination: str) -> str:
    names = spool.namesakes(older.instance or instance_id(older.sop_instance_uid, "", ()))
    states = [state for name in names if name != older.instance and (state := spool.state(name)) is not None]
    later = [s for s in states if s.instance.received_at > older.at and destination in s.destinations]
    if not later:
        return ""
    last = max(later, key=lambda state: state.instance.received_at)
    if destination in last.dead:
        standing = "is dead for this destination too"
    elif marker := spool.marker(last.instance.id, "delivered", destination):
        standing = f"was delivered at {_clock(marker.get('at', 0.0))}"
    else:
        standing = "waits for this destination"
    return f"{_WORDS} was received at {_clock(last.instance.received_at)} and {standing}"


def _in_history(spool: Spool, older: Received, destination: str) -> str:
    lines = lines_of(spool.history, older.sop_instance_uid)
    received = {line.instance: line.at for line in lines if line.what == "received"}
    delivered = [
        line
        for line in lines
        if line.what == "delivered"
        and line.destination == destination
        and line.instance != older.instance
        and received.get(line.instance, line.at) > older.at
    ]
    if not delivered:
        return ""
    last = max(delivered, key=lambda line: line.at)
    came = received.get(last.instance)
    arrival = f"was received at {_clock(came)} and " if came else ""
    return f"{_WORDS} {arrival}was delivered at {_clock(last.at)}"


def _out_of_reach(keep_history: float, older: Received) -> str:
    if time.time() - older.at <= keep_history:
        return ""
    return (
        f"{_WORDS} may have been delivered: this one came at {_clock(older.at)}, and the history does not "
        "reach back so far (keep_history)"
    )


_WORDS = "a newer object with this SOP Instance UID"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(" ", "seconds")
