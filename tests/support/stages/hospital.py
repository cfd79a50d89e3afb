"""A hospital in virtual time around the real queue manager: workers, a forwarder, peers that may be off.

Nothing sleeps and nothing is written; what is measured is the manager alone.
"""

import heapq
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dicomferry.dicom.syntaxes import EXPLICIT_LE, IMPLICIT_LE
from dicomferry.messages import events
from dicomferry.messages.batches import Batch, DeliverBatch, ProbeBatch, TranscodeBatch
from dicomferry.settings import Destination
from dicomferry.spool.instance import Instance, State
from dispatcher.commands import Command, Found, MarkDead, NotFound, Publish, Reread, Retire
from dispatcher.lanes import Place
from dispatcher.manager import QueueManager
from workers.batch import TURN

CT = "1.2.840.10008.5.1.4.1.1.2"
J2K = "1.2.840.10008.1.2.4.90"
RENDERING, SENDING = 0.05, 0.01  # virtual seconds for each object
TIMEOUT = 30.0  # virtual seconds until a peer that is off is given up
FAILURES = {"A700": SENDING, "closes": SENDING, "silent": TIMEOUT}  # virtual seconds until each is known
AT_ONCE = 50  # events that the dispatcher takes in before it schedules


@dataclass
class Report:
    """What was seen. Times named `virtual` are simulated, the others CPU time measured; both in seconds."""

    deliveries: int
    lanes: int
    lanes_off: int
    reading: float = 0.0  # telling the manager of every instance, at start
    events: int = 0
    handling: float = 0.0  # in the manager, for all events after the start
    delivered: int = 0
    dead: dict[int, str] = field(default_factory=dict)  # by number of the instance: why
    at: dict[int, float] = field(default_factory=dict)  # the same: virtual time of its delivery
    virtual: float = 0.0
    virtual_gap: float = 0.0  # the longest in which a lane that is on and has something left got nothing
    most_outstanding: int = 0  # batches in Celery
    most_unstarted: int = 0  # transcode batches that no worker has begun
    most_ahead: int = 0  # renditions of one lane made or being made, and not delivered

    @property
    def microseconds_an_event(self) -> float:
        """Of manager time."""
        return 1e6 * self.handling / max(1, self.events)


