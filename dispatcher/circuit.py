"""The circuit breaker of a destination: it opens on failure, then probes at growing intervals."""

from dataclasses import dataclass, replace
from enum import StrEnum

FIRST_PROBE = 5.0  # seconds
LAST_PROBE = 600.0
OTHERS_WAIT = 30.0  # at the most, where the peer failed over objects: for what was not tried yet
JITTER = 0.2  # of the delay, both ways, so that a hundred lanes don't probe a restarted switch at once


class Circuit(StrEnum):
    """The states of a circuit."""

    CLOSED = "closed"  # work flows
    OPEN = "open"  # only probes
    TRIAL = "trial"  # one object may go: the peer answered a probe, or failed over another object


@dataclass(frozen=True, slots=True)
class CircuitState:
    """A circuit at one moment; every change makes a new one."""

    state: Circuit = Circuit.CLOSED
    failures: int = 0  # in a row
    since: float = 0.0  # when it left "closed", seconds since the epoch
    probe_at: float = 0.0  # when an open circuit is probed, seconds since the epoch
    reason: str = ""  # why it opened, in words
    over_objects: bool = False  # the peer answers, and failed while it was sent objects


def opened(
    circuit: CircuitState, now: float, reason: str, chance: float, *, over_objects: bool = False
) -> CircuitState:
    """The circuit after a failure; `chance` in [0, 1) spreads the next probe."""
    failures = circuit.failures + 1
    delay = min(FIRST_PROBE * 2 ** min(failures - 1, 16), LAST_PROBE)
    since = now if circuit.state is Circuit.CLOSED else circuit.since
    probe_at = now + delay * (1 - JITTER + 2 * JITTER * chance)
    return CircuitState(Circuit.OPEN, failures, since or now, probe_at, reason, over_objects)


def another_turn(circuit: CircuitState, reason: str) -> CircuitState:
    """The circuit after the peer failed over an object: another one may go, to tell whose fault it is."""
    return replace(circuit, state=Circuit.TRIAL, reason=reason)


def hastened(circuit: CircuitState, now: float) -> CircuitState:
    """The circuit opened over objects, where one waits that was not tried yet: it is probed sooner."""
    return replace(circuit, probe_at=min(circuit.probe_at, now + OTHERS_WAIT))


def on_trial(circuit: CircuitState) -> CircuitState:
    """The circuit after the peer answered a probe: one object may go."""
    return replace(circuit, state=Circuit.TRIAL) if circuit.state is Circuit.OPEN else circuit


def closed(circuit: CircuitState) -> CircuitState:
    """The circuit after the peer accepted or refused an object: it is reachable."""
    return circuit if circuit.state is Circuit.CLOSED else CircuitState()
