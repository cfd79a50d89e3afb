"""The dispatcher's process: the loop around the queue manager.

It reads events from Redis, passes them to the queue manager and has its commands carried out. What Redis
loses, or a killed process leaves undone, it finds again on the spool.
"""

import fcntl
import logging
import math
import os
import signal
import time
import uuid
from collections.abc import Iterable
from types import FrameType

from redis import Redis
from redis.exceptions import RedisError

from dicomferry.crashpoints import reach
from dicomferry.errors import Misconfigured
from dicomferry.messages import events
from dicomferry.messages.batches import new_batch_id
from dicomferry.messages.broker import celery_app, redis_client
from dicomferry.settings import Settings
from dicomferry.spool.instance import State
from dicomferry.spool.orders import Order
from dicomferry.spool.spool import Spool, boot_id
from dicomferry.spool.tally import Tally
from dispatcher.arrivals import Arrivals
from dispatcher.bookkeeping import Bookkeeping
from dispatcher.commands import Command, Found, Lost, NotFound
from dispatcher.departed import Departed
from dispatcher.execution import Executor
from dispatcher.inbox import Inbox
from dispatcher.lease_watch import LeaseWatch
from dispatcher.manager import QueueManager
from dispatcher.newer import Received, newer
from dispatcher.ordered_changes import carry_out_waiting
from dispatcher.publisher import Publisher
from dispatcher.recovery import SpoolReader
from dispatcher.status import snapshot

log = logging.getLogger(__name__)

SYNC_EVERY = 1.0  # seconds between two checks of leases, the canary and a shard
ORDERS_FOR = 0.5  # seconds of these that operators' orders may take
EVENTS_AT_ONCE = 2000
EVENTS_WITHIN = 5.0  # seconds from a delivery until its event is here, else it is lost
READ_AT_ONCE = 1000  # instances
READ_FOR = 0.02  # seconds of these that the spool is read for instances whose event was lost
HISTORY_EVERY = 0.5  # seconds between two writes of the history, while there is something to do
REMOVE_FOR = 0.002  # seconds of a busy round that retired instances are removed
ROUND = 0.01  # seconds at least between two polls: events that come meanwhile are read together
RENDERING_ROUND = 0.02  # the same while something is being rendered, which takes longer,
CROWDED_ROUND = 0.05  # and while batches wait for a worker: no worker is idle then
POLL_FOR = 0.2  # seconds that an idle dispatcher waits for an event
_BEGAN = time.time() - time.monotonic()


def run(settings: Settings, *, park: bool = False) -> None:
    """Dispatch until SIGTERM or SIGINT; `park` makes deliveries to unconfigured destinations dead.

    Raises:
        Misconfigured: another dispatcher works on this spool, there is no broker, or deliveries wait for a
            destination that the configuration does not have.
    """
    spool = Spool(settings.spool)
    spool.prepare()
    lock = _lock(spool)
    service = Dispatcher(settings, spool, redis_client(settings), park=park)

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        service.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        service.run()
    finally:
        os.close(lock)


def _lock(spool: Spool) -> int:
    path = spool.root / "dispatcher.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise Misconfigured(f"another dispatcher works on the spool {spool.root}; there can be one") from None
    return descriptor


def _now() -> float:
    """Seconds since the epoch by the monotonic clock: setting the system clock moves no deadline."""
    return _BEGAN + time.monotonic()


