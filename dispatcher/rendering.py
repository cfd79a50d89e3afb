"""Renditions: requests them in transcode batches, lane by lane, and takes in their results.

Pure: no socket, clock, Celery or disk.
"""

from dicomferry.dicom.syntaxes import label
from dicomferry.messages import events
from dicomferry.messages.batches import TranscodeBatch
from dicomferry.spool.instance import RenditionSpec
from dispatcher.circuit import Circuit
from dispatcher.labels import transcode_label
from dispatcher.lanes import KEPT_BYTES, Delivery, Lane, Place
from dispatcher.outstanding import Job
from dispatcher.state import QueueState

UNSTARTED = 4  # transcode batches in Celery that no worker has started, at least
MAX_TRANSCODE_INSTANCES, MAX_TRANSCODE_BYTES = 16, 64 << 20  # of one batch: instances, bytes received
TRANSCODE_LEAST = 1 << 20  # bytes received, some hundredths of a second: less is not divided among workers


class Rendering:
    """Callers take turns, and their lanes, and in each lane their studies: each turn makes some batches."""

    def __init__(self, state: QueueState) -> None:
        self._state = state
        self._turns: dict[str, dict[str, None]] = {}  # by caller: its lanes, the next ones first

    def add(self, lane: Lane) -> None:
        """Give a lane its turns while it may render; one that is off gives up disk space instead."""
        if lane.circuit.state is Circuit.OPEN and lane.bytes_ahead > KEPT_BYTES:
            self._release(lane)
        if lane.may_render:
            for caller in lane.to_render.callers:
                self._turns.setdefault(caller, {})[lane.destination.name] = None

    def _release(self, lane: Lane) -> None:
        """Have renditions removed that only this lane waits to send, the last ones first."""
        for delivery in reversed(list(lane.ready)):
            if lane.bytes_ahead <= KEPT_BYTES:
                return
            entry = delivery.entry
            if delivery.place is Place.READY and delivery.rendition and len(entry.deliveries) == 1:
                lane.hold(delivery, 0)
                self._state.drop_renditions(entry)
                self._state.plan(delivery)

    def request(self) -> None:
        """Make as many transcode batches as workers need to stay busy."""
        out = self._state.outstanding
        while self._turns and out.transcodes_unstarted < max(UNSTARTED, out.transcodes_running):
            caller = next(iter(self._turns))
            lanes = self._turns.pop(caller)
            name = next(iter(lanes))
            del lanes[name]
            lane = self._state.lanes[name]
            if lane.may_render:
                self._request_for(lane, caller)
                if caller in lane.to_render.callers:
                    lanes[name] = None  # to the end, as its caller
            if lanes:
                self._turns[caller] = lanes

    def _request_for(self, lane: Lane, caller: str) -> None:
        first = lane.to_render.first(caller)
        least = TRANSCODE_LEAST // max(first.entry.size if first else 0, 1)
        parts = max(4, 2 * self._state.outstanding.transcodes_running)
        most = min(MAX_TRANSCODE_INSTANCES, max(-(-lane.counts[Place.TO_RENDER] // parts), least))
        groups: list[tuple[RenditionSpec, list[Delivery]]] = []
        together: dict[RenditionSpec, list[Delivery]] = {}
        for delivery in lane.take_to_render(caller, most, MAX_TRANSCODE_BYTES):
            entry, spec = delivery.entry, delivery.choice.spec
            # Without a spec it was planned again meanwhile, and goes as received.
            if spec is None or self._state.renditions.exists(entry.id, spec):
                lane.hold(delivery, self._state.renditions.size(entry.id, spec) if spec else 0)
                self._state.make_ready(delivery)
            elif self._state.renditions.join(spec, delivery):
                lane.move(delivery, Place.RENDERING)
            elif entry.alone:
                groups.append((spec, [delivery]))
            else:
                together.setdefault(spec, []).append(delivery)
        groups += together.items()
        for spec, deliveries in groups:
            self._publish(lane, spec, deliveries)

    def _publish(self, lane: Lane, spec: RenditionSpec, deliveries: list[Delivery]) -> None:
        instances = tuple(d.entry.id for d in deliveries)
        batch = TranscodeBatch(
            self._state.new_batch_id(),
            self._state.boot,
            spec,
            instances,
            deliveries[0].entry.alone,
            lane.destination.verify,
        )
        for delivery in deliveries:
            lane.move(delivery, Place.RENDERING)
            delivery.batch = batch.id
            self._state.renditions.begin(spec, delivery)
        self._state.publish(batch, transcode_label(lane.destination, spec, deliveries), instances)

    def on_rendered(self, event: events.Rendered, now: float) -> None:
        """Make ready the deliveries that waited for this rendition."""
        del now
        state = self._state
        state.outstanding.account_for(event.batch, event.instance)
        entry = state.entries.get(event.instance)
        if entry is None:
            return
        state.renditions.made(event.instance, event.key, event.size)
        entry.alone = False
        uid = event.key.rpartition("-")[0]
        state.note(entry, "rendered", "", label(uid) + (f": {event.words}" if event.words else ""))
        for delivery in state.renditions.end(event.instance, event.key):
            delivery.batch = None
            if delivery.undone:
                delivery.undone, delivery.last = 0, ""  # it waits no longer
            state.lanes[delivery.destination].hold(delivery, event.size)
            state.make_ready(delivery)

    def on_postponed(self, event: events.Postponed, now: float) -> None:
        """Tell, once, what the deliveries wait for; that it has no result is seen at the end of its batch."""
        del now
        for delivery in self._state.renditions.waiting(event.instance, event.key):
            if delivery.last.partition(":")[0] != event.reason.partition(":")[0]:
                self._state.note(delivery.entry, "postponed", delivery.destination, event.reason)
            delivery.last = event.reason

    def on_unsuitable(self, event: events.Unsuitable, now: float) -> None:
        """The instance does not fit the syntax: choose another for the deliveries that waited."""
        self._state.outstanding.account_for(event.batch, event.instance)
        for delivery in self._state.renditions.end(event.instance, event.key):
            self._state.rule_out(delivery, event.reason)
            self._state.plan(delivery)
            self._state.retire_if_done(delivery.entry, now)

    def on_failed(self, event: events.Failed, now: float) -> None:
        """The instance cannot be transcoded: the deliveries that waited are dead."""
        self._state.outstanding.account_for(event.batch, event.instance)
        for delivery in self._state.renditions.end(event.instance, event.key):
            self._state.mark_dead(delivery, event.reason)
            self._state.retire_if_done(delivery.entry, now)

    def end_batch(self, job: Job, batch: TranscodeBatch, *, died: bool) -> None:
        """Nobody makes what the batch left; where it died, each instance left gets a batch of its own.

        A worker that made some gave back the rest because it took long: that waits for its next turn.
        """
        given_back = not died and len(job.instances) < len(batch.instances)
        for instance in [instance for instance in batch.instances if instance in job.instances]:
            waiting = self._state.renditions.end(instance, batch.spec.key)
            if died and instance in self._state.entries:
                self._state.entries[instance].alone = True
            for delivery in waiting if given_back else ():
                self._state.plan(delivery)
