"""Sends what is ready in deliver batches, and takes in what the peer answered.

Pure: no socket, clock, Celery or disk.
"""

from dicomferry.dicom.syntaxes import label
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, Parcel
from dispatcher import circuit as circuits
from dispatcher.circuit import Circuit
from dispatcher.labels import deliver_label
from dispatcher.lanes import Lane, Place
from dispatcher.outstanding import Job
from dispatcher.plan import Choice
from dispatcher.state import QueueState

DELIVER_MOST, DELIVER_BYTES = 256, 256 << 20  # of one batch: objects, bytes received
DELIVER_LEAST = 16  # objects: fewer are not divided among the associations of a lane
GATHER_MOST = 32  # ready objects wait for those being rendered until they are so many,
GATHER_FOR = 0.25  # or for that long, in seconds: every batch costs its messages, however small it is
LONGEST_RETRY = 3600.0  # seconds between two attempts of one object


class Delivering:
    """Deliver batches, as many at once as the lane has associations."""

    def __init__(self, state: QueueState) -> None:
        self._state = state

    def send_ready(self, lane: Lane, now: float) -> None:
        """Make batches of the lane's ready deliveries while it has openings."""
        openings = lane.openings(self._state.outstanding.left)
        while openings and lane.counts[Place.READY] and not self._is_gathering(lane, now):
            self._send(lane, openings)

    def _is_gathering(self, lane: Lane, now: float) -> bool:
        """Whether the ready deliveries wait a moment for more; sets the timer that ends the wait."""
        enough = lane.counts[Place.READY] >= min(GATHER_MOST, lane.counts[Place.RENDERING])
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
        most = 1 if lane.circuit.state is Circuit.TRIAL else min(share, DELIVER_MOST)
        deliveries = list(lane.take(Place.READY, most, DELIVER_BYTES))
        if not deliveries:
            return
        parcels = tuple(
            Parcel(d.entry.id, d.choice.spec.key if d.choice.spec else None, d.choice.why) for d in deliveries
        )
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

    def on_delivered(self, event: events.Delivered, now: float) -> None:
        """The peer has the object."""
        state = self._state
        state.outstanding.account_for(event.batch, event.instance)
        self._close_circuit(event.destination)
        delivery = state.find(event.destination, event.instance)
        if delivery is None or event.destination not in state.lanes:
            return
        entry = delivery.entry
        state.lanes[event.destination].delivered += 1
        uid = event.key.rpartition("-")[0] if event.key else entry.transfer_syntax_uid
        words = f"{label(uid)}, status 0x{event.status:04X}: {delivery.choice.why}"
        words += f"; {event.note}" if event.note else ""
        state.note(entry, "delivered", event.destination, words)
        entry.delivered_at = now
        state.remove_delivery(delivery)
        state.retire_if_done(entry, now)

    def on_refused(self, event: events.Refused, now: float) -> None:
        """Try the next best syntax once, then the same one after a delay; after `max_attempts` it is dead."""
        state = self._state
        state.outstanding.account_for(event.batch, event.instance)
        self._close_circuit(event.destination)
        delivery = state.find(event.destination, event.instance)
        if delivery is None or delivery.place is not Place.SENDING:
            return
        lane = state.lanes[event.destination]
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
        wait = min(lane.destination.retry_after * 2 ** min(event.attempts - 1, 16), LONGEST_RETRY)
        delivery.batch = None
        state.delay(delivery, now + wait * (1 + 0.2 * state.random.random()))

    def _close_circuit(self, destination: str) -> None:
        lane = self._state.lanes.get(destination)
        if lane is not None:
            lane.circuit = circuits.closed(lane.circuit)
            self._state.wake(destination)

    def on_unreachable(self, event: events.Unreachable, now: float) -> None:
        """Open the circuit, unless other associations of the lane work: then lower its limit alone."""
        lane = self._state.lanes.get(event.destination)
        job = self._state.outstanding.get(event.batch)
        if lane is None or job is None:
            return  # its batch was taken back, and the circuit has changed since
        if lane.probe == event.batch:
            lane.probe = None
        else:
            self._put_back(lane, job, failed=event.instance)
            job.instances.clear()
            if event.broke_off and event.instance is not None:
                self._count_break_off(lane, event.instance, event.reason, now)
            before = job.batch.after if isinstance(job.batch, DeliverBatch) else None  # that one is over
            others = len(lane.sending.keys() - {event.batch, before})
            if others and lane.circuit.state is Circuit.CLOSED:
                lane.limit = others
                return
            if lane.circuit.state is Circuit.OPEN:  # by the batch that this one follows
                return
        self._state.open_circuit(lane, now, event.reason)

    def _count_break_off(self, lane: Lane, instance: str, reason: str, now: float) -> None:
        """The peer ended the association during this object: after `max_attempts` of these it is dead.

        Between two of its attempts the peer has answered at least one probe, and every other object of the
        lane had its turn.
        """
        delivery = self._state.find(lane.destination.name, instance)
        if delivery is None:
            return
        delivery.broke_off += 1
        delivery.last = reason
        if delivery.broke_off >= lane.destination.max_attempts:
            words = f"{reason} while it was being sent, {delivery.broke_off} times; it answers otherwise"
            self._state.mark_dead(delivery, words, None, delivery.broke_off)
            self._state.retire_if_done(delivery.entry, now)

    def _put_back(self, lane: Lane, job: Job, failed: str | None) -> None:
        """Put unsent objects back at the head of the lane, and the one whose sending failed at its end.

        Else an object that makes its peer abort every time would block all others.
        """
        batch, name = job.batch.id, lane.destination.name
        found = [self._state.find(name, instance) for instance in _unsent(job)]
        unsent = [delivery for delivery in found if delivery is not None and delivery.batch == batch]
        for delivery in unsent:
            delivery.batch = None
        lane.give_back([delivery for delivery in unsent if delivery.entry.id != failed])
        for delivery in unsent:
            if delivery.entry.id == failed:
                lane.move(delivery, Place.READY)

    def end_batch(self, batch: DeliverBatch) -> None:
        """Free the association of a batch that has ended."""
        if lane := self._state.lanes.get(batch.destination):
            lane.end(batch.id)
            self._state.wake(batch.destination)


def _unsent(job: Job) -> list[str]:
    """The instances of a deliver batch without a result, in the batch's order."""
    parcels = job.batch.parcels if isinstance(job.batch, DeliverBatch) else ()
    return [p.instance for p in parcels if p.instance in job.instances]
