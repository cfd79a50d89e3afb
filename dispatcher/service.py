"""The dispatcher's process: the queue manager's eyes and hands.

Reads events from Redis, tells the queue manager, carries out its commands. Whatever Redis forgets, or
whoever is killed, it finds again on the spool.
"""

import fcntl
import logging
import math
import os
import signal
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from dicomferry.crashpoints import reach
from dicomferry.errors import Misconfigured
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, new_batch_id
from dicomferry.messages.broker import celery_app, redis_client
from dicomferry.settings import Settings
from dicomferry.spool import orders
from dicomferry.spool.instance import State
from dicomferry.spool.leases import LeaseContent
from dicomferry.spool.spool import Spool, boot_id
from dispatcher.commands import Bury, Command, Keep, Known, Lost, Note, Publish, Reread, Retire, Vanished
from dispatcher.history import History, Row
from dispatcher.leases import LeaseWatch
from dispatcher.manager import QueueManager
from dispatcher.orders import carry_out
from dispatcher.publisher import Publisher
from dispatcher.recovery import SpoolReader
from dispatcher.status import snapshot

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds between looks at leases, the canary and a shard
OBEY_FOR = 0.5  # seconds of these that operators' orders may take
EVENTS_AT_ONCE = 2000
READ_AT_ONCE = 1000  # instances
READ_FOR = 0.02  # seconds of these that the spool is read for what nobody told us
CONCLUDE_EVERY = 0.5  # seconds between two writings of history, while there is something to do
REMOVE_FOR = 0.002  # seconds of a round that what has ended is removed though there is something to do
UNREMOVED_MOST = 2000  # instances that may wait for it: where the disk is slow, lanes wait after all
ROUND = 0.01  # seconds at least between two looks at events: what comes meanwhile goes together
RENDERING_ROUND = 0.02  # while something is being rendered, which takes longer,
CROWDED_ROUND = 0.05  # and while batches wait for a worker: none is idle for want of us
HEAR_FOR = 0.2  # seconds that an idle dispatcher waits for an event
_BEGAN = time.time() - time.monotonic()


