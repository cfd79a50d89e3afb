"""Whether a destination is reachable: a circuit that opens on failure and asks again, ever more rarely."""

from dataclasses import dataclass, replace
from enum import StrEnum

FIRST_PROBE = 5.0  # seconds
LAST_PROBE = 600.0
JITTER = 0.2  # of the delay, both ways, so that a hundred lanes don't probe a restarted switch at once


class Circuit(StrEnum):
    """The states of a circuit."""

    CLOSED = "closed"  # work flows
    OPEN = "open"  # nothing but probes
    TRIAL = "trial"  # a probe was answered: one object, then closed


@dataclass(frozen=True, slots=True)
class CircuitState:
    """A circuit at one moment; every change makes a new one."""

    state: Circuit = Circuit.CLOSED
    failures: int = 0  # in a row
    probe_at: float = 0.0  # when an open circuit asks again, seconds since the epoch
    reason: str = ""  # why it opened, in words


def tripped(circuit: CircuitState, now: float, reason: str, chance: float) -> CircuitState:
    """After a failure; `chance` in [0, 1) spreads the next probe."""
    failures = circuit.failures + 1
    delay = min(FIRST_PROBE * 2 ** min(failures - 1, 16), LAST_PROBE)
    return CircuitState(Circuit.OPEN, failures, now + delay * (1 - JITTER + 2 * JITTER * chance), reason)


def answered(circuit: CircuitState) -> CircuitState:
    """After a probe was answered: one object may try."""
    return replace(circuit, state=Circuit.TRIAL) if circuit.state is Circuit.OPEN else circuit


def proved(circuit: CircuitState) -> CircuitState:
    """After the peer took or refused an object: it works."""
    return circuit if circuit.state is Circuit.CLOSED else CircuitState()
