"""Circuits: how often an absent workstation is asked."""

import pytest

from dispatcher.circuit import (
    FIRST_PROBE,
    JITTER,
    LAST_PROBE,
    Circuit,
    CircuitState,
    closed,
    on_trial,
    opened,
)


def test_probes_double_from_five_seconds_to_ten_minutes():
    circuit, delays = CircuitState(), []
    for _ in range(12):
        circuit = opened(circuit, 1000.0, "connection refused", 0.5)
        delays.append(circuit.probe_at - 1000.0)
    assert delays[:4] == [FIRST_PROBE, 10.0, 20.0, 40.0]
    assert delays[-1] == LAST_PROBE


@pytest.mark.parametrize("chance", [0.0, 0.999])
def test_jitter_stays_within_its_share_of_the_delay(chance):
    delay = opened(CircuitState(), 0.0, "", chance).probe_at
    assert FIRST_PROBE * (1 - JITTER) <= delay <= FIRST_PROBE * (1 + JITTER)


def test_an_answered_probe_allows_a_trial_and_not_more():
    circuit = on_trial(opened(CircuitState(), 0.0, "refused", 0.5))
    assert circuit.state is Circuit.TRIAL


def test_a_trial_that_fails_goes_on_doubling():
    circuit = on_trial(opened(CircuitState(), 0.0, "refused", 0.5))
    assert opened(circuit, 0.0, "refused", 0.5).probe_at == 2 * FIRST_PROBE


def test_an_object_that_was_taken_closes_the_circuit_and_forgets_the_failures():
    circuit = closed(on_trial(opened(CircuitState(), 0.0, "refused", 0.5)))
    assert circuit == CircuitState()


def test_an_answer_leaves_a_closed_circuit_closed():
    assert on_trial(CircuitState()).state is Circuit.CLOSED