class Dispatcher:
    """One running dispatcher."""

    def __init__(self, settings: Settings, spool: Spool, redis: Redis, *, park: bool = False) -> None:
        self.stopping = False
        self._settings = settings
        self._spool = spool
        self._inbox = Inbox(redis)
        self._publisher = Publisher(celery_app(settings), redis)
        self._books = Bookkeeping(spool, settings.keep_history)
        self._executor = Executor(spool, self._publisher, self._books, self._reread, self._on_unpublished)
        self._quarantine = Tally(spool.quarantine)
        self._reader = SpoolReader(spool)
        self._watch = LeaseWatch(spool, self._publisher.queued)
        self._manager = QueueManager(
            settings.destination,
            boot=boot_id(),
            accepted={
                destination.name: {
                    sop_class: frozenset(uids) for sop_class, uids in spool.learned(destination.name).items()
                }
                for destination in settings.destination
            },
            new_batch_id=new_batch_id,
            seed=uuid.uuid4().int,
            keep_delivered=settings.keep_delivered,
            park=park,
        )
        self._departed = Departed(spool, self._books, self._manager)
        self._count()
        self._arrivals = Arrivals(self._books.last_received_at())
        self._busy = False
        self._poll_at = self._history_at = 0.0  # monotonic: when the next poll and write are due
        self._read_at = 0.0
        self._status_failing = False
        self._park = park

    def run(self) -> None:
        """Work until told to stop."""
        self._spool.sweep()
        self._inbox.clear()  # the spool is read next, and tells all of it
        self._reader.take_over()
        self._departed.settle(_now())
        self._record_retired()
        self._manager.pause(self._reader.busy_destinations())
        self._apply_orders()
        self._read_spool()
        self._refuse_orphans(park=self._park)
        self._inbox.watch()
        self._read_at = time.time()
        log.info("Dispatching destinations=%d", len(self._manager.lanes))
        sync_at = 0.0
        while not self.stopping:
            self._poll_events()
            self._run_round()  # first: what has just come need not wait for the rest
            if time.monotonic() >= sync_at:
                self._sync_with_spool()
                sync_at = time.monotonic() + SYNC_EVERY
        self._record_retired()
        self._remove()
        self._books.close()
        log.info("Stopped")

    # In

    def _poll_events(self) -> None:
        try:
            wait = min(max(self._manager.next_timer - _now(), RENDERING_ROUND), POLL_FOR)
            texts = self._inbox.wait(wait, EVENTS_AT_ONCE)
            # A wait that a timer cut short does not show that nothing comes.
            self._busy = bool(texts) or wait < POLL_FOR
            told = [events.parse(text) for text in texts]
            if not self._is_urgent(told):
                self._remove(self._poll_at)
                left = self._poll_at - time.monotonic()
                if left > 0:
                    time.sleep(left)
                    told += map(events.parse, self._inbox.waiting(EVENTS_AT_ONCE))
            self._poll_at = time.monotonic() + self._poll_interval()
            self._inbox.note_answer()
        except RedisError as error:
            self._inbox.note_silence(error)
            time.sleep(0.2)
            return
        for event in told:
            reach("event.taken")
            if isinstance(event, events.Received):
                self._on_received(event)
            elif isinstance(event, events.CallerRejected):
                self._arrivals.rejected(event, _now())
            elif event is not None:
                self._manager.handle(event, _now())

    def _is_urgent(self, told: list[events.Event | None]) -> bool:
        """Whether these events must not wait for others: nothing else is under way that would bring any."""
        outstanding = self._manager.outstanding
        more = any(isinstance(event, events.Received) for event in told)
        return not outstanding or (outstanding.is_one_rendition and not more)

    def _poll_interval(self) -> float:
        outstanding = self._manager.outstanding
        if outstanding.transcodes_unstarted > 1 and outstanding.transcodes_running:
            return CROWDED_ROUND
        return RENDERING_ROUND if outstanding.transcodes else ROUND

    def _on_received(self, event: events.Received) -> None:
        told = event.told
        if told is not None and self._spool.is_alone(told.id):
            if told.id not in self._manager.entries and not self._reader.is_busy(told.id):
                self._find(State(told, frozenset(), frozenset()))
            return
        # With all instances of its UID: the event of an earlier one may be lost.
        for name in self._spool.namesakes(event.instance):
            if name not in self._manager.entries and not self._reader.is_busy(name):
                self._reread(name)

    def _reread(self, instance: str) -> None:
        state = self._spool.state(instance)
        if state is None:
            self._departed.settle_instance(instance, _now())
            if self._spool.exists(instance):
                state = self._spool.state(instance)
        if state is None:
            self._manager.handle(NotFound(instance), _now())
            return
        self._find(state, tracked=self._is_tracked(instance))

    def _find(self, state: State, *, tracked: bool = False) -> None:
        self._arrivals.received(state.instance.received_at)
        if state.delivered and not tracked:
            self._books.recover(state)
        self._manager.handle(Found(state), _now())

    def _read_spool(self) -> None:
        self._track(self._reader.read_all(self._is_tracked))

    def _is_tracked(self, instance: str) -> bool:
        """Whether the instance is known or being removed, so that the spool need not be read for it."""
        return self._manager.tracks(instance) or instance in self._books

    def _track(self, states: Iterable[State]) -> None:
        for count, state in enumerate(states, 1):
            self._find(state)
            if count % READ_AT_ONCE == 0:  # the commands of a million instances must not pile up
                self._execute(self._manager.take_commands())
                self._record_retired()
                self._remove()

    def _sync_with_spool(self) -> None:
        if self._reader.forget_ended():
            self._read_spool()  # before lanes resume: it may find objects older than those that wait
            self._manager.pause(self._reader.busy_destinations())
        self._departed.settle(_now(), older_than=EVENTS_WITHIN)
        self._track(self._reader.read_next_shards(self._is_tracked, READ_FOR))
        self._apply_orders(until=time.monotonic() + ORDERS_FOR)
        self._check_inbox_and_leases()
        self._write_status()

    def _check_inbox_and_leases(self) -> None:
        try:
            if self._inbox.has_lost_events():
                self._read_spool()
            for verdict in self._watch.check(list(self._manager.outstanding)):
                if isinstance(verdict, Lost):
                    log.warning("BatchLost batch=%s died=%s", verdict.batch, verdict.died)
                self._manager.handle(verdict, _now())
        except RedisError as error:
            self._inbox.note_silence(error)

    def _write_status(self) -> None:
        at = time.time()
        status = (
            snapshot(
                self._manager,
                self._spool,
                self._quarantine,
                at=at,
                ahead=at - _now(),
                read_at=self._read_at,
                redis=self._inbox.answers,
            )
            | self._arrivals.snapshot(_now())
            | {"damaged": sorted(self._reader.damaged.values())}
        )
        try:
            self._spool.write_status(status)
            self._status_failing = False
        except OSError as error:
            if not self._status_failing:  # once: it is tried again within a second
                log.warning("StatusNotWritten: %s; tried again until it is", error.strerror or error)
            self._status_failing = True

    def _refuse_orphans(self, *, park: bool) -> None:
        orphans = self._manager.orphans()
        if orphans and not park:
            counts = ", ".join(f"{name} ({count})" for name, count in sorted(orphans.items()))
            raise Misconfigured(
                f"deliveries are pending for destinations that are not in the configuration: {counts}; put "
                "them back, send what is pending elsewhere with `dicomferry reroute`, or start with --park, "
                "which makes these deliveries dead until you retry or discard them"
            )

    def _apply_orders(self, until: float = float("inf")) -> None:
        """Carry out operators' orders; after `until` (monotonic) the rest waits."""
        carry_out_waiting(self._spool, self._books, self._newer, until, self._look_at_changed)

    def _look_at_changed(self, order: Order) -> None:
        """Look at what an order has changed on the spool."""
        self._count()
        for name in dict.fromkeys(name for item in order.items for name in item.destinations):
            self._manager.ask_again(name)
        for instance in dict.fromkeys(item.instance for item in order.items if item.instance):
            if not self._reader.is_busy(instance):
                self._reread(instance)

    def _newer(self, state: State, destination: str) -> str:
        self._departed.settle(_now())
        self._execute(self._manager.take_commands())
        self._books.write()  # what was delivered is told by the history alone, once it has left
        found = state.instance
        older = Received(found.sop_instance_uid, found.id, found.received_at)
        return newer(self._spool, self._settings.keep_history, older, destination)

    # Out

    def _run_round(self) -> None:
        manager = self._manager
        self._execute(manager.schedule(_now()) if self._inbox.answers else manager.take_commands())
        if not self._busy or time.monotonic() >= self._history_at:
            self._record_retired()
        self._remove(time.monotonic() + REMOVE_FOR if self._busy else math.inf)

    def _execute(self, commands: list[Command]) -> None:
        # Commands may cause events and these commands, but each round leaves less to do.
        while commands:
            self._executor.carry_out(commands)
            commands = self._manager.take_commands()

    def _on_unpublished(self, batch: str, error: Exception) -> None:
        if not isinstance(error, OSError):
            self._inbox.answers = False
        self._manager.handle(Lost(batch, died=False), _now())

    def _count(self) -> None:
        """Let the lanes have the totals of the history, to which each delivery is told once."""
        for name, count in self._books.delivered_counts().items():
            if lane := self._manager.lanes.get(name):
                lane.delivered = count

    def _record_retired(self) -> None:
        if self._books.record(time.time()):
            self._count()
        self._history_at = time.monotonic() + HISTORY_EVERY

    def _remove(self, until: float = math.inf) -> None:
        for instance in self._books.remove(until):
            self._reread(instance)
