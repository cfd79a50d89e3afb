"""The circuit breaker of a destination: it opens on failure, then probes at growing intervals."""

from dataclasses import dataclass, replace
from enum import StrEnum

FIRST_PROBE = 5.0  # seconds
LAST_PROBE = 600.0
JITTER = 0.2  # of the delay, both ways, so that a hundred lanes don't probe a restarted switch at once


class Circuit(StrEnum):
    """The states of a circuit."""

    CLOSED = "closed"  # work flows
    OPEN = "open"  # only probes
    TRIAL = "trial"  # the peer answered a probe: one object may go, then the circuit closes


@dataclass(frozen=True, slots=True)
class CircuitState:
    """A circuit at one moment; every change makes a new one."""

    state: Circuit = Circuit.CLOSED
    failures: int = 0  # in a row
    since: float = 0.0  # when it left "closed", seconds since the epoch
    probe_at: float = 0.0  # when an open circuit is probed, seconds since the epoch
    reason: str = ""  # why it opened, in words


def opened(circuit: CircuitState, now: float, reason: str, chance: float) -> CircuitState:
    """The circuit after a failure; `chance` in [0, 1) spreads the next probe."""
    failures = circuit.failures + 1
    delay = min(FIRST_PROBE * 2 ** min(failures - 1, 16), LAST_PROBE)
    since = now if circuit.state is Circuit.CLOSED else circuit.since
    probe_at = now + delay * (1 - JITTER + 2 * JITTER * chance)
    return CircuitState(Circuit.OPEN, failures, since, probe_at, reason)


def on_trial(circuit: CircuitState) -> CircuitState:
    """The circuit after the peer answered a probe: one object may go."""
    return replace(circuit, state=Circuit.TRIAL) if circuit.state is Circuit.OPEN else circuit


def closed(circuit: CircuitState) -> CircuitState:
    """The circuit after the peer accepted or refused an object: it is reachable."""
    return circuit if circuit.state is Circuit.CLOSED else CircuitState()
