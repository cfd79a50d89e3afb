"""Whose fault it is where a peer fails over an object: the object's, if others pass, else the peer's.

A peer fails over an object if it answers "out of resources" (A7xx), falls silent, aborts or closes while it
is sent. Then another object gets a turn, up to `TURNS` in a row. If one is delivered, the failure counts as
an attempt of the object, and so does each further one. If none is, the circuit opens, and no object loses an
attempt.

Pure: no socket, clock, Celery or disk.
"""

from dicomferry.messages.events import Unreachable
from dispatcher import circuit as circuits
from dispatcher.circuit import Circuit
from dispatcher.commands import CountAttempt
from dispatcher.lanes import TURNS, Delivery, Doubt, Lane, Place
from dispatcher.state import QueueState


class Suspects:
    """The deliveries of all lanes over which their peers failed."""

    def __init__(self, state: QueueState) -> None:
        self._state = state

    def add(self, lane: Lane, delivery: Delivery, event: Unreachable, now: float) -> None:
        """The peer failed over this object: others go first, and tell whose fault it is."""
        state = self._state
        if delivery.doubt is Doubt.PROVEN:
            self._count(lane, delivery, now)
            return
        delivery.doubt = Doubt.ACCUSED
        lane.suspects.pop(delivery, None)
        lane.suspects[delivery] = None
        lane.turns -= 1
        for suspect in lane.suspects:
            if suspect.place is Place.READY:
                lane.move(suspect, Place.HELD)
        if lane.circuit.state is Circuit.OPEN:
            return
        untried = lane.untried
        if untried and lane.turns > 0:
            lane.circuit = circuits.another_turn(lane.circuit, event.reason)
            return
        if event.broke_off and not untried and len(lane.suspects) == 1:
            # Alone in its lane; and before each further attempt the peer answers a probe.
            self._count(lane, delivery, now)
        if sum(suspect.doubt is Doubt.ACCUSED for suspect in lane.suspects) > 1:
            self.absolve(lane)
        state.open_circuit(lane, now, event.reason, over_objects=True)

    def absolve(self, lane: Lane) -> None:
        """The peer is at fault."""
        for suspect in lane.suspects:
            suspect.doubt = Doubt.ABSOLVED

    def acquit(self, lane: Lane, delivery: Delivery) -> None:
        """The peer has answered for this object in another way."""
        if delivery.doubt is not Doubt.NONE:
            delivery.doubt = Doubt.NONE
            lane.suspects.pop(delivery, None)

    def convict(self, lane: Lane, now: float) -> None:
        """Another object was delivered: what the peer failed over before is itself the cause."""
        lane.turns = TURNS
        for suspect in list(lane.suspects):
            if suspect.doubt is Doubt.ACCUSED and suspect.place in {Place.HELD, Place.READY}:
                suspect.doubt = Doubt.PROVEN
                self._count(lane, suspect, now)

    def review(self, lane: Lane, now: float) -> None:
        """Release what is held, when its turn has come, and let what was not tried yet have its own."""
        held = [suspect for suspect in lane.suspects if suspect.place is Place.HELD]
        if not held:
            return
        circuit = lane.circuit
        if circuit.state is Circuit.CLOSED:
            for suspect in held:
                self._state.make_ready(suspect)
        elif circuit.state is Circuit.TRIAL:
            if not (lane.untried or lane.sending or lane.counts[Place.READY]):
                self._state.make_ready(held[0])
        elif circuit.over_objects and lane.untried:
            if lane.turns > 0:
                lane.circuit = circuits.another_turn(circuit, circuit.reason)
            elif (hastened := circuits.hastened(circuit, now)) != circuit:
                lane.circuit = hastened
                self._state.timers.at(hastened.probe_at, lane.destination.name)

    def _count(self, lane: Lane, delivery: Delivery, now: float) -> None:
        state, name, most = self._state, lane.destination.name, lane.destination.max_attempts
        delivery.attempts += 1
        state.add_command(CountAttempt(delivery.entry.id, name))
        proven = delivery.doubt is Doubt.PROVEN
        if delivery.attempts >= most:
            words = f"{delivery.last} while it was being sent, {delivery.attempts} times; " + (
                "others are delivered" if proven else "it answers otherwise"
            )
            state.mark_dead(delivery, words, delivery.status, delivery.attempts)
            state.retire_if_done(delivery.entry, now)
            lane.limit = lane.destination.max_associations  # it may have been lowered over this object
            return
        why = "others are delivered" if proven else "nothing else is to be sent, and the peer answers"
        state.note(delivery.entry, "attempt", name, f"{delivery.attempts} of {most} failed: {why}")
        if proven:
            state.delay_after_attempt(delivery, now)
