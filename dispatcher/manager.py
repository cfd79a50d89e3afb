"""The queue manager: a deterministic state machine between events and commands.

Events and the time go in, commands come out; no socket, clock, Celery or disk, so that a test can drive it
through years and a million deliveries. All its state is rebuilt from the spool.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from sys import intern
from typing import Any

from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, ProbeBatch, TranscodeBatch
from dicomferry.settings import Destination
from dispatcher.commands import Command, Found, Lost, NotFound, Reread
from dispatcher.delivering import Delivering
from dispatcher.lanes import Delivery, Place
from dispatcher.probing import Probing
from dispatcher.rendering import Rendering
from dispatcher.state import QueueState
from dispatcher.timers import Timers

FIRST_REPEAT, LAST_REPEAT = 5.0, 300.0  # seconds before work that came back without a result is repeated
RECHECK = 10.0  # seconds until an expired delivery that is being sent is checked again


class QueueManager:
    """Takes in events, and schedules probes, deliver batches and transcode batches."""

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
        """Start without instances.

        `boot` names the folder of renditions; `accepted` has, by destination and SOP class, the syntaxes that
        each peer accepted so far; `new_batch_id` names batches; `seed` decides the jitter; `keep_delivered`
        is for how many seconds an instance stays after its last delivery. `park` makes deliveries to
        destinations that the settings no longer have dead; else they stay pending.
        """
        self._park = park
        state = self._state = QueueState(
            destinations,
            boot=boot,
            accepted=accepted,
            new_batch_id=new_batch_id,
            seed=seed,
            keep_delivered=keep_delivered,
        )
        self.lanes = state.lanes
        self.entries = state.entries
        self.dead_elsewhere = state.dead_elsewhere
        self.with_dead, self.kept = state.with_dead, state.kept
        self.outstanding = state.outstanding
        self._expiry: Timers[Delivery] = Timers()  # deliveries, at the end of their destination's max_age
        self._probing = Probing(state)
        self._rendering = Rendering(state)
        self._delivering = Delivering(state)
        self._on: dict[type[Any], Callable[[Any, float], None]] = {
            Found: self._on_found,
            NotFound: self._on_not_found,
            Lost: self._on_lost,
            events.Started: self._on_started,
            events.Finished: self._on_finished,
            events.Rendered: self._rendering.on_rendered,
            events.Unsuitable: self._rendering.on_unsuitable,
            events.Postponed: self._rendering.on_postponed,
            events.Failed: self._rendering.on_failed,
            events.Delivered: self._delivering.on_delivered,
            events.Refused: self._delivering.on_refused,
            events.Unreachable: self._delivering.on_unreachable,
            events.Learned: self._probing.on_learned,
        }

    def handle(self, event: Any, now: float) -> None:
        """Take in one event; `now` is in seconds since the epoch."""
        self._on[type(event)](event, now)

    def pause(self, destinations: Collection[str]) -> None:
        """Pause the lanes of these destinations and resume all others.

        A batch of an earlier dispatcher sends to them: perhaps an older object with the SOP Instance UID of
        a newer one, and perhaps over every association that the peer allows.
        """
        for name, lane in self.lanes.items():
            lane.paused = name in destinations
            self._state.wake(name)

    def ask_again(self, destination: str) -> None:
        """Have a destination asked at once what it accepts, where something waits for its answer."""
        self._state.ask_again(destination)

    def take_commands(self) -> list[Command]:
        """The commands that events so far have caused, without new batches."""
        return self._state.take_commands()

    @property
    def next_timer(self) -> float:
        """When to call `schedule` even if no event comes, in seconds since the epoch."""
        return self._state.timers.next

    def schedule(self, now: float) -> list[Command]:
        """The commands that events so far have caused, and the batches that can run now."""
        self._run_timers(now)
        self._state.end_retention(now)
        for lane in self._state.take_woken():
            self._probing.probe_if_due(lane, now)
            self._delivering.send_ready(lane, now)
            self._rendering.add(lane)
        self._rendering.request()
        return self.take_commands()

    def orphans(self) -> Counter[str]:
        """How many deliveries are pending for each destination that the settings do not have."""
        return Counter(delivery.destination for delivery in self._state.orphans)

    @property
    def parked(self) -> set[str]:
        """Instances that have only dead deliveries left."""
        return self._state.dead.keys() - self.entries.keys()

    def tracks(self, instance: str) -> bool:
        """Whether the instance is known here, so that the spool need not be read for it."""
        return instance in self.entries or instance in self._state.dead or instance in self.kept

    def awaits(self, instance: str, destination: str) -> bool:
        """Whether the delivery is pending here."""
        return self._state.find(destination, instance) is not None

    # What the spool says

    def _on_found(self, event: Found, now: float) -> None:
        found, state = event.state, self._state
        entry = self.entries.get(found.instance.id) or state.add_entry(found)
        entry.asked_at = found.asked_at
        state.count_dead(entry.id, found.dead, entry.size)
        for name, delivery in list(entry.deliveries.items()):
            if name in found.delivered and name in self.lanes:  # the event was lost, the marker is there
                self.lanes[name].delivered += 1
                state.note(entry, "delivered", name, f"as its marker says: {delivery.choice.why}")
            if name not in found.pending:
                state.remove_delivery(delivery)
        new = [intern(name) for name in found.pending if name not in entry.deliveries]
        entry.deliveries |= {
            name: Delivery(entry, name, attempts=found.attempts.get(name, 0)) for name in new
        }
        for delivery in list(entry.deliveries.values()):
            if delivery.destination not in self.lanes:
                self._add_orphan(delivery)
            elif delivery.batch is not None and delivery.batch not in self.outstanding:
                state.renditions.forget(entry.id)  # a missing rendition may have been the fault
                self._repeat(delivery, now)
            elif delivery.destination in new:
                self._set_expiry(delivery)
                state.plan(delivery)
        entry.delivered_at = max(entry.delivered_at, found.delivered_at)
        state.retire_if_done(entry, now)

    def _add_orphan(self, delivery: Delivery) -> None:
        """The settings no longer have its destination: it stays pending until an operator decides."""
        if self._park:
            reason = f"parked: the configuration has no destination {delivery.destination} any more"
            self._state.mark_dead(delivery, reason)
        else:
            self._state.orphans.add(delivery)

    def _repeat(self, delivery: Delivery, now: float) -> None:
        """Repeat a delivery whose batch ended without its result: at once, then after ever longer delays.

        Else a full disk would make an endless loop.
        """
        delivery.batch = None
        if delivery.undone:
            wait = min(FIRST_REPEAT * 2 ** min(delivery.undone - 1, 16), LAST_REPEAT)
            # Spread: of two that each take the room that the other needs, one comes first.
            self._state.delay(delivery, now + wait * (1 - 0.2 * self._state.random.random()))
        else:
            self._state.plan(delivery)
        delivery.undone += 1

    def _on_not_found(self, event: NotFound, now: float) -> None:
        del now
        self._state.count_dead(event.instance, frozenset())
        self._state.kept.remove(event.instance)
        entry = self.entries.get(event.instance)
        if entry is not None:
            for delivery in list(entry.deliveries.values()):
                self._state.remove_delivery(delivery)
            self._state.remove_entry(entry)

    # The life of batches

    def _on_started(self, event: events.Started, now: float) -> None:
        del now
        self.outstanding.started(event.batch)

    def _on_finished(self, event: events.Finished, now: float) -> None:
        self._end_batch(event.batch, now, died=False)

    def _on_lost(self, event: Lost, now: float) -> None:
        job = self.outstanding.get(event.batch)
        # A codec that crashes at once is dead before the lease is seen locked.
        started = job is not None and job.started
        self._end_batch(event.batch, now, died=event.died or started)

    def _end_batch(self, batch_id: str, now: float, *, died: bool) -> None:
        job = self.outstanding.end(batch_id)
        if job is None:
            return
        match job.batch:
            case TranscodeBatch() as batch:
                self._rendering.end_batch(job, batch, died=died)
            case DeliverBatch() as batch:
                self._delivering.end_batch(batch)
            case ProbeBatch() as batch:
                self._probing.end_batch(batch, now)
        if job.instances:
            self._state.add_command(Reread(tuple(job.instances)))

    # Time

    def _run_timers(self, now: float) -> None:
        for due in self._state.timers.due(now):
            if isinstance(due, str):
                self._state.wake(due)
            elif due.place is Place.DELAYED:
                self._state.plan(due)
                self._state.retire_if_done(due.entry, now)
        for delivery in self._expiry.due(now):
            self._expire(delivery, now)

    def _set_expiry(self, delivery: Delivery) -> None:
        age = self.lanes[delivery.destination].destination.max_age
        if age is not None:
            self._expiry.at(delivery.entry.asked_at + age, delivery)

    def _expire(self, delivery: Delivery, now: float) -> None:
        """Give up a delivery older than `max_age`, but not while it is being sent."""
        lane = self.lanes[delivery.destination]
        if delivery.place is Place.GONE:
            return
        if delivery.place is Place.SENDING:
            self._expiry.at(now + RECHECK, delivery)
            return
        last = delivery.last or lane.circuit.reason
        hours = (lane.destination.max_age or 0.0) / 3600
        reason = f"not delivered within max_age, {hours:g} h" + (f"; the last was: {last}" if last else "")
        self._state.mark_dead(delivery, reason, delivery.status, delivery.attempts)
        self._state.retire_if_done(delivery.entry, now)
