"""Probes: asks a peer whether it answers, and what it accepts for the SOP classes that wait.

Pure: no socket, clock, Celery or disk.
"""

from dicomferry.messages import events
from dicomferry.messages.batches import ProbeBatch
from dispatcher import circuit as circuits
from dispatcher.circuit import Circuit
from dispatcher.labels import probe_label
from dispatcher.lanes import TURNS, Asked, Lane, Place
from dispatcher.state import QueueState

FIRST_ASK, LAST_ASK = 5.0, 300.0  # seconds before a peer is asked again, doubling while its answer stays


class Probing:
    """At most one probe for each lane."""

    def __init__(self, state: QueueState) -> None:
        self._state = state

    def probe_if_due(self, lane: Lane, now: float) -> None:
        """Probe a lane whose open circuit has waited long enough, or that has SOP classes to learn."""
        if lane.probe is not None or not lane.pending:
            return
        due = lane.circuit.state is Circuit.OPEN and lane.circuit.probe_at <= now
        classes = tuple(lane.unlearned)
        if not due:
            if lane.circuit.state is Circuit.OPEN or not lane.counts[Place.UNLEARNED]:
                return
            classes = tuple(sop_class for sop_class in classes if lane.may_ask(sop_class, now))
            if not classes:
                return
        batch = ProbeBatch(self._state.new_batch_id(), lane.destination.name, classes)
        lane.probe = batch.id
        self._state.publish(batch, probe_label(lane.destination, classes), ())

    def on_learned(self, event: events.Learned, now: float) -> None:
        """Plan the deliveries that waited for the answer; an answered probe lets one object go."""
        lane = self._state.lanes.get(event.destination)
        if lane is None:
            return
        accepted = {sop_class: frozenset(uids) for sop_class, uids in event.accepted.items()}
        answered = event.probe and lane.probe == event.batch
        if answered:  # a class missing from the answer is not accepted: else it would be probed for ever
            accepted = dict.fromkeys(self._probed_classes(event.batch), frozenset[str]()) | accepted
        changed = {c for c, uids in accepted.items() if lane.accepted.get(c, uids) != uids}
        if changed:  # it was set up anew: its other answers may have changed too
            lane.asked.clear()
        for sop_class in accepted if answered else ():
            times = lane.asked[sop_class].times + 1 if sop_class in lane.asked else 1
            wait = min(FIRST_ASK * 2 ** min(times - 1, 16), LAST_ASK)
            lane.asked[sop_class] = Asked(times, now + wait)
        lane.accepted.update(accepted)
        for sop_class in accepted:
            for delivery in lane.unlearned.pop(sop_class, ()):
                if delivery.place is Place.UNLEARNED:
                    self._state.plan(delivery, told=True)
                    self._state.retire_if_done(delivery.entry, now)
        if answered:
            lane.probe = None
            lane.turns = TURNS
            lane.circuit = circuits.on_trial(lane.circuit)
        self._state.wake(event.destination)

    def _probed_classes(self, batch_id: str) -> tuple[str, ...]:
        job = self._state.outstanding.get(batch_id)
        batch = job.batch if job else None
        return batch.sop_classes if isinstance(batch, ProbeBatch) else ()

    def end_batch(self, batch: ProbeBatch, now: float) -> None:
        """A probe that ended without an answer counts as a failure."""
        lane = self._state.lanes.get(batch.destination)
        if lane is None:
            return
        self._state.wake(batch.destination)
        if lane.probe == batch.id:
            lane.probe = None
            self._state.open_circuit(lane, now, "the probe was lost")
