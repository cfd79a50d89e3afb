"""What the stages tell the dispatcher, through a Redis list.

An event is a hint, not the truth: whoever sends one has put the fact on the spool before, so that a lost
event makes things late, never wrong. Sending therefore never raises.
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

log = logging.getLogger(__name__)

TOGETHER = 0.02  # seconds: what happens within is told in one go, since each command wakes somebody
EVENTS_KEY = "dicomferry:events"
CANARY_KEY = "dicomferry:canary"  # gone when Redis has forgotten


@dataclass(frozen=True, slots=True)
class Received:
    """Ingest: the instance stands on the spool."""

    instance: str


@dataclass(frozen=True, slots=True)
class Started:
    """Worker or forwarder: the batch holds its lease."""

    batch: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Worker or forwarder: the batch has ended and its lease is gone."""

    batch: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """Worker: the rendition stands on the spool. `notes` says, in words, what was changed besides pixels.

    `digest` is that of the pixels that went in, `verified` how what came out was compared with them; both are
    empty where nothing was looked at.
    """

    batch: str
    instance: str
    key: str
    notes: str = ""
    digest: str = ""
    verified: str = ""

    @property
    def words(self) -> str:
        """All of it, for people."""
        pixels = f"pixels {self.digest}" if self.digest else ""
        return "; ".join(part for part in (self.notes, self.verified, pixels) if part)


@dataclass(frozen=True, slots=True)
class Unsuitable:
    """Worker: this instance cannot be held in that rendition; another one may do."""

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
    """Forwarder: the destination has the object, and the marker stands."""

    batch: str
    destination: str
    instance: str
    key: str | None
    status: int  # DIMSE status, 0x0000 or a warning


@dataclass(frozen=True, slots=True)
class Refused:
    """Forwarder: the destination will not have this object as it was sent.

    `final` (A9xx, Cxxx, 0122, no presentation context): never in this form; else (0110) it may yet.
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
    """Forwarder: the destination does not answer, rejects us, or is out of resources; no object's fault.

    `instance` is the object that was on its way when it happened, if any: perhaps its fault after all, and
    more so where the peer itself `broke_off`, by an abort or by closing the connection.
    """

    batch: str
    destination: str
    reason: str
    instance: str | None = None
    broke_off: bool = False


@dataclass(frozen=True, slots=True)
class Learned:
    """Forwarder: the peer answered a negotiation: transfer syntaxes by SOP class, empty where it takes none.

    `probe` says that it was a probe's whole success (association, and C-ECHO where the peer accepts it).
    """

    batch: str
    destination: str
    accepted: dict[str, list[str]]
    probe: bool


Event = (
    Received
    | Started
    | Finished
    | Rendered
    | Unsuitable
    | Failed
    | Delivered
    | Refused
    | Unreachable
    | Learned
)
_BY_NAME: dict[str, type[Any]] = {kind.__name__: kind for kind in Event.__args__}
_FIELDS = {kind: tuple(known.name for known in fields(kind)) for kind in Event.__args__}


def dump(event: Event) -> str:
    """An event as it travels."""
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
    """Sends events from any thread without ever waiting for Redis or failing."""

    def __init__(self, redis: Redis, *, limit: int = 100_000) -> None:
        self._redis, self._limit = redis, limit
        self._waiting: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._hurry = threading.Event()  # something waits that is not to wait for more
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def send(self, *events: Event) -> None:
        """Hand over events; they leave in order, those of a short while in one command."""
        self._start()
        for event in events:
            if self._waiting.qsize() >= self._limit:
                return  # The dispatcher finds the facts on the spool.
            self._waiting.put(event)
            if isinstance(event, Finished):  # upon it a lane is given more to do
                self._hurry.set()

    def close(self, timeout: float = 2.0) -> None:
        """Send what waits, then stop."""
        if self._thread is not None:
            self._waiting.put(None)
            self._hurry.set()
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
                self._hurry.wait(TOGETHER)
                self._hurry.clear()


class Bundle:
    """Events of one who does one thing after the other: those of a short while leave in one command.

    `wait` is how long the oldest may wait for the next, in seconds. There is no thread: who adds no more, or
    not soon, sends.
    """

    def __init__(self, redis: Redis, *, wait: float = 0.2) -> None:
        self._redis, self._wait = redis, wait
        self._events: list[Event] = []
        self._since = 0.0

    def add(self, event: Event) -> None:
        """One more event."""
        if not self._events:
            self._since = time.monotonic()
        self._events.append(event)
        if time.monotonic() - self._since >= self._wait:
            self.send()

    def send(self) -> None:
        """Send what waits."""
        events, self._events = self._events, []
        push(self._redis, events)


def push(redis: Redis, events: Iterable[Event]) -> None:
    """Send events now; an absent Redis is logged and forgotten."""
    texts = [dump(event) for event in events]
    if not texts:
        return
    try:
        redis.rpush(EVENTS_KEY, *texts)
    except RedisError as error:
        log.warning("EventsLost n=%d: %s; the dispatcher will find them on the spool", len(texts), error)
