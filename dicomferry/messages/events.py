"""Events that the stages send to the dispatcher, through a Redis list.

An event is a hint, not the truth: its sender has written the fact to the spool before, so a lost event makes
things late, never wrong. Sending therefore never raises.
"""

import json
import logging
import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from dicomferry.spool.instance import Instance

log = logging.getLogger(__name__)

SEND_INTERVAL = 0.02  # seconds; events of this time share one command, since each command wakes a process
MAX_UNSENT = 100_000  # events that wait for Redis in one process
EVENTS_KEY = "dicomferry:events"
CANARY_KEY = "dicomferry:canary"  # gone when Redis has lost its data


@dataclass(frozen=True, slots=True)
class Received:
    """Ingest: the instance is on the spool.

    `record` is what it is (`Instance.to_record`), which spares the dispatcher a look at its file. It holds
    UIDs, AE titles and addresses, nothing of the patient. None: it is not told.
    """

    instance: str
    record: dict[str, Any] | None = None

    @property
    def told(self) -> Instance | None:
        """The record, where it is one of this version."""
        try:
            return None if self.record is None else Instance.from_record(self.record)
        except (KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class CallerRejected:
    """Ingest: an association was rejected; for `status` alone. `calling` and `called` are AE titles."""

    calling: str
    called: str
    host: str
    why: str


@dataclass(frozen=True, slots=True)
class Started:
    """Worker: the batch runs and has locked its lease."""

    batch: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Worker or forwarder: the batch has ended and its lease is gone."""

    batch: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """Worker: the rendition is on the spool. `notes` says, in words, what was changed besides pixels.

    `digest` is that of the source's pixels, `verified` says how the rendition's were compared with them; both
    are empty where no pixels were decoded. `size` is that of its file, in bytes.
    """

    batch: str
    instance: str
    key: str
    notes: str = ""
    digest: str = ""
    verified: str = ""
    size: int = 0

    @property
    def words(self) -> str:
        """Notes, verification and digest, for people."""
        pixels = f"pixels {self.digest}" if self.digest else ""
        return "; ".join(part for part in (self.notes, self.verified, pixels) if part)


@dataclass(frozen=True, slots=True)
class Unsuitable:
    """Worker: the instance does not fit that rendition; another one may work."""

    batch: str
    instance: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Postponed:
    """Worker: the rendition cannot be made now; `reason` begins with what it waits for, up to a colon."""

    batch: str
    instance: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """Worker: the instance cannot be decoded at all (damaged, or it kills its worker)."""

    batch: str
    instance: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """Forwarder: the destination has the object, and the marker is written.

    `note` says, in words, what was sent other than the file. `at` is the marker's time.
    """

    batch: str
    destination: str
    instance: str
    key: str | None
    status: int  # DIMSE status, 0x0000 or a warning
    note: str = ""
    at: float | None = None  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class Refused:
    """Forwarder: the destination refused this object as it was sent.

    `final` (A9xx, Cxxx, 0122, no presentation context): never in this form; else (0110) perhaps later.
    `attempts` counts the refusals on the spool, this one included.
    """

    batch: str
    destination: str
    instance: str
    key: str | None
    status: int | None  # DIMSE status; None where no presentation context was accepted
    reason: str
    final: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Forwarder: the destination does not answer, rejects us, or is out of resources.

    `instance` is the object over which that happened, if any: it may be the cause. `status` is the answer,
    if there was one; `broke_off`: the peer aborted or closed the connection.
    """

    batch: str
    destination: str
    reason: str
    instance: str | None = None
    broke_off: bool = False
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """Forwarder: the peer answered a negotiation: transfer syntaxes by SOP class, empty where none is.

    `probe`: a probe succeeded with this (the association, and C-ECHO where the peer accepts it).
    """

    batch: str
    destination: str
    accepted: dict[str, list[str]]
    probe: bool


Event = (
    Received
    | CallerRejected
    | Started
    | Finished
    | Rendered
    | Unsuitable
    | Postponed
    | Failed
    | Delivered
    | Refused
    | Unreachable
    | Learned
)
_BY_NAME: dict[str, type[Any]] = {kind.__name__: kind for kind in Event.__args__}
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in Event.__args__}


def dump(event: Event) -> str:
    """An event as JSON, as it is sent."""
    kind = type(event)
    # Not asdict, which copies deeply.
    values = {name: getattr(event, name) for name in _FIELDS[kind]}
    return json.dumps({"event": kind.__name__} | values, separators=(",", ":"))


def parse(text: str | bytes) -> Event | None:
    """The reverse of `dump`; None for what another version of dicomferry sent."""
    try:
        content = json.loads(text)
        event: Event = _BY_NAME[content.pop("event")](**content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return event


class EventSender:
    """Sends events from any thread; never waits for Redis and never raises."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._waiting: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._send_now = threading.Event()  # set where a queued event is urgent
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def send(self, *events: Event) -> None:
        """Queue events; they are sent in order, those of a short time in one command."""
        self._start()
        for event in events:
            if self._waiting.qsize() >= MAX_UNSENT:
                return  # the dispatcher will find the facts on the spool
            self._waiting.put(event)
            if isinstance(event, Finished):  # the dispatcher gives the lane more work upon it
                self._send_now.set()

    def close(self, timeout: float = 2.0) -> None:
        """Send the queued events, then stop."""
        if self._thread is not None:
            self._waiting.put(None)
            self._send_now.set()
            self._thread.join(timeout)

    def _start(self) -> None:
        # Not in __init__: threads do not survive the fork of a prefork pool.
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = [self._waiting.get()]
            while len(batch) < 1000 and not self._waiting.empty():
                batch.append(self._waiting.get())
            ended = None in batch
            push(self._redis, (event for event in batch if event is not None))
            if not ended:
                self._send_now.wait(SEND_INTERVAL)
                self._send_now.clear()


class EventBuffer:
    """Collects the events of one thread and sends those of a short time in one command.

    `wait` is how long the oldest may wait for the next, in seconds. There is no thread: the owner calls
    `send` where it will add no more soon.
    """

    def __init__(self, redis: Redis, *, wait: float = 0.2) -> None:
        self._redis, self._wait = redis, wait
        self._events: list[Event] = []
        self._since = 0.0

    def add(self, event: Event) -> None:
        """Add an event, and send all if the oldest has waited long enough."""
        if not self._events:
            self._since = time.monotonic()
        self._events.append(event)
        if time.monotonic() - self._since >= self._wait:
            self.send()

    def send(self) -> None:
        """Send the collected events."""
        events, self._events = self._events, []
        push(self._redis, events)


def push(redis: Redis, events: Iterable[Event]) -> None:
    """Send events now; without Redis they are lost, which is logged."""
    texts = [dump(event) for event in events]
    if not texts:
        return
    try:
        redis.rpush(EVENTS_KEY, *texts)
    except RedisError as error:
        log.warning("EventsLost n=%d: %s; the dispatcher will find them on the spool", len(texts), error)
