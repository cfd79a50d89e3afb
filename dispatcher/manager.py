"""The queue manager: a deterministic state machine between events and commands.

Events and the time go in, commands come out; no socket, clock, Celery or disk, so that a test can drive it
through years and a million deliveries. Everything it holds is rebuilt from the spool.
"""

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from dicomferry import events
from dicomferry.batches import Batch, DeliverBatch, Parcel, ProbeBatch, TranscodeBatch
from dicomferry.settings import Destination
from dicomferry.spool import RenditionSpec, State
from dicomferry.syntaxes import label
from dispatcher import circuit as circuits
from dispatcher.circuit import Circuit
from dispatcher.commands import Bury, Command, Known, Lost, Note, Publish, Reread, Retire, Vanished
from dispatcher.labels import deliver_label, probe_label, transcode_label
from dispatcher.lanes import Delivery, Entry, Lane, Place
from dispatcher.plan import Choice, Stuck, choose

UNSTARTED = 4  # transcode batches in Celery that no worker has begun, at least
TRANSCODE_MOST, TRANSCODE_BYTES = 16, 64 << 20  # of one batch: instances, bytes received
DELIVER_MOST, DELIVER_BYTES = 64, 256 << 20
PROBES = 32  # at once, so that black holes leave threads to those who answer
FIRST_AGAIN, LAST_AGAIN = 5.0, 300.0  # seconds before work that came back undone is asked for once more
LONGEST_RETRY = 3600.0  # seconds between two attempts of one object


@dataclass(slots=True, eq=False)
class _Outstanding:
    """A batch in Celery, and what of it is not accounted for."""

    batch: Batch
    instances: set[str]
    started: bool = False


@dataclass(slots=True, eq=False)
class _Rendering:
    """A rendition being made, and the deliveries that wait for it."""

    waiters: list[Delivery] = field(default_factory=list)