def run(settings: Settings, *, park: bool = False) -> None:
    """Dispatch until SIGTERM or SIGINT; `park` buries what waits for destinations that there are no more.

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
    """Seconds since the epoch by a clock that nobody sets meanwhile: no deadline comes early or never."""
    return _BEGAN + time.monotonic()


class Dispatcher:
    """One running dispatcher."""

    def __init__(self, settings: Settings, spool: Spool, redis: Redis, *, park: bool = False) -> None:
        self.stopping = False
        self._settings = settings
        self._spool = spool
        self._redis = redis
        self._publisher = Publisher(celery_app(settings), redis)
        self._history = History(spool.history)
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
        for name, count in self._history.delivered_counts().items():
            if lane := self._manager.lanes.get(name):
                lane.delivered = count
        self._rows: list[Row] = []
        self._retired: dict[str, None] = {}  # instances that have ended since history was written
        self._removed: OrderedDict[str, None] = OrderedDict()  # those before it, to be removed
        self._busy = False
        self._round_at = self._conclude_at = 0.0  # of the monotonic clock: when the next is due
        self._canary = uuid.uuid4().hex
        self._redis_answers = True
        self._read_at = 0.0
        self._park = park

    def run(self) -> None:
        """Work until told to stop."""
        self._spool.sweep()
        self._forget_events()
        self._reader.take_over()
        self._manager.hold(self._reader.sending())
        self._obey()
        self._read_everything()
        self._refuse_strays(park=self._park)
        self._plant_canary()
        self._read_at = time.time()
        log.info("Dispatching destinations=%d", len(self._manager.lanes))
        look_at = 0.0
        while not self.stopping:
            self._hear()
            if time.monotonic() >= look_at:
                self._look_around()
                look_at = time.monotonic() + LOOK_EVERY
            self._act()
        self._conclude()
        self._remove()
        self._history.close()
        log.info("Stopped")

    # In

    def _forget_events(self) -> None:
        try:
            self._redis.delete(events.EVENTS_KEY)  # the spool, which is about to be read, knows better
        except RedisError as error:
            self._redis_is(answering=False, reason=str(error))

    def _hear(self) -> None:
        try:
            wait = min(max(self._manager.next_timer - _now(), RENDERING_ROUND), HEAR_FOR)
            first = self._redis.blpop([events.EVENTS_KEY], timeout=wait)
            # A wait that a timer cut short says nothing of what is to come.
            self._busy = first is not None or wait < HEAR_FOR
            if self._manager.outstanding:  # else nobody is at work, and what came now is waited for
                self._remove(self._round_at)
                time.sleep(max(0.0, self._round_at - time.monotonic()))
            self._round_at = time.monotonic() + self._round()
            rest = self._redis.lpop(events.EVENTS_KEY, EVENTS_AT_ONCE) if first else None
            self._redis_is(answering=True)
        except RedisError as error:
            self._redis_is(answering=False, reason=str(error))
            time.sleep(0.2)
            return
        for text in [first[1], *(rest or ())] if first else ():
            reach("event.taken")
            event = events.parse(text)
            if isinstance(event, events.Received):
                self._received(event.instance)
            elif event is not None:
                self._manager.handle(event, _now())

    def _round(self) -> float:
        outstanding = self._manager.outstanding
        if outstanding.transcodes_unstarted > 1 and outstanding.transcodes_running:
            return CROWDED_ROUND
        return RENDERING_ROUND if outstanding.transcodes else ROUND

    def _redis_is(self, *, answering: bool, reason: str = "") -> None:
        if answering != self._redis_answers:
            log.warning(
                "Redis%s", "Answers" if answering else f"Silent: {reason}; what is to do waits on the spool"
            )
            self._redis_answers = answering
            self._canary = uuid.uuid4().hex  # what came meanwhile nobody told us: read everything again

    def _received(self, instance: str) -> None:
        # With all that have its UID: the event of one that came before may be lost.
        for name in self._spool.namesakes(instance):
            if name not in self._manager.entries and not self._reader.is_busy(name):
                self._reread(name)

    def _reread(self, instance: str) -> None:
        state = self._spool.state(instance)
        self._manager.handle(Known(state) if state else Vanished(instance), _now())

    def _read_everything(self) -> None:
        self._know(self._reader.everything(self._knows))

    def _knows(self, instance: str) -> bool:
        """Whether the spool need not be read for it."""
        return self._manager.knows(instance) or instance in self._retired or instance in self._removed

    def _know(self, states: Iterable[State]) -> None:
        for count, state in enumerate(states, 1):
            self._manager.handle(Known(state), _now())
            if count % READ_AT_ONCE == 0:  # what a million instances lead to must not pile up
                self._execute(self._manager.take_commands())
                self._conclude()
                self._remove()

    def _look_around(self) -> None:
        if self._reader.ended():
            self._read_everything()  # first: what follows may be older than what waits
            self._manager.hold(self._reader.sending())
        self._know(self._reader.next_shards(self._knows, READ_FOR))
        self._obey(until=time.monotonic() + OBEY_FOR)
        self._look_at_redis()
        self._show()

    def _look_at_redis(self) -> None:
        try:
            # Written anew each time, since a Redis that is full still reads, and loses what we are told.
            if self._redis.set(events.CANARY_KEY, self._canary, get=True) != self._canary.encode():
                log.warning("RedisForgot: its canary is gone; reading the whole spool")
                self._plant_canary()
                self._read_everything()
            for verdict in self._watch.look(list(self._manager.outstanding)):
                if isinstance(verdict, Lost):
                    log.warning("BatchLost batch=%s died=%s", verdict.batch, verdict.died)
                self._manager.handle(verdict, _now())
        except RedisError as error:
            self._redis_is(answering=False, reason=str(error))

    def _show(self) -> None:
        at = time.time()
        status = snapshot(
            self._manager,
            self._spool,
            at=at,
            ahead=at - _now(),
            read_at=self._read_at,
            redis=self._redis_answers,
        )
        try:
            self._spool.write_status(status)
        except OSError as error:
            log.warning("StatusNotWritten: %s", error.strerror or error)

    def _refuse_strays(self, *, park: bool) -> None:
        strays = self._manager.strays()
        if strays and not park:
            counts = ", ".join(f"{name} ({count})" for name, count in sorted(strays.items()))
            raise Misconfigured(
                f"deliveries are pending for destinations that are not in the configuration: {counts}; put "
                "them back, send what is pending elsewhere with `dicomferry reroute`, or start with --park, "
                "which makes these deliveries dead until you retry or discard them"
            )

    def _obey(self, until: float = float("inf")) -> None:
        """Carry out what operators have ordered; after `until` (of the monotonic clock) the rest waits."""
        for path in orders.outstanding(self._spool.orders):
            if time.monotonic() > until:
                return
            try:
                self._carry_out_order(path)
            except (ValueError, KeyError, TypeError) as error:
                log.warning("OrderNotUnderstood %s: %s; set aside", path.name, type(error).__name__)
                path.rename(orders.refused_path(path))
            except OSError as error:  # a full disk, or another user's file: it is tried again
                log.warning("OrderNotCarriedOut %s: %s", path.name, error.strerror or error)

    def _carry_out_order(self, path: Path) -> None:
        order = orders.read(path)
        notes = list(carry_out(self._spool, order))
        for note in notes:
            self._remember(note)
        self._write_history()  # first: without its file nothing would tell of it any more
        path.unlink()
        log.info("Order %s by=%s items=%d done=%d", order.act, order.by, len(order.items), len(notes))
        for instance in dict.fromkeys(item.instance for item in order.items):
            if not self._reader.is_busy(instance):
                self._reread(instance)

    def _plant_canary(self) -> None:
        try:
            self._redis.set(events.CANARY_KEY, self._canary)
        except RedisError as error:
            self._redis_is(answering=False, reason=str(error))

    # Out

    def _act(self) -> None:
        manager = self._manager
        self._execute(manager.schedule(_now()) if self._redis_answers else manager.take_commands())
        if not self._busy or time.monotonic() >= self._conclude_at:
            self._conclude()
        self._remove(time.monotonic() + REMOVE_FOR if self._busy else math.inf)

    def _execute(self, commands: list[Command]) -> None:
        # Commands may lead to events and these to commands, but each round leaves less to do.
        while commands:
            self._carry_out(commands)
            commands = self._manager.take_commands()

    def _conclude(self) -> None:
        """Write the history of what has ended, which only then may be removed."""
        self._write_history()
        self._removed |= self._retired
        self._retired = {}
        self._conclude_at = time.monotonic() + CONCLUDE_EVERY

    def _remove(self, until: float = math.inf) -> None:
        """Remove what has ended, until then (of the monotonic clock): no lane is to wait for it."""
        while self._removed and (time.monotonic() < until or len(self._removed) > UNREMOVED_MOST):
            instance, _ = self._removed.popitem(last=False)
            if not self._spool.retire(instance):
                self._reread(instance)

    def _carry_out(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Publish():
                    self._publish(command)
                case Bury():
                    self._bury(command)
                case Reread():
                    for instance in command.instances:
                        self._reread(instance)
                case Note():
                    self._remember(command)
                case Keep():
                    self._spool.drop_renditions(command.instance)
                case Retire():
                    self._retired[command.instance] = None

    def _publish(self, command: Publish) -> None:
        batch = command.batch
        try:
            destination = batch.destination if isinstance(batch, DeliverBatch) else None
            self._spool.leases.create(batch.id, LeaseContent(command.instances, destination))
            reach("publication.leased")
            self._publisher.publish(batch, command.label)
            reach("publication.published")
            log.info("Published batch=%s %s", batch.id, command.label)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("NotPublished batch=%s: %s; it stays on the spool", batch.id, error)
            self._redis_answers = self._redis_answers and isinstance(error, OSError)
            self._spool.leases.revoke(batch.id)
            self._manager.handle(Lost(batch.id, died=False), _now())

    def _bury(self, command: Bury) -> None:
        record: dict[str, Any] = {
            "reason": command.reason,
            "status": command.status,
            "attempts": command.attempts,
            "at": time.time(),
        }
        try:
            reach("burial.begun")
            self._spool.mark_dead(command.instance, command.destination, record)
            reach("burial.marked")
        except FileNotFoundError:
            return  # the instance is gone, and so is what was to be said of it
        log.warning(
            "Dead instance=%s destination=%s: %s", command.instance, command.destination, command.reason
        )

    def _remember(self, note: Note) -> None:
        at = note.at or time.time()
        self._rows.append((at, note.instance, note.sop_instance_uid, note.what, note.destination, note.words))

    def _write_history(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self._history.write(rows)
            reach("history.written")
