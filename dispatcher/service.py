"""The dispatcher's process: the queue manager's eyes and hands.

Reads events from Redis, tells the queue manager, carries out its commands. Whatever Redis forgets, or
whoever is killed, it finds again on the spool.
"""

import fcntl
import json
import logging
import os
import signal
import time
import uuid
from collections.abc import Iterable
from types import FrameType
from typing import Any

from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import RedisError

from dicomferry import events
from dicomferry.batches import new_batch_id
from dicomferry.broker import celery_app, redis_client
from dicomferry.crashpoints import reach
from dicomferry.errors import Misconfigured
from dicomferry.settings import Settings
from dicomferry.spool import Spool, State, boot_id
from dispatcher.commands import Bury, Command, Known, Lost, Note, Publish, Reread, Retire, Vanished
from dispatcher.history import History, Row
from dispatcher.leases import LeaseWatch
from dispatcher.manager import QueueManager
from dispatcher.publisher import Publisher
from dispatcher.recovery import SpoolReader
from dispatcher.status import snapshot

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0  # seconds between looks at leases, the canary and a shard
EVENTS_AT_ONCE = 2000
HEAR_FOR = 0.2  # seconds that an idle dispatcher waits for an event


def run(settings: Settings) -> None:
    """Dispatch until SIGTERM or SIGINT.

    Raises:
        Misconfigured: another dispatcher works on this spool, or there is no broker.
    """
    spool = Spool(settings.spool)
    spool.prepare()
    lock = _lock(spool)
    service = Dispatcher(settings, spool, redis_client(settings))

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


class Dispatcher:
    """One running dispatcher."""

    def __init__(self, settings: Settings, spool: Spool, redis: Redis) -> None:
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
        )
        for name, count in self._history.delivered_counts().items():
            if lane := self._manager.lanes.get(name):
                lane.delivered = count
        self._rows: list[Row] = []
        self._canary = uuid.uuid4().hex
        self._redis_answers = True
        self._read_at = 0.0

    def run(self) -> None:
        """Work until told to stop."""
        self._spool.sweep()
        self._forget_events()
        self._reader.take_over()
        self._read_everything()
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
            first = self._redis.blpop([events.EVENTS_KEY], timeout=HEAR_FOR)
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
                if event.instance not in self._manager.entries and not self._reader.is_busy(event.instance):
                    self._reread(event.instance)
            elif event is not None:
                self._manager.handle(event, time.time())

    def _redis_is(self, *, answering: bool, reason: str = "") -> None:
        if answering != self._redis_answers:
            log.warning(
                "Redis%s", "Answers" if answering else f"Silent: {reason}; what is to do waits on the spool"
            )
            self._redis_answers = answering

    def _reread(self, instance: str) -> None:
        state = self._spool.state(instance)
        self._manager.handle(Known(state) if state else Vanished(instance), time.time())

    def _read_everything(self) -> None:
        self._know(self._reader.everything(_Known(self._manager)))

    def _know(self, states: Iterable[State]) -> None:
        for state in states:
            self._manager.handle(Known(state), time.time())

    def _look_around(self) -> None:
        if self._reader.ended():
            self._read_everything()
        self._know(self._reader.next_shard(_Known(self._manager)))
        try:
            if self._redis.get(events.CANARY_KEY) != self._canary.encode():
                log.warning("RedisForgot: its canary is gone; reading the whole spool")
                self._plant_canary()
                self._read_everything()
            for verdict in self._watch.look(list(self._manager.outstanding)):
                if isinstance(verdict, Lost):
                    log.warning("BatchLost batch=%s died=%s", verdict.batch, verdict.died)
                self._manager.handle(verdict, time.time())
            status = snapshot(self._manager, self._spool, at=time.time(), read_at=self._read_at)
            self._spool.write_status(status)
            self._redis.set(events.STATUS_KEY, json.dumps(status))
        except RedisError as error:
            self._redis_is(answering=False, reason=str(error))

    def _plant_canary(self) -> None:
        try:
            self._redis.set(events.CANARY_KEY, self._canary)
        except RedisError as error:
            self._redis_is(answering=False, reason=str(error))

    # Out

    def _act(self) -> None:
        manager = self._manager
        # Commands may lead to events and these to commands, but each round leaves less to do.
        commands = manager.schedule(time.time()) if self._redis_answers else manager.take_commands()
        while commands:
            retired = self._carry_out(commands)
            self._write_history()
            for instance in retired:
                if not self._spool.retire(instance):
                    self._reread(instance)
            commands = manager.take_commands()

    def _carry_out(self, commands: list[Command]) -> list[str]:
        retired = []
        for command in commands:
            match command:
                case Publish():
                    self._publish(command)
                case Bury():
                    self._bury(command)
                case Reread():
                    for instance in command.instances:
                        self._reread(instance)
                case Note(instance, sop_instance_uid, what, destination, words, at):
                    row = (at or time.time(), instance, sop_instance_uid, what, destination, words)
                    self._rows.append(row)
                case Retire():
                    retired.append(command.instance)
        return retired

    def _publish(self, command: Publish) -> None:
        batch = command.batch
        try:
            self._spool.make_lease(batch.id, command.instances)
            reach("publication.leased")
            self._publisher.publish(batch, command.label)
            reach("publication.published")
            log.info("Published batch=%s %s", batch.id, command.label)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("NotPublished batch=%s: %s; it stays on the spool", batch.id, error)
            self._redis_answers = self._redis_answers and isinstance(error, OSError)
            self._spool.take_back_lease(batch.id)
            self._manager.handle(Lost(batch.id, died=False), time.time())

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

    def _write_history(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self._history.write(rows)
            reach("history.written")


class _Known:
    """What the queue manager need not be told again."""

    def __init__(self, manager: QueueManager) -> None:
        self._manager = manager

    def __contains__(self, instance: object) -> bool:
        return instance in self._manager.entries or instance in self._manager.parked