class Hospital:
    """`deliveries` instances of one delivery each, over `lanes` destinations; `off` of these never answer.

    `bad` has the instances over which the peers fail, and how; `full_until`: until then they take none.
    `arrives`, `caller` and `rendering` (virtual seconds) are by number of the instance.
    """

    def __init__(
        self,
        deliveries: int,
        lanes: int,
        off: int,
        *,
        workers: int = 200,
        bad: Mapping[int, str] | None = None,
        full_until: float = 0.0,
        arrives: Callable[[int], float] = lambda _: 0.0,
        caller: Callable[[int], str] = lambda _: "PACS",
        rendering: Callable[[int], float] = lambda _: RENDERING,
        **keys: Any,
    ) -> None:
        self._bad, self._full_until, self._arrives = bad or {}, full_until, arrives
        self._caller, self._rendering = caller, rendering
        self.report = Report(deliveries, lanes, off)
        self._names = [f"ws{number}" for number in range(lanes)]
        self._off = set(self._names[:off])
        self._done = bytearray(deliveries)
        self._left = [len(range(lane, deliveries, lanes)) for lane in range(lanes)]
        self._last = [0.0] * lanes  # virtual time of the last delivery
        self._idle = workers
        self._transcoding: set[str] = set()
        self._queue: deque[TranscodeBatch] = deque()
        self._heap: list[tuple[float, int, list[Any]]] = []
        self._numbers = itertools.count()
        self._now = 0.0
        shown = {"host": "127.0.0.1", "port": 104, "transfer_syntaxes": ["uncompressed"]}
        self.manager = QueueManager(
            [
                Destination.model_validate({"name": name, "title": name.upper()} | shown | keys)
                for name in self._names
            ],
            boot="boot",
            accepted={},
            new_batch_id=lambda: f"{next(self._numbers):032x}",
        )

    def run(self) -> Report:
        """Begin with everything pending; end when every lane that is on is empty."""
        report = self.report
        begun = time.process_time()
        for number in range(report.deliveries):
            if self._arrives(number):
                self._at(self._arrives(number), Found(self._state(number)))
                continue
            self.manager.handle(Found(self._state(number)), 0.0)
            if number % 1000 == 0:
                self._carry_out(self.manager.take_commands())
        report.reading = time.process_time() - begun
        self._carry_out(self.manager.schedule(0.0))
        wanted = sum(self._left[report.lanes_off :])
        while report.delivered + len(report.dead) < wanted:
            self._take_in(self._next())
        report.virtual = self._now
        return report

    # The dispatcher's loop

    def _next(self) -> list[Any]:
        happened: list[Any] = []
        timer = self.manager.next_timer
        if timer < (self._heap[0][0] if self._heap else math.inf):
            self._now = timer
            return happened
        assert self._heap, "nothing is under way, though something is left"
        while self._heap and (not happened or (self._heap[0][0] <= self._now and len(happened) < AT_ONCE)):
            when, _, what = heapq.heappop(self._heap)
            self._now = max(self._now, when)
            happened += what
        return happened

    def _take_in(self, happened: list[Any]) -> None:
        report = self.report
        begun = time.process_time()
        for event in happened:
            self.manager.handle(event, self._now)
        commands = self.manager.schedule(self._now)
        report.handling += time.process_time() - begun
        report.events += len(happened)
        for event in happened:
            if isinstance(event, events.Delivered):
                self._delivered(event)
            elif isinstance(event, events.Finished) and event.batch in self._transcoding:
                self._transcoding.discard(event.batch)
                self._idle += 1
        self._begin()
        self._carry_out(commands)
        report.most_outstanding = max(report.most_outstanding, len(self.manager.outstanding))
        report.most_unstarted = max(report.most_unstarted, len(self._queue))

    def _delivered(self, event: events.Delivered) -> None:
        lane = int(event.destination[2:])
        self.report.virtual_gap = max(self.report.virtual_gap, self._now - self._last[lane])
        self._last[lane] = self._now
        self._left[lane] -= 1
        self._done[int(event.instance)] = 1
        self.report.at[int(event.instance)] = self._now
        self.report.delivered += 1
        counts = self.manager.lanes[event.destination].counts
        ahead = counts[Place.RENDERING] + counts[Place.READY] + counts[Place.SENDING]
        self.report.most_ahead = max(self.report.most_ahead, ahead)

    # The stages

    def _carry_out(self, commands: list[Command]) -> None:
        while commands:
            for command in commands:
                match command:
                    case Publish():
                        self._run(command.batch)
                    case Reread():
                        for instance in command.instances:
                            state = self._state(int(instance))
                            self.manager.handle(
                                Found(state) if state.pending else NotFound(instance), self._now
                            )
                    case MarkDead():
                        self.report.dead[int(command.instance)] = command.reason
                    case Retire():
                        assert self._done[int(command.instance)], "retired before it was delivered"
            commands = self.manager.take_commands()

    def _run(self, batch: Batch) -> None:
        if isinstance(batch, TranscodeBatch):
            self._queue.append(batch)
            self._begin()
        elif batch.destination in self._off:
            gone = events.Unreachable(batch.id, batch.destination, "no answer")
            self._at(TIMEOUT, gone, events.Finished(batch.id))
        elif isinstance(batch, ProbeBatch):
            answer = {uid: [EXPLICIT_LE, IMPLICIT_LE] for uid in batch.sop_classes}
            learned = events.Learned(batch.id, batch.destination, answer, probe=True)
            self._at(SENDING, learned, events.Finished(batch.id))
        else:
            self._deliver(batch)

    def _deliver(self, batch: DeliverBatch) -> None:
        for count, parcel in enumerate(batch.parcels, 1):
            how = "A700" if self._now < self._full_until else self._bad.get(int(parcel.instance))
            if how is not None:
                took = SENDING * count + FAILURES[how]
                failure = events.Unreachable(
                    batch.id, batch.destination, how, parcel.instance, how == "closes"
                )
                self._at(took, failure, events.Finished(batch.id))
                return
            done = events.Delivered(batch.id, batch.destination, parcel.instance, parcel.key, 0)
            self._at(SENDING * count, done)
        self._at(SENDING * len(batch.parcels), events.Finished(batch.id))

    def _begin(self) -> None:
        while self._idle and self._queue:
            self._idle -= 1
            batch = self._queue.popleft()
            self._transcoding.add(batch.id)
            self._at(0.0, events.Started(batch.id))
            took = 0.0
            for instance in batch.instances:
                if took > TURN:
                    break
                took += self._rendering(int(instance))
                self._at(took, events.Rendered(batch.id, instance, batch.spec.key))
            self._at(took, events.Finished(batch.id))

    def _at(self, delay: float, *what: Any) -> None:
        heapq.heappush(self._heap, (self._now + delay, next(self._numbers), list(what)))

    def _state(self, number: int) -> State:
        root = "1.2.826.0.1.3680043.8.498"
        instance = Instance(
            id=f"{number:048d}", sop_class_uid=CT, sop_instance_uid=f"{root}.{number:038d}",
            study_instance_uid=f"{root}.{number // 200:038d}", series_instance_uid="1.2.3",
            modality="CT", transfer_syntax_uid=J2K, calling_ae_title=self._caller(number),
            called_ae_title="FERRY", peer="127.0.0.1", received_at=0.0, size=200_000, digest="", route="",
            destinations=(self._names[number % len(self._names)],),
        )  # fmt: skip
        return State(instance, frozenset(instance.destinations if self._done[number] else ()), frozenset())