class QueueManager:
    """All lanes, and what is outstanding."""

    def __init__(
        self,
        destinations: Iterable[Destination],
        *,
        boot: str,
        accepted: dict[str, dict[str, frozenset[str]]],
        new_batch_id: Callable[[], str],
        seed: int = 0,
    ) -> None:
        """Start with no instance known.

        `boot` names the folder of renditions; `accepted` is, by destination and SOP class, what each peer
        was seen to accept; `new_batch_id` names batches; `seed` decides the jitter.
        """
        self._boot = boot
        self._new_batch_id = new_batch_id
        self._random = random.Random(seed)  # noqa: S311  jitter, no secret
        self.lanes = {
            d.name: Lane(d, d.shown_syntaxes, dict(accepted.get(d.name, {})), limit=d.max_associations)
            for d in destinations
        }
        self.entries: dict[str, Entry] = {}
        self.parked: set[str] = set()  # instances of which only dead deliveries are left
        self.outstanding: dict[str, _Outstanding] = {}
        self._renderings: dict[tuple[str, str], _Rendering] = {}
        self._rendered: dict[str, set[str]] = {}  # by instance: keys of renditions on the spool
        self._timers: list[tuple[float, int, str, Delivery | None]] = []
        self._timer_count = 0
        self._touched: dict[str, None] = {}  # lanes to look at in `schedule`
        self._hungry: dict[str, None] = {}  # lanes that want renditions, in turn
        self._commands: list[Command] = []
        self._on: dict[type[Any], Callable[[Any, float], None]] = {
            Known: self._known,
            Vanished: self._vanished,
            Lost: self._lost,
            events.Started: self._started,
            events.Finished: self._finished,
            events.Rendered: self._rendered_one,
            events.Unsuitable: self._unsuitable,
            events.Failed: self._failed,
            events.Delivered: self._delivered,
            events.Refused: self._refused,
            events.Unreachable: self._unreachable,
            events.Learned: self._learned,
        }

    def handle(self, event: Any, now: float) -> None:
        """Take in one event; `now` is in seconds since the epoch."""
        self._on[type(event)](event, now)

    def take_commands(self) -> list[Command]:
        """What events so far ask for, new batches left out."""
        commands, self._commands = self._commands, []
        return commands

    def schedule(self, now: float) -> list[Command]:
        """What events so far ask for, and the batches that can run now."""
        self._run_timers(now)
        touched, self._touched = self._touched, {}
        for name in touched:
            lane = self.lanes[name]
            self._probe(lane, now)
            while lane.sends:
                self._send(lane)
            if lane.renders:
                self._hungry[name] = None
        self._render()
        return self.take_commands()

    # What the spool says

    def _known(self, event: Known, now: float) -> None:
        state = event.state
        entry = self.entries.get(state.instance.id) or self._new_entry(state)
        entry.parked = bool(state.dead)
        for name, delivery in list(entry.deliveries.items()):
            if name in state.delivered and name in self.lanes:  # the event was lost, its marker stands
                self.lanes[name].delivered += 1
                self._note(entry, "delivered", name, f"as its marker says: {delivery.choice.why}")
            if name not in state.pending:
                self._forget(delivery)
        new = [name for name in state.pending if name not in entry.deliveries]
        entry.deliveries |= {name: Delivery(entry, name) for name in new}
        for delivery in list(entry.deliveries.values()):
            if delivery.destination not in self.lanes:
                continue  # the settings have dropped it: it stays on the spool until an operator decides
            lost = delivery.batch is not None and delivery.batch not in self.outstanding
            if lost:
                self._rendered.pop(entry.id, None)  # what was said to be there may have been the fault
                self._come_back(delivery, now)
            elif delivery.destination in new:
                self._enter(delivery, now)
        self._settle(entry)

    def _come_back(self, delivery: Delivery, now: float) -> None:
        """Take up again what came back undone: at once, then ever later, lest a full disk make a loop."""
        delivery.batch = None
        if delivery.undone:
            delay = min(FIRST_AGAIN * 2 ** min(delivery.undone - 1, 16), LAST_AGAIN)
            self._move(delivery, Place.DELAYED)
            self._at(now + delay, delivery.destination, delivery)
        else:
            self._enter(delivery, now)
        delivery.undone += 1

    def _new_entry(self, state: State) -> Entry:
        instance = state.instance
        entry = self.entries[instance.id] = Entry(
            instance.id,
            instance.sop_class_uid,
            instance.sop_instance_uid,
            instance.study_instance_uid,
            instance.modality,
            instance.transfer_syntax_uid,
            instance.size,
        )
        words = f"{label(instance.transfer_syntax_uid)}, {instance.size} bytes, {instance.route}"
        self._commands.append(
            Note(instance.id, instance.sop_instance_uid, "received", "", words, instance.received_at)
        )
        if instance.id not in self.parked:
            for name in state.dead & self.lanes.keys():
                self.lanes[name].dead += 1
        return entry

    def _vanished(self, event: Vanished, now: float) -> None:
        del now
        self.parked.discard(event.instance)
        entry = self.entries.get(event.instance)
        if entry is not None:
            for delivery in list(entry.deliveries.values()):
                self._forget(delivery)
            self._drop(entry)

    # Where a delivery goes next

    def _enter(self, delivery: Delivery, now: float) -> None:
        lane = self.lanes[delivery.destination]
        entry = delivery.entry
        delivery.batch = None
        self._touched[delivery.destination] = None
        if entry.sop_class_uid not in lane.accepted:
            lane.move(delivery, Place.UNLEARNED)
            return
        choice = self._choose(delivery)
        if isinstance(choice, Stuck):
            self._bury(delivery, choice.reason, None, 0)
            return
        if delivery.choice != choice:
            self._note(entry, "planned", delivery.destination, choice.why)
        delivery.choice = choice
        done = self._rendered.get(entry.id, ())
        if choice.spec is None or choice.spec.key in done:
            lane.move(delivery, Place.READY)
        else:
            lane.move(delivery, Place.TO_RENDER)
        del now

    def _choose(self, delivery: Delivery) -> Choice | Stuck:
        lane = self.lanes[delivery.destination]
        entry = delivery.entry
        accepted = lane.accepted.get(entry.sop_class_uid, frozenset())
        return choose(
            entry.transfer_syntax_uid, lane.destination, lane.shown, accepted, delivery.ruled_out or {}
        )

    def _forget(self, delivery: Delivery) -> None:
        delivery.entry.deliveries.pop(delivery.destination, None)
        if lane := self.lanes.get(delivery.destination):
            lane.move(delivery, Place.GONE)

    def _settle(self, entry: Entry) -> None:
        if entry.deliveries:
            return
        if entry.parked:
            self.parked.add(entry.id)
        else:
            self._commands.append(Retire(entry.id))
        self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        self.entries.pop(entry.id, None)
        self._rendered.pop(entry.id, None)

    def _bury(self, delivery: Delivery, reason: str, status: int | None, attempts: int) -> None:
        entry = delivery.entry
        self._commands.append(Bury(entry.id, delivery.destination, reason, status, attempts))
        self._note(entry, "dead", delivery.destination, reason)
        self.lanes[delivery.destination].dead += 1
        entry.parked = True
        self._forget(delivery)
        self._settle(entry)

    def _note(self, entry: Entry, what: str, destination: str, words: str) -> None:
        self._commands.append(Note(entry.id, entry.sop_instance_uid, what, destination, words))

    # Transcoding

    def _render(self) -> None:
        running = [o.started for o in self.outstanding.values() if isinstance(o.batch, TranscodeBatch)]
        unstarted = running.count(False)
        while self._hungry and unstarted < max(UNSTARTED, running.count(True)):
            name = next(iter(self._hungry))
            del self._hungry[name]
            lane = self.lanes[name]
            if not lane.renders:
                continue
            unstarted += self._ask_for_renditions(lane)
            self._hungry[name] = None  # to the end: lanes take turns

    def _ask_for_renditions(self, lane: Lane) -> int:
        most = min(TRANSCODE_MOST, -(-lane.counts[Place.TO_RENDER] // 4))
        groups: list[tuple[RenditionSpec, list[Delivery]]] = []
        together: dict[RenditionSpec, list[Delivery]] = {}
        for delivery in list(lane.take(Place.TO_RENDER, most, TRANSCODE_BYTES)):
            entry, spec = delivery.entry, delivery.choice.spec
            if spec is None:  # replanned since: it goes as received
                self._move(delivery, Place.READY)
                continue
            key = spec.key
            under_way = self._renderings.get((entry.id, key))
            if key in self._rendered.get(entry.id, ()):
                self._move(delivery, Place.READY)
            elif under_way is not None:
                lane.move(delivery, Place.RENDERING)
                delivery.batch = next(iter(under_way.waiters)).batch if under_way.waiters else None
                under_way.waiters.append(delivery)
            elif entry.alone:
                groups.append((spec, [delivery]))
            else:
                together.setdefault(spec, []).append(delivery)
        groups += together.items()
        for spec, deliveries in groups:
            self._publish_transcode(lane, spec, deliveries)
        return len(groups)

    def _publish_transcode(self, lane: Lane, spec: RenditionSpec, deliveries: list[Delivery]) -> None:
        instances = tuple(d.entry.id for d in deliveries)
        batch = TranscodeBatch(
            self._new_batch_id(),
            self._boot,
            spec,
            instances,
            deliveries[0].entry.alone,
            lane.destination.verify,
        )
        for delivery in deliveries:
            lane.move(delivery, Place.RENDERING)
            delivery.batch = batch.id
            self._renderings[delivery.entry.id, spec.key] = _Rendering([delivery])
        self._publish(batch, transcode_label(lane.destination, spec, deliveries), instances)

    def _publish(self, batch: Batch, text: str, instances: tuple[str, ...]) -> None:
        self.outstanding[batch.id] = _Outstanding(batch, set(instances))
        self._commands.append(Publish(batch, text, instances))

    def _rendered_one(self, event: events.Rendered, now: float) -> None:
        del now
        self._account(event.batch, event.instance)
        entry = self.entries.get(event.instance)
        if entry is None:
            return
        self._rendered.setdefault(event.instance, set()).add(event.key)
        entry.alone = False
        uid = event.key.rpartition("-")[0]
        self._note(entry, "rendered", "", label(uid) + (f": {event.words}" if event.words else ""))
        for delivery in self._waiters(event.instance, event.key):
            delivery.batch = None
            delivery.undone = 0
            self._move(delivery, Place.READY)

    def _unsuitable(self, event: events.Unsuitable, now: float) -> None:
        self._account(event.batch, event.instance)
        for delivery in self._waiters(event.instance, event.key):
            self._rule_out(delivery, event.reason)
            self._enter(delivery, now)

    def _failed(self, event: events.Failed, now: float) -> None:
        del now
        self._account(event.batch, event.instance)
        for delivery in self._waiters(event.instance, event.key):
            self._bury(delivery, event.reason, None, 0)

    def _waiters(self, instance: str, key: str) -> list[Delivery]:
        rendering = self._renderings.pop((instance, key), None)
        return [d for d in rendering.waiters if d.place is Place.RENDERING] if rendering else []

    def _rule_out(self, delivery: Delivery, reason: str) -> None:
        delivery.ruled_out = (delivery.ruled_out or {}) | {delivery.choice.transfer_syntax_uid: reason}

    def _move(self, delivery: Delivery, place: Place) -> None:
        self.lanes[delivery.destination].move(delivery, place)
        self._touched[delivery.destination] = None

    # Delivering

    def _send(self, lane: Lane) -> None:
        most = 1 if lane.circuit.state is Circuit.TRIAL else DELIVER_MOST
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
        batch = DeliverBatch(self._new_batch_id(), self._boot, name, parcels, more)
        for delivery in deliveries:
            delivery.batch = batch.id
        lane.sending.add(batch.id)
        self._publish(batch, deliver_label(lane.destination, deliveries), tuple(p.instance for p in parcels))

    def _sent(self, destination: str, instance: str) -> Delivery | None:
        entry = self.entries.get(instance)
        return entry.deliveries.get(destination) if entry else None

    def _delivered(self, event: events.Delivered, now: float) -> None:
        del now
        self._account(event.batch, event.instance)
        self._works(event.destination)
        delivery = self._sent(event.destination, event.instance)
        if delivery is None or event.destination not in self.lanes:
            return
        entry = delivery.entry
        self.lanes[event.destination].delivered += 1
        uid = event.key.rpartition("-")[0] if event.key else entry.transfer_syntax_uid
        words = f"{label(uid)}, status 0x{event.status:04X}: {delivery.choice.why}"
        self._note(entry, "delivered", event.destination, words)
        self._forget(delivery)
        self._settle(entry)

    def _refused(self, event: events.Refused, now: float) -> None:
        self._account(event.batch, event.instance)
        self._works(event.destination)
        delivery = self._sent(event.destination, event.instance)
        if delivery is None or delivery.place is not Place.SENDING:
            return
        lane = self.lanes[event.destination]
        self._note(delivery.entry, "refused", event.destination, event.reason)
        if event.final and not delivery.moved_on:
            delivery.moved_on = True
            before = delivery.ruled_out
            self._rule_out(delivery, event.reason)
            if isinstance(self._choose(delivery), Choice):
                self._enter(delivery, now)
                return
            delivery.ruled_out = before
        if event.attempts >= lane.destination.max_attempts:
            self._bury(delivery, event.reason, event.status, event.attempts)
            return
        delay = min(lane.destination.retry_after * 2 ** min(event.attempts - 1, 16), LONGEST_RETRY)
        delivery.batch = None
        self._move(delivery, Place.DELAYED)
        self._at(now + delay * (1 + 0.2 * self._random.random()), event.destination, delivery)

    def _works(self, destination: str) -> None:
        lane = self.lanes.get(destination)
        if lane is not None and lane.circuit.state is not Circuit.CLOSED:
            lane.circuit = circuits.proved(lane.circuit)
            self._touched[destination] = None

    def _unreachable(self, event: events.Unreachable, now: float) -> None:
        lane = self.lanes.get(event.destination)
        outstanding = self.outstanding.get(event.batch)
        if lane is None or outstanding is None:
            return  # of a batch that was taken back: its own circuit has been seen to
        if lane.probe == event.batch:
            lane.probe = None
        else:
            self._give_back(lane, outstanding, last=event.instance)
            outstanding.instances.clear()
            others = len(lane.sending - {event.batch})
            if others and lane.circuit.state is Circuit.CLOSED:
                lane.limit = others
                return
        self._trip(lane, now, event.reason)

    def _give_back(self, lane: Lane, outstanding: _Outstanding, last: str | None) -> None:
        """Put what was not sent at the head of the lane; `last`, whose sending failed, at its end.

        An object that makes its peer abort every time would else keep all the others from ever being tried.
        """
        batch, name = outstanding.batch.id, lane.destination.name
        sent = [self._sent(name, instance) for instance in self._in_order(outstanding)]
        waiting = [delivery for delivery in sent if delivery is not None and delivery.batch == batch]
        lane.give_back([delivery for delivery in waiting if delivery.entry.id != last])
        for delivery in waiting:
            if delivery.entry.id == last:
                lane.move(delivery, Place.READY)

    @staticmethod
    def _in_order(outstanding: _Outstanding) -> list[str]:
        batch = outstanding.batch
        parcels = batch.parcels if isinstance(batch, DeliverBatch) else ()
        return [p.instance for p in parcels if p.instance in outstanding.instances]

    # Circuits

    def _trip(self, lane: Lane, now: float, reason: str) -> None:
        lane.circuit = circuits.tripped(lane.circuit, now, reason, self._random.random())
        self._at(lane.circuit.probe_at, lane.destination.name, None)

    def _probe(self, lane: Lane, now: float) -> None:
        if lane.probe is not None or not lane.pending:
            return
        due = lane.circuit.state is Circuit.OPEN and lane.circuit.probe_at <= now
        learning = lane.counts[Place.UNLEARNED] > 0 and lane.circuit.state is not Circuit.OPEN
        if not (due or learning):
            return
        if sum(isinstance(o.batch, ProbeBatch) for o in self.outstanding.values()) >= PROBES:
            self._at(now + 1.0, lane.destination.name, None)
            return
        classes = tuple(lane.unlearned)
        batch = ProbeBatch(self._new_batch_id(), lane.destination.name, classes)
        lane.probe = batch.id
        self._publish(batch, probe_label(lane.destination, classes), ())

    def _learned(self, event: events.Learned, now: float) -> None:
        lane = self.lanes.get(event.destination)
        if lane is None:
            return
        accepted = {sop_class: frozenset(uids) for sop_class, uids in event.accepted.items()}
        answered = event.probe and lane.probe == event.batch
        if answered:  # what it says nothing of it does not take: else we would ask for ever
            accepted = dict.fromkeys(self._asked(event.batch), frozenset[str]()) | accepted
        lane.accepted.update(accepted)
        for sop_class in accepted:
            for delivery in lane.unlearned.pop(sop_class, ()):
                if delivery.place is Place.UNLEARNED:
                    self._enter(delivery, now)
        if answered:
            lane.probe = None
            lane.circuit = circuits.answered(lane.circuit)
        self._touched[event.destination] = None

    def _asked(self, batch_id: str) -> tuple[str, ...]:
        outstanding = self.outstanding.get(batch_id)
        batch = outstanding.batch if outstanding else None
        return batch.sop_classes if isinstance(batch, ProbeBatch) else ()

    # The life of batches

    def _started(self, event: events.Started, now: float) -> None:
        del now
        outstanding = self.outstanding.get(event.batch)
        if outstanding is not None:
            outstanding.started = True

    def _account(self, batch: str, instance: str) -> None:
        if outstanding := self.outstanding.get(batch):
            outstanding.instances.discard(instance)

    def _finished(self, event: events.Finished, now: float) -> None:
        self._end(event.batch, now, died=False)

    def _lost(self, event: Lost, now: float) -> None:
        outstanding = self.outstanding.get(event.batch)
        # A codec that crashes at once is dead before anybody sees its lease locked.
        started = outstanding is not None and outstanding.started
        self._end(event.batch, now, died=event.died or started)

    def _end(self, batch_id: str, now: float, *, died: bool) -> None:
        outstanding = self.outstanding.pop(batch_id, None)
        if outstanding is None:
            return
        batch = outstanding.batch
        if isinstance(batch, TranscodeBatch):
            for instance in outstanding.instances:
                self._renderings.pop((instance, batch.spec.key), None)
                if died and instance in self.entries:
                    self.entries[instance].alone = True
        elif lane := self.lanes.get(batch.destination):
            lane.sending.discard(batch_id)
            self._touched[batch.destination] = None
            if lane.probe == batch_id:  # it ended without an answer that we heard
                lane.probe = None
                self._trip(lane, now, "the probe was lost")
        if outstanding.instances:
            self._commands.append(Reread(tuple(outstanding.instances)))

    # Time

    def _at(self, when: float, destination: str, delivery: Delivery | None) -> None:
        self._timer_count += 1
        heapq.heappush(self._timers, (when, self._timer_count, destination, delivery))

    def _run_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, destination, delivery = heapq.heappop(self._timers)
            self._touched[destination] = None
            if delivery is not None and delivery.place is Place.DELAYED:
                self._enter(delivery, now)
