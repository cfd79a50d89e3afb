"""Sends what is ready in deliver batches, and takes in what the peer answered.

Pure: no socket, clock, Celery or disk.
"""

from dicomferry.dicom.syntaxes import label
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, Parcel
from dispatcher.circuit import Circuit
from dispatcher.labels import deliver_label
from dispatcher.lanes import TURNS, Delivery, Doubt, Lane, Place
from dispatcher.outstanding import Job
from dispatcher.plan import Choice
from dispatcher.state import QueueState
from dispatcher.suspects import Suspects

MAX_DELIVER_OBJECTS, MAX_DELIVER_BYTES = 256, 256 << 20  # of one batch: objects, bytes received
DELIVER_LEAST = 16  # objects: fewer are not divided among the associations of a lane
MAX_GATHERED = 32  # ready objects wait for those being rendered until they are so many,
GATHER_FOR = 0.25  # or for that long, in seconds: every batch costs its messages, however small it is


class Delivering:
    """Deliver batches, as many at once as the lane has associations."""

    def __init__(self, state: QueueState) -> None:
        self._state = state
        self._suspects = Suspects(state)

    def send_ready(self, lane: Lane, now: float) -> None:
        """Make batches of the lane's ready deliveries while it has openings."""
        if lane.suspects:
            self._suspects.review(lane, now)
        openings = lane.openings(self._state.outstanding.left)
        while openings and lane.counts[Place.READY] and not self._is_gathering(lane, now):
            self._send(lane, openings)

    def _is_gathering(self, lane: Lane, now: float) -> bool:
        """Whether the ready deliveries wait a moment for more; sets the timer that ends the wait."""
        enough = lane.counts[Place.READY] >= min(MAX_GATHERED, lane.counts[Place.RENDERING])
        if not enough and not lane.gathers_until:
            lane.gathers_until = now + GATHER_FOR
            self._state.timers.at(lane.gathers_until, lane.destination.name)
        if not enough and now < lane.gathers_until:
            return True
        lane.gathers_until = 0.0
        return False

    def _send(self, lane: Lane, openings: list[str | None]) -> None:
        share = max(-(-lane.counts[Place.READY] // len(openings)), DELIVER_LEAST)
        after = openings.pop(0)
        on_trial = lane.circuit.state is Circuit.TRIAL
        most = 1 if on_trial else min(share, MAX_DELIVER_OBJECTS)
        if on_trial and lane.suspects:
            lane.bring_forward()
        deliveries = lane.take_ready(most, MAX_DELIVER_BYTES)
        if not deliveries:
            return
        parcels = tuple(self._parcel(delivery) for delivery in deliveries)
        for delivery in deliveries:
            lane.move(delivery, Place.SENDING)
        name = lane.destination.name
        more = lane.pending > len(deliveries)
        batch = DeliverBatch(self._state.new_batch_id(), self._state.boot, name, parcels, more, after)
        for delivery in deliveries:
            delivery.batch = batch.id
        lane.begin(batch.id, after)
        instances = tuple(p.instance for p in parcels)
        self._state.publish(batch, deliver_label(lane.destination, deliveries), instances)

    def _parcel(self, delivery: Delivery) -> Parcel:
        choice, state = delivery.choice, self._state
        entry = delivery.entry
        last = len(entry.deliveries) == 1 and entry.id not in state.dead and not state.keeps_delivered
        return Parcel(
            entry.id,
            choice.spec.key if choice.spec else None,
            choice.why,
            last,
            entry.sop_class_uid,
            entry.sop_instance_uid,
            choice.transfer_syntax_uid,
            entry.caller,
            0 if choice.spec else entry.size,
        )

    def on_delivered(self, event: events.Delivered, now: float) -> None:
        """The peer has the object."""
        state = self._state
        state.outstanding.account_for(event.batch, event.instance)
        self._close_circuit(event.destination)
        delivery = state.find(event.destination, event.instance)
        if delivery is None or event.destination not in state.lanes:
            return
        entry, lane = delivery.entry, state.lanes[event.destination]
        lane.delivered += 1
        uid = event.key.rpartition("-")[0] if event.key else entry.transfer_syntax_uid
        words = f"{label(uid)}, status 0x{event.status:04X}: {delivery.choice.why}"
        words += f"; {event.note}" if event.note else ""
        state.note(entry, "delivered", event.destination, words, event.at)
        entry.delivered_at = now
        state.remove_delivery(delivery)
        state.retire_if_done(entry, now)
        if lane.suspects or lane.turns != TURNS:
            self._suspects.convict(lane, now)

    def on_refused(self, event: events.Refused, now: float) -> None:
        """Try the next best syntax once, then the same one after a delay; after `max_attempts` it is dead."""
        state = self._state
        state.outstanding.account_for(event.batch, event.instance)
        self._close_circuit(event.destination)
        delivery = state.find(event.destination, event.instance)
        if delivery is None or delivery.place is not Place.SENDING:
            return
        lane = state.lanes[event.destination]
        self._suspects.acquit(lane, delivery)
        state.note(delivery.entry, "refused", event.destination, event.reason)
        delivery.last, delivery.status, delivery.attempts = event.reason, event.status, event.attempts
        if event.final and not delivery.moved_on:
            delivery.moved_on = True
            before = delivery.ruled_out
            state.rule_out(delivery, event.reason)
            if isinstance(state.choose(delivery), Choice):
                state.plan(delivery)
                return
            delivery.ruled_out = before
        if event.attempts >= lane.destination.max_attempts:
            state.mark_dead(delivery, event.reason, event.status, event.attempts)
            state.retire_if_done(delivery.entry, now)
            return
        state.delay_after_attempt(delivery, now)

    def _close_circuit(self, destination: str) -> None:
        lane = self._state.lanes.get(destination)
        if lane is not None:
            self._state.close_circuit(lane)
            self._state.wake(destination)

    def on_unreachable(self, event: events.Unreachable, now: float) -> None:
        """Find out whose fault it is where an object was being sent; else it is the peer's.

        Then its circuit opens, unless other associations of the lane work: their number becomes its limit.
        """
        lane = self._state.lanes.get(event.destination)
        job = self._state.outstanding.get(event.batch)
        if lane is None or job is None:
            return  # its batch was taken back, and the circuit has changed since
        if lane.probe == event.batch:
            lane.probe = None
            self._suspects.absolve(lane)
            self._state.open_circuit(lane, now, event.reason)
            return
        failed = self._put_back(lane, job, event.instance)
        job.instances.clear()
        self._state.wake(event.destination)
        before = job.batch.after if isinstance(job.batch, DeliverBatch) else None
        if failed is None and before is not None and before == lane.failed:
            return  # it did not begin
        lane.failed = event.batch
        if failed is not None:
            self._state.note(failed.entry, "failed", event.destination, event.reason)
            failed.last, failed.status = event.reason, event.status
        others = len(lane.sending.keys() - {event.batch, before})  # `before` is over
        if failed is not None and (failed.doubt is Doubt.PROVEN or not others):
            self._suspects.add(lane, failed, event, now)
        elif others and lane.circuit.state is Circuit.CLOSED:
            lane.limit = others
        elif lane.circuit.state is not Circuit.OPEN:
            self._suspects.absolve(lane)
            self._state.open_circuit(lane, now, event.reason)

    def _put_back(self, lane: Lane, job: Job, failed: str | None) -> Delivery | None:
        """Put unsent objects back at the head of the lane, and the one whose sending failed at its end.

        Returns the latter.
        """
        batch, name = job.batch.id, lane.destination.name
        found = [self._state.find(name, instance) for instance in _unsent(job)]
        unsent = [delivery for delivery in found if delivery is not None and delivery.batch == batch]
        for delivery in unsent:
            delivery.batch = None
        lane.give_back([delivery for delivery in unsent if delivery.entry.id != failed])
        last = next((delivery for delivery in unsent if delivery.entry.id == failed), None)
        if last is not None:
            lane.move(last, Place.READY)
        return last

    def end_batch(self, batch: DeliverBatch) -> None:
        """Free the association of a batch that has ended."""
        if lane := self._state.lanes.get(batch.destination):
            lane.end(batch.id)
            self._state.wake(batch.destination)


def _unsent(job: Job) -> list[str]:
    """The instances of a deliver batch without a result, in the batch's order."""
    parcels = job.batch.parcels if isinstance(job.batch, DeliverBatch) else ()
    return [p.instance for p in parcels if p.instance in job.instances]
