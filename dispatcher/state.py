"""The queue manager's state: lanes, instances, outstanding batches; and the steps that its parts share.

Pure: no socket, clock, Celery or disk. All of it is rebuilt from the spool.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from sys import intern

from dicomferry.messages.batches import Batch
from dicomferry.settings import Destination
from dicomferry.spool.instance import State
from dispatcher import circuit as circuits
from dispatcher.commands import Command, DropRenditions, MarkDead, Note, Publish, Retire, received
from dispatcher.duplicates import Duplicates
from dispatcher.held import Held, Kept
from dispatcher.lanes import Delivery, Doubt, Entry, Lane, Place
from dispatcher.outstanding import Outstanding
from dispatcher.plan import Choice, NoChoice, choose
from dispatcher.renditions import Renditions
from dispatcher.timers import Timers

LONGEST_RETRY = 3600.0  # seconds between two attempts of one object


class QueueState:
    """All lanes, the instances in them, what is outstanding, and the commands not taken yet."""

    def __init__(
        self,
        destinations: Iterable[Destination],
        *,
        boot: str,
        accepted: dict[str, dict[str, frozenset[str]]],
        new_batch_id: Callable[[], str],
        seed: int,
        keep_delivered: float,
    ) -> None:
        """Start without instances; the arguments are those of `QueueManager`."""
        self.boot = boot
        self.new_batch_id = new_batch_id
        self.random = random.Random(seed)  # noqa: S311  jitter, no secret
        self.lanes = {
            d.name: Lane(d, d.shown_syntaxes, dict(accepted.get(d.name, {})), limit=d.max_associations)
            for d in destinations
        }
        self.entries: dict[str, Entry] = {}  # instances with a pending delivery
        self.dead: dict[str, frozenset[str]] = {}  # by instance: destinations
        self.dead_elsewhere = Counter[str]()  # by destination that the settings do not have
        self.orphans: set[Delivery] = set()  # pending for such a destination
        self.with_dead, self.kept = Held(), Kept()  # the instances in `dead`; delivered ones that stay
        self.outstanding = Outstanding()
        self.renditions = Renditions()
        self.duplicates = Duplicates()
        self.timers: Timers[str | Delivery] = Timers()  # lanes to wake, delayed deliveries to plan again
        self._keep_delivered = keep_delivered
        self._woken: dict[str, None] = {}  # lanes with something new to schedule
        self._commands: list[Command] = []

    @property
    def keeps_delivered(self) -> bool:
        """Whether instances stay for a while after their last delivery."""
        return self._keep_delivered > 0

    # Lanes

    def wake(self, destination: str) -> None:
        """Have the next `schedule` look at this lane."""
        self._woken[destination] = None

    def take_woken(self) -> list[Lane]:
        """The lanes woken since the last call."""
        woken, self._woken = self._woken, {}
        return [self.lanes[name] for name in woken]

    def open_circuit(self, lane: Lane, now: float, reason: str, *, over_objects: bool = False) -> None:
        """Stop a lane after a failure, until its next probe."""
        if lane.circuit.since == 0.0:
            self.add_command(Note("", "", "not answering", lane.destination.name, reason))
        chance = self.random.random()
        lane.circuit = circuits.opened(lane.circuit, now, reason, chance, over_objects=over_objects)
        self.timers.at(lane.circuit.probe_at, lane.destination.name)

    def close_circuit(self, lane: Lane) -> None:
        """Let a lane's work flow: its peer has accepted or refused an object."""
        if lane.circuit.since:
            self.add_command(Note("", "", "answering again", lane.destination.name, ""))
        lane.circuit = circuits.closed(lane.circuit)

    # Deliveries

    def find(self, destination: str, instance: str) -> Delivery | None:
        """The pending delivery of an instance to a destination."""
        entry = self.entries.get(instance)
        return entry.deliveries.get(destination) if entry else None

    def plan(self, delivery: Delivery, *, told: bool = False) -> None:
        """Choose the delivery's syntax and put it where it waits for its next step; dead where none fits.

        Unless the peer has `told` just now what it accepts, it is asked again before that.
        """
        lane = self.lanes[delivery.destination]
        entry = delivery.entry
        delivery.batch = None
        self.wake(delivery.destination)
        if entry.sop_class_uid not in lane.accepted:
            lane.move(delivery, Place.UNLEARNED)
            return
        choice = self.choose(delivery)
        if isinstance(choice, NoChoice):
            if told or delivery.ruled_out or not self._depends_on_peer(delivery):
                self.mark_dead(delivery, choice.reason)
                return
            if (asked := lane.asked.get(entry.sop_class_uid)) and entry.sop_class_uid not in lane.unlearned:
                self.timers.at(asked.again_at, delivery.destination)
            lane.move(delivery, Place.UNLEARNED)
            return
        if delivery.choice != choice:
            self.note(entry, "planned", delivery.destination, choice.why)
        delivery.choice = choice
        if choice.spec is None or self.renditions.exists(entry.id, choice.spec):
            self.make_ready(delivery)
        else:
            lane.move(delivery, Place.TO_RENDER)

    def choose(self, delivery: Delivery) -> Choice | NoChoice:
        """The syntax that the delivery would be sent in."""
        accepted = self.lanes[delivery.destination].accepted
        return self._choose(delivery, accepted.get(delivery.entry.sop_class_uid, frozenset()))

    def _depends_on_peer(self, delivery: Delivery) -> bool:
        """Whether there were a syntax if the peer accepted all that it is configured to show."""
        return isinstance(self._choose(delivery, frozenset(self.lanes[delivery.destination].shown)), Choice)

    def _choose(self, delivery: Delivery, accepted: frozenset[str]) -> Choice | NoChoice:
        lane, entry = self.lanes[delivery.destination], delivery.entry
        return choose(
            entry.transfer_syntax_uid,
            lane.destination,
            lane.shown,
            accepted,
            delivery.ruled_out or {},
            sop_class_uid=entry.sop_class_uid,
            sendable=entry.sendable,
        )

    def ask_again(self, destination: str) -> None:
        """Forget when the destination was asked what it accepts: it may have changed."""
        if lane := self.lanes.get(destination):
            lane.asked.clear()
            self.wake(destination)

    def rule_out(self, delivery: Delivery, reason: str) -> None:
        """Never choose the delivery's present syntax again."""
        delivery.ruled_out = (delivery.ruled_out or {}) | {delivery.choice.transfer_syntax_uid: reason}

    def make_ready(self, delivery: Delivery) -> None:
        """Let the delivery be sent, after any older object with its UID."""
        waits = self.duplicates.earlier(delivery.entry, delivery.destination)
        self.move(delivery, Place.BEHIND if waits else Place.READY)

    def delay(self, delivery: Delivery, until: float) -> None:
        """Plan the delivery again at that time."""
        self.move(delivery, Place.DELAYED)
        self.timers.at(until, delivery)

    def delay_after_attempt(self, delivery: Delivery, now: float) -> None:
        """Plan a delivery whose attempt failed again, after a delay that doubles with each attempt."""
        first = self.lanes[delivery.destination].destination.retry_after
        wait = min(first * 2 ** min(delivery.attempts - 1, 16), LONGEST_RETRY)
        delivery.batch = None
        self.delay(delivery, now + wait * (1 + 0.2 * self.random.random()))

    def move(self, delivery: Delivery, place: Place) -> None:
        """Move a delivery in its lane, and wake the lane."""
        self.lanes[delivery.destination].move(delivery, place)
        self.wake(delivery.destination)

    def mark_dead(
        self, delivery: Delivery, reason: str, status: int | None = None, attempts: int = 0
    ) -> None:
        """Give the delivery up."""
        entry, name = delivery.entry, delivery.destination
        self.add_command(MarkDead(entry.id, entry.sop_instance_uid, name, reason, status, attempts))
        self.note(entry, "dead", name, reason)
        self.count_dead(entry.id, self.dead.get(entry.id, frozenset()) | {name}, entry.size)
        self.remove_delivery(delivery)

    def count_dead(self, instance: str, dead: frozenset[str], size: int = 0) -> None:
        """Set the destinations for which an instance of `size` bytes is dead."""
        before = self.dead.pop(instance, frozenset[str]())
        self.with_dead.remove(instance)
        if dead:
            self.dead[instance] = dead
            self.with_dead.add(instance, size)
        for name in before ^ dead:
            change = 1 if name in dead else -1
            if lane := self.lanes.get(name):
                lane.dead += change
            else:
                self.dead_elsewhere[name] += change

    def remove_delivery(self, delivery: Delivery) -> None:
        """Remove a delivery that is no longer pending; newer objects with its UID may go now."""
        entry, name = delivery.entry, delivery.destination
        entry.deliveries.pop(name, None)
        self.orphans.discard(delivery)
        if lane := self.lanes.get(name):
            lane.move(delivery, Place.GONE)
            if delivery.doubt is not Doubt.NONE:
                lane.suspects.pop(delivery, None)
        for other in self.duplicates.later(entry):
            waiting = other.deliveries.get(name)
            if waiting is not None and waiting.place is Place.BEHIND:
                self.make_ready(waiting)

    # Instances

    def add_entry(self, state: State) -> Entry:
        """Add an instance that was read from the spool, without deliveries yet."""
        instance = state.instance
        entry = self.entries[instance.id] = Entry(
            instance.id,
            intern(instance.sop_class_uid),  # one string for a million instances
            instance.sop_instance_uid,
            intern(instance.study_instance_uid),
            intern(instance.modality),
            intern(instance.calling_ae_title),
            intern(instance.transfer_syntax_uid),
            instance.size,
            instance.received_at,
            state.asked_at,
            sendable=instance.sendable,
        )
        self.kept.remove(entry.id)
        self.add_command(received(instance))
        if self.duplicates.add(entry):
            self.note(entry, "queued", "", "behind an earlier object with this SOP Instance UID")
        for other in self.duplicates.later(entry):  # they were read from the spool before this one
            for delivery in other.deliveries.values():
                if delivery.place is Place.READY and delivery.destination in state.pending:
                    self.move(delivery, Place.BEHIND)
        return entry

    def remove_entry(self, entry: Entry) -> None:
        """Remove an instance."""
        self.entries.pop(entry.id, None)
        self.renditions.forget(entry.id)
        self.duplicates.remove(entry)

    def retire_if_done(self, entry: Entry, now: float) -> None:
        """Retire or keep an instance with no pending delivery; one with a dead delivery stays parked."""
        if entry.deliveries:
            return
        if entry.id in self.dead:
            self.drop_renditions(entry)  # what is parked may stay for long
            self.remove_entry(entry)
            return
        self.remove_entry(entry)
        until = entry.delivered_at + self._keep_delivered
        if self._keep_delivered and until > now:
            self.kept.keep(entry.id, entry.size, until)
            self.add_command(DropRenditions(entry.id))
        else:
            self.add_command(Retire(entry.id))

    def drop_renditions(self, entry: Entry) -> None:
        """Have an instance's renditions removed, if there are any: they can be made again."""
        if self.renditions.forget(entry.id):
            self.add_command(DropRenditions(entry.id))

    def end_retention(self, now: float) -> None:
        """Retire the kept instances whose time is over."""
        for instance in self.kept.take_ended(now):
            self.add_command(Retire(instance))

    # Commands

    def add_command(self, command: Command) -> None:
        """Add a command for the service."""
        self._commands.append(command)

    def note(self, entry: Entry, what: str, destination: str, words: str, at: float | None = None) -> None:
        """Add a line to the history of an instance; `at` in seconds since the epoch, None for now."""
        self.add_command(Note(entry.id, entry.sop_instance_uid, what, destination, words, at))

    def publish(self, batch: Batch, text: str, instances: tuple[str, ...]) -> None:
        """Hand a batch to Celery; `text` is its label in Flower."""
        self.outstanding.add(batch, instances)
        self.add_command(Publish(batch, text, instances))

    def take_commands(self) -> list[Command]:
        """The commands added since the last call."""
        commands, self._commands = self._commands, []
        return commands
