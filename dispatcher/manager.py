"""The queue manager: a deterministic state machine between events and commands.

Events and the time go in, commands come out; no socket, clock, Celery or disk, so that a test can drive it
through years and a million deliveries. Everything it holds is rebuilt from the spool.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from sys import intern
from typing import Any

from dicomferry.dicom.syntaxes import label
from dicomferry.messages import events
from dicomferry.messages.batches import Batch, DeliverBatch, Parcel, ProbeBatch, TranscodeBatch
from dicomferry.settings import Destination
from dicomferry.spool.instance import RenditionSpec, State
from dispatcher import circuit as circuits
from dispatcher.circuit import Circuit
from dispatcher.commands import Bury, Command, Keep, Known, Lost, Note, Publish, Reread, Retire, Vanished
from dispatcher.labels import deliver_label, probe_label, transcode_label
from dispatcher.lanes import Delivery, Entry, Lane, Place
from dispatcher.namesakes import Namesakes
from dispatcher.outstanding import Job, Outstanding
from dispatcher.plan import Choice, Stuck, choose
from dispatcher.renditions import Renditions
from dispatcher.timers import Timers

UNSTARTED = 4  # transcode batches in Celery that no worker has begun, at least
TRANSCODE_MOST, TRANSCODE_BYTES = 16, 64 << 20  # of one batch: instances, bytes received
TRANSCODE_WORTH = 1 << 20  # bytes received that are not divided among workers: some hundredths of a second
DELIVER_MOST, DELIVER_BYTES = 256, 256 << 20
DELIVER_WORTH = 16  # objects that are not divided among the associations of a lane
GATHER_MOST = 32  # what is ready waits for what is being rendered until they are so many,
GATHER_FOR = 0.25  # or for that long, in seconds: a batch costs its messages whatever it holds
FIRST_AGAIN, LAST_AGAIN = 5.0, 300.0  # seconds before work that came back undone is asked for once more
LONGEST_RETRY = 3600.0  # seconds between two attempts of one object
LOOK_AGAIN = 10.0  # seconds until a delivery that is too old, but being sent, is looked at again


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
        keep_delivered: float = 0.0,
        park: bool = False,
    ) -> None:
        """Start with no instance known.

        `boot` names the folder of renditions; `accepted` is, by destination and SOP class, what each peer
        was seen to accept; `new_batch_id` names batches; `seed` decides the jitter; `keep_delivered` is for
        how many seconds an instance stays after its last delivery. `park` buries what is pending for
        destinations that there are no more; else it waits for them.
        """
        self._boot = boot
        self._keep_delivered = keep_delivered
        self._park = park
        self._new_batch_id = new_batch_id
        self._random = random.Random(seed)  # noqa: S311  jitter, no secret
        self.lanes = {
            d.name: Lane(d, d.shown_syntaxes, dict(accepted.get(d.name, {})), limit=d.max_associations)
            for d in destinations
        }
        self.entries: dict[str, Entry] = {}
        self.dead: dict[str, frozenset[str]] = {}  # by instance: destinations
        self.dead_elsewhere = Counter[str]()  # for destinations that the settings do not have
        self._strays: set[Delivery] = set()  # pending for such
        self.kept: dict[str, float] = {}  # instances that are delivered, and until when they stay
        self.outstanding = Outstanding()
        self._renditions = Renditions()
        self._namesakes = Namesakes()
        self._timers: Timers[str | Delivery] = Timers()  # lanes to look at, deliveries that are delayed
        self._ages: Timers[Delivery] = Timers()  # deliveries that are too old then
        self._leaving: Timers[str] = Timers()  # instances that are not kept any longer
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

    def hold(self, destinations: Collection[str]) -> None:
        """Send nothing to these, but to all others: a batch of an earlier dispatcher still sends to them.

        What it has is not known: perhaps an older object of a UID, and all associations that there may be.
        """
        for name, lane in self.lanes.items():
            lane.held = name in destinations
            self._touched[name] = None

    def take_commands(self) -> list[Command]:
        """What events so far ask for, new batches left out."""
        commands, self._commands = self._commands, []
        return commands

    @property
    def next_timer(self) -> float:
        """When `schedule` is to be called though nothing happens, in seconds since the epoch."""
        return self._timers.next

    def schedule(self, now: float) -> list[Command]:
        """What events so far ask for, and the batches that can run now."""
        self._run_timers(now)
        self._end_retention(now)
        touched, self._touched = self._touched, {}
        for name in touched:
            lane = self.lanes[name]
            self._probe(lane, now)
            openings = lane.openings(self.outstanding.left)
            while openings and lane.counts[Place.READY] and not self._gathers(lane, now):
                self._send(lane, openings)
            if lane.renders:
                self._hungry[name] = None
        self._render()
        return self.take_commands()

    # What the spool says

    def _known(self, event: Known, now: float) -> None:
        state = event.state
        entry = self.entries.get(state.instance.id) or self._new_entry(state)
        entry.asked_at = state.asked_at
        self._count_dead(entry.id, state.dead)
        for name, delivery in list(entry.deliveries.items()):
            if name in state.delivered and name in self.lanes:  # the event was lost, its marker stands
                self.lanes[name].delivered += 1
                self._note(entry, "delivered", name, f"as its marker says: {delivery.choice.why}")
            if name not in state.pending:
                self._forget(delivery)
        new = [intern(name) for name in state.pending if name not in entry.deliveries]
        entry.deliveries |= {name: Delivery(entry, name) for name in new}
        for delivery in list(entry.deliveries.values()):
            if delivery.destination not in self.lanes:
                self._stray(delivery)
            elif delivery.batch is not None and delivery.batch not in self.outstanding:
                self._renditions.forget(entry.id)  # what was said to be there may have been the fault
                self._come_back(delivery, now)
            elif delivery.destination in new:
                self._grow_old(delivery)
                self._enter(delivery)
        entry.delivered_at = max(entry.delivered_at, state.delivered_at)
        self._settle(entry, now)

    def _stray(self, delivery: Delivery) -> None:
        """The settings have dropped its destination: it stays on the spool until an operator decides."""
        if self._park:
            reason = f"parked: the configuration has no destination {delivery.destination} any more"
            self._bury(delivery, reason, None, 0)
        else:
            self._strays.add(delivery)

    def strays(self) -> Counter[str]:
        """How many deliveries are pending for each destination that the settings do not have."""
        return Counter(delivery.destination for delivery in self._strays)

    @property
    def parked(self) -> set[str]:
        """Instances of which only dead deliveries are left."""
        return self.dead.keys() - self.entries.keys()

    def knows(self, instance: str) -> bool:
        """Whether the spool need not be read for it."""
        return instance in self.entries or instance in self.dead or instance in self.kept

    def _come_back(self, delivery: Delivery, now: float) -> None:
        """Take up again what came back undone: at once, then ever later, lest a full disk make a loop."""
        delivery.batch = None
        if delivery.undone:
            delay = min(FIRST_AGAIN * 2 ** min(delivery.undone - 1, 16), LAST_AGAIN)
            self._move(delivery, Place.DELAYED)
            self._timers.at(now + delay, delivery)
        else:
            self._enter(delivery)
        delivery.undone += 1

    def _new_entry(self, state: State) -> Entry:
        instance = state.instance
        entry = self.entries[instance.id] = Entry(
            instance.id,
            intern(instance.sop_class_uid),  # one string for a million instances
            instance.sop_instance_uid,
            intern(instance.study_instance_uid),
            intern(instance.modality),
            intern(instance.transfer_syntax_uid),
            instance.size,
            instance.received_at,
            state.asked_at,
        )
        self.kept.pop(entry.id, None)
        words = (
            f"{label(instance.transfer_syntax_uid)}, {instance.size} bytes, digest {instance.digest}, "
            f"{instance.route}"
        )
        self._commands.append(
            Note(instance.id, instance.sop_instance_uid, "received", "", words, instance.received_at)
        )
        if self._namesakes.add(entry):
            self._note(entry, "queued", "", "behind an earlier object with this SOP Instance UID")
        for other in self._namesakes.later(entry):  # they were heard of first
            for delivery in other.deliveries.values():
                if delivery.place is Place.READY and delivery.destination in state.pending:
                    self._move(delivery, Place.BEHIND)
        return entry

    def _count_dead(self, instance: str, dead: frozenset[str]) -> None:
        before = self.dead.pop(instance, frozenset[str]())
        if dead:
            self.dead[instance] = dead
        for name in before ^ dead:
            change = 1 if name in dead else -1
            if lane := self.lanes.get(name):
                lane.dead += change
            else:
                self.dead_elsewhere[name] += change

    def _vanished(self, event: Vanished, now: float) -> None:
        del now
        self._count_dead(event.instance, frozenset())
        self.kept.pop(event.instance, None)
        entry = self.entries.get(event.instance)
        if entry is not None:
            for delivery in list(entry.deliveries.values()):
                self._forget(delivery)
            self._drop(entry)

    # Where a delivery goes next

    def _enter(self, delivery: Delivery) -> None:
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
        if choice.spec is None or self._renditions.stands(entry.id, choice.spec):
            self._ready(delivery)
        else:
            lane.move(delivery, Place.TO_RENDER)

    def _ready(self, delivery: Delivery) -> None:
        """It can be sent, unless an older object with its UID is to be sent first."""
        waits = self._namesakes.earlier(delivery.entry, delivery.destination)
        self._move(delivery, Place.BEHIND if waits else Place.READY)

    def _choose(self, delivery: Delivery) -> Choice | Stuck:
        lane = self.lanes[delivery.destination]
        entry = delivery.entry
        accepted = lane.accepted.get(entry.sop_class_uid, frozenset())
        return choose(
            entry.transfer_syntax_uid, lane.destination, lane.shown, accepted, delivery.ruled_out or {}
        )

    def _forget(self, delivery: Delivery) -> None:
        entry, name = delivery.entry, delivery.destination
        entry.deliveries.pop(name, None)
        self._strays.discard(delivery)
        if lane := self.lanes.get(name):
            lane.move(delivery, Place.GONE)
        for other in self._namesakes.later(entry):
            waiting = other.deliveries.get(name)
            if waiting is not None and waiting.place is Place.BEHIND:
                self._ready(waiting)

    def _settle(self, entry: Entry, now: float) -> None:
        if entry.deliveries:
            return
        self._drop(entry)
        if entry.id in self.dead:
            return
        until = entry.delivered_at + self._keep_delivered
        if self._keep_delivered and until > now:
            self.kept[entry.id] = until
            self._leaving.at(until, entry.id)
            self._commands.append(Keep(entry.id))
        else:
            self._commands.append(Retire(entry.id))

    def _end_retention(self, now: float) -> None:
        for instance in self._leaving.due(now):
            if self.kept.get(instance, now + 1) <= now:
                del self.kept[instance]
                self._commands.append(Retire(instance))

    def _drop(self, entry: Entry) -> None:
        self.entries.pop(entry.id, None)
        self._renditions.forget(entry.id)
        self._namesakes.remove(entry)

    def _bury(self, delivery: Delivery, reason: str, status: int | None, attempts: int) -> None:
        entry, name = delivery.entry, delivery.destination
        self._commands.append(Bury(entry.id, name, reason, status, attempts))
        self._note(entry, "dead", name, reason)
        self._count_dead(entry.id, self.dead.get(entry.id, frozenset()) | {name})
        self._forget(delivery)

    def _grow_old(self, delivery: Delivery) -> None:
        age = self.lanes[delivery.destination].destination.max_age
        if age is not None:
            self._ages.at(delivery.entry.asked_at + age, delivery)

    def _too_old(self, delivery: Delivery, now: float) -> None:
        lane = self.lanes[delivery.destination]
        if delivery.place is Place.GONE:
            return
        if delivery.place is Place.SENDING:
            self._ages.at(now + LOOK_AGAIN, delivery)
            return
        last = delivery.last or lane.circuit.reason
        hours = (lane.destination.max_age or 0.0) / 3600
        reason = f"not delivered within max_age, {hours:g} h" + (f"; the last was: {last}" if last else "")
        self._bury(delivery, reason, delivery.status, delivery.attempts)
        self._settle(delivery.entry, now)

    def _note(self, entry: Entry, what: str, destination: str, words: str) -> None:
        self._commands.append(Note(entry.id, entry.sop_instance_uid, what, destination, words))

    # Transcoding

    def _render(self) -> None:
        out = self.outstanding
        while self._hungry and out.transcodes_unstarted < max(UNSTARTED, out.transcodes_running):
            name = next(iter(self._hungry))
            del self._hungry[name]
            lane = self.lanes[name]
            if not lane.renders:
                continue
            self._ask_for_renditions(lane)
            self._hungry[name] = None  # to the end: lanes take turns

    def _ask_for_renditions(self, lane: Lane) -> None:
        worth = TRANSCODE_WORTH // max(lane.to_render[0].entry.size, 1)
        parts = max(4, 2 * self.outstanding.transcodes_running)
        most = min(TRANSCODE_MOST, max(-(-lane.counts[Place.TO_RENDER] // parts), worth))
        groups: list[tuple[RenditionSpec, list[Delivery]]] = []
        together: dict[RenditionSpec, list[Delivery]] = {}
        for delivery in list(lane.take(Place.TO_RENDER, most, TRANSCODE_BYTES)):
            entry, spec = delivery.entry, delivery.choice.spec
            # Without one it was replanned since, and goes as received.
            if spec is None or self._renditions.stands(entry.id, spec):
                self._ready(delivery)
            elif self._renditions.join(spec, delivery):
                lane.move(delivery, Place.RENDERING)
            elif entry.alone:
                groups.append((spec, [delivery]))
            else:
                together.setdefault(spec, []).append(delivery)
        groups += together.items()
        for spec, deliveries in groups:
            self._publish_transcode(lane, spec, deliveries)

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
            self._renditions.begin(spec, delivery)
        self._publish(batch, transcode_label(lane.destination, spec, deliveries), instances)

    def _publish(self, batch: Batch, text: str, instances: tuple[str, ...]) -> None:
        self.outstanding.add(batch, instances)
        self._commands.append(Publish(batch, text, instances))

    def _rendered_one(self, event: events.Rendered, now: float) -> None:
        del now
        self.outstanding.account(event.batch, event.instance)
        entry = self.entries.get(event.instance)
        if entry is None:
            return
        self._renditions.made(event.instance, event.key)
        entry.alone = False
        uid = event.key.rpartition("-")[0]
        self._note(entry, "rendered", "", label(uid) + (f": {event.words}" if event.words else ""))
        for delivery in self._renditions.end(event.instance, event.key):
            delivery.batch = None
            delivery.undone = 0
            self._ready(delivery)

    def _unsuitable(self, event: events.Unsuitable, now: float) -> None:
        self.outstanding.account(event.batch, event.instance)
        for delivery in self._renditions.end(event.instance, event.key):
            self._rule_out(delivery, event.reason)
            self._enter(delivery)
            self._settle(delivery.entry, now)

    def _failed(self, event: events.Failed, now: float) -> None:
        self.outstanding.account(event.batch, event.instance)
        for delivery in self._renditions.end(event.instance, event.key):
            self._bury(delivery, event.reason, None, 0)
            self._settle(delivery.entry, now)

    def _rule_out(self, delivery: Delivery, reason: str) -> None:
        delivery.ruled_out = (delivery.ruled_out or {}) | {delivery.choice.transfer_syntax_uid: reason}

    def _move(self, delivery: Delivery, place: Place) -> None:
        self.lanes[delivery.destination].move(delivery, place)
        self._touched[delivery.destination] = None

    # Delivering

    def _gathers(self, lane: Lane, now: float) -> bool:
        enough = lane.counts[Place.READY] >= min(GATHER_MOST, lane.counts[Place.RENDERING])
        if not enough and not lane.gathers_until:
            lane.gathers_until = now + GATHER_FOR
            self._timers.at(lane.gathers_until, lane.destination.name)
        if not enough and now < lane.gathers_until:
            return True
        lane.gathers_until = 0.0
        return False

    def _send(self, lane: Lane, openings: list[str | None]) -> None:
        share = max(-(-lane.counts[Place.READY] // len(openings)), DELIVER_WORTH)
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
        batch = DeliverBatch(self._new_batch_id(), self._boot, name, parcels, more, after)
        for delivery in deliveries:
            delivery.batch = batch.id
        lane.begin(batch.id, after)
        self._publish(batch, deliver_label(lane.destination, deliveries), tuple(p.instance for p in parcels))

    def _sent(self, destination: str, instance: str) -> Delivery | None:
        entry = self.entries.get(instance)
        return entry.deliveries.get(destination) if entry else None

    def _delivered(self, event: events.Delivered, now: float) -> None:
        self.outstanding.account(event.batch, event.instance)
        self._works(event.destination)
        delivery = self._sent(event.destination, event.instance)
        if delivery is None or event.destination not in self.lanes:
            return
        entry = delivery.entry
        self.lanes[event.destination].delivered += 1
        uid = event.key.rpartition("-")[0] if event.key else entry.transfer_syntax_uid
        words = f"{label(uid)}, status 0x{event.status:04X}: {delivery.choice.why}"
        self._note(entry, "delivered", event.destination, words)
        entry.delivered_at = now
        self._forget(delivery)
        self._settle(entry, now)

    def _refused(self, event: events.Refused, now: float) -> None:
        self.outstanding.account(event.batch, event.instance)
        self._works(event.destination)
        delivery = self._sent(event.destination, event.instance)
        if delivery is None or delivery.place is not Place.SENDING:
            return
        lane = self.lanes[event.destination]
        self._note(delivery.entry, "refused", event.destination, event.reason)
        delivery.last, delivery.status, delivery.attempts = event.reason, event.status, event.attempts
        if event.final and not delivery.moved_on:
            delivery.moved_on = True
            before = delivery.ruled_out
            self._rule_out(delivery, event.reason)
            if isinstance(self._choose(delivery), Choice):
                self._enter(delivery)
                return
            delivery.ruled_out = before
        if event.attempts >= lane.destination.max_attempts:
            self._bury(delivery, event.reason, event.status, event.attempts)
            self._settle(delivery.entry, now)
            return
        delay = min(lane.destination.retry_after * 2 ** min(event.attempts - 1, 16), LONGEST_RETRY)
        delivery.batch = None
        self._move(delivery, Place.DELAYED)
        self._timers.at(now + delay * (1 + 0.2 * self._random.random()), delivery)

    def _works(self, destination: str) -> None:
        lane = self.lanes.get(destination)
        if lane is not None:
            lane.circuit = circuits.proved(lane.circuit)
            self._touched[destination] = None

    def _unreachable(self, event: events.Unreachable, now: float) -> None:
        lane = self.lanes.get(event.destination)
        job = self.outstanding.get(event.batch)
        if lane is None or job is None:
            return  # of a batch that was taken back: its own circuit has been seen to
        if lane.probe == event.batch:
            lane.probe = None
        else:
            self._give_back(lane, job, last=event.instance)
            job.instances.clear()
            if event.broke_off and event.instance is not None:
                self._suspect(lane, event.instance, event.reason, now)
            before = job.batch.after if isinstance(job.batch, DeliverBatch) else None  # that one is over
            others = len(lane.sending.keys() - {event.batch, before})
            if others and lane.circuit.state is Circuit.CLOSED:
                lane.limit = others
                return
            if lane.circuit.state is Circuit.OPEN:  # by the batch that this one follows
                return
        self._trip(lane, now, event.reason)

    def _suspect(self, lane: Lane, instance: str, reason: str, now: float) -> None:
        """The peer broke off while it got this object: perhaps it is the object that it cannot bear.

        Between two such attempts the peer has answered a probe at least, and every other object of the lane
        had its turn.
        """
        delivery = self._sent(lane.destination.name, instance)
        if delivery is None:
            return
        delivery.broke_off += 1
        delivery.last = reason
        if delivery.broke_off >= lane.destination.max_attempts:
            words = f"{reason} while it was being sent, {delivery.broke_off} times; it answers otherwise"
            self._bury(delivery, words, None, delivery.broke_off)
            self._settle(delivery.entry, now)

    def _give_back(self, lane: Lane, job: Job, last: str | None) -> None:
        """Put what was not sent at the head of the lane; `last`, whose sending failed, at its end.

        An object that makes its peer abort every time would else keep all the others from ever being tried.
        """
        batch, name = job.batch.id, lane.destination.name
        sent = [self._sent(name, instance) for instance in self._in_order(job)]
        waiting = [delivery for delivery in sent if delivery is not None and delivery.batch == batch]
        for delivery in waiting:
            delivery.batch = None
        lane.give_back([delivery for delivery in waiting if delivery.entry.id != last])
        for delivery in waiting:
            if delivery.entry.id == last:
                lane.move(delivery, Place.READY)

    @staticmethod
    def _in_order(job: Job) -> list[str]:
        batch = job.batch
        parcels = batch.parcels if isinstance(batch, DeliverBatch) else ()
        return [p.instance for p in parcels if p.instance in job.instances]

    # Circuits

    def _trip(self, lane: Lane, now: float, reason: str) -> None:
        lane.circuit = circuits.tripped(lane.circuit, now, reason, self._random.random())
        self._timers.at(lane.circuit.probe_at, lane.destination.name)

    def _probe(self, lane: Lane, now: float) -> None:
        if lane.probe is not None or not lane.pending:
            return
        due = lane.circuit.state is Circuit.OPEN and lane.circuit.probe_at <= now
        learning = lane.counts[Place.UNLEARNED] > 0 and lane.circuit.state is not Circuit.OPEN
        if not (due or learning):
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
                    self._enter(delivery)
                    self._settle(delivery.entry, now)
        if answered:
            lane.probe = None
            lane.circuit = circuits.answered(lane.circuit)
        self._touched[event.destination] = None

    def _asked(self, batch_id: str) -> tuple[str, ...]:
        job = self.outstanding.get(batch_id)
        batch = job.batch if job else None
        return batch.sop_classes if isinstance(batch, ProbeBatch) else ()

    # The life of batches

    def _started(self, event: events.Started, now: float) -> None:
        del now
        self.outstanding.started(event.batch)

    def _finished(self, event: events.Finished, now: float) -> None:
        self._end(event.batch, now, died=False)

    def _lost(self, event: Lost, now: float) -> None:
        job = self.outstanding.get(event.batch)
        # A codec that crashes at once is dead before anybody sees its lease locked.
        started = job is not None and job.started
        self._end(event.batch, now, died=event.died or started)

    def _end(self, batch_id: str, now: float, *, died: bool) -> None:
        job = self.outstanding.end(batch_id)
        if job is None:
            return
        batch = job.batch
        if isinstance(batch, TranscodeBatch):
            for instance in job.instances:
                self._renditions.end(instance, batch.spec.key)
                if died and instance in self.entries:
                    self.entries[instance].alone = True
        elif lane := self.lanes.get(batch.destination):
            lane.end(batch_id)
            self._touched[batch.destination] = None
            if lane.probe == batch_id:  # it ended without an answer that we heard
                lane.probe = None
                self._trip(lane, now, "the probe was lost")
        if job.instances:
            self._commands.append(Reread(tuple(job.instances)))

    # Time

    def _run_timers(self, now: float) -> None:
        for due in self._timers.due(now):
            if isinstance(due, str):
                self._touched[due] = None
            elif due.place is Place.DELAYED:
                self._enter(due)
                self._settle(due.entry, now)
        for delivery in self._ages.due(now):
            self._too_old(delivery, now)
