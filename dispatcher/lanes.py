"""A destination's queue, and the place of each of its deliveries."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice

from dicomferry.settings import Destination
from dispatcher.circuit import Circuit, CircuitState
from dispatcher.plan import Choice
from dispatcher.turns import Turns

UNPLANNED = Choice("", None, "")
NEARLY_THROUGH = 48  # unsent objects of a batch: sending them takes as long as bringing the next batch
LOOKAHEAD = 256  # undelivered renditions of one lane, made or being made: bounds their disk space,
LOOKAHEAD_BYTES = 2 << 30  # and so does this,
KEPT_BYTES = 64 << 20  # or this while their destination is off: the others are made again
TURNS = 4  # objects over which a peer may fail, one after the other, before its circuit opens


class Place(Enum):
    """Where a delivery stands in its lane."""

    UNLEARNED = auto()  # what the peer accepts for its SOP class is not known yet, or is asked again
    TO_RENDER = auto()  # needs a rendition that was not requested yet
    RENDERING = auto()
    READY = auto()
    TAKEN = auto()  # out of its queue, for an instant: its other items in that queue do not count
    BEHIND = auto()  # waits until an older object with its SOP Instance UID is sent
    SENDING = auto()
    HELD = auto()  # its peer failed over it: others go first
    DELAYED = auto()  # was refused or came back undone, and waits for its next attempt
    GONE = auto()  # delivered, dead or removed: queues skip it


class Doubt(Enum):
    """What is held against a delivery over which its peer failed."""

    NONE = auto()
    ABSOLVED = auto()  # others failed too
    ACCUSED = auto()  # nothing else was tried since
    PROVEN = auto()  # others were delivered since: each further failure is its own


@dataclass(frozen=True, slots=True)
class Asked:
    """That a peer was asked what it accepts for a SOP class, and gave the same answer `times` in a row."""

    times: int
    again_at: float  # when it may be asked again, seconds since the epoch


@dataclass(slots=True, eq=False)
class Entry:
    """An instance, as the queue manager keeps it."""

    id: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    modality: str
    caller: str  # calling AE title
    transfer_syntax_uid: str
    size: int
    received_at: float  # seconds since the epoch
    asked_at: float  # since when it is pending: its reception, or an operator's last order
    delivered_at: float = 0.0  # of its last delivery
    deliveries: dict[str, "Delivery"] = field(default_factory=dict)  # pending ones, by destination
    sendable: bool = True  # as received
    alone: bool = False  # it was in a batch that died: from now on it gets batches of its own


@dataclass(slots=True, eq=False)
class Delivery:
    """One pending (instance, destination) pair."""

    entry: Entry
    destination: str
    place: Place = Place.GONE
    choice: Choice = UNPLANNED
    batch: str | None = None  # the batch that renders or sends it
    ruled_out: dict[str, str] | None = None  # transfer syntaxes found unsuitable or refused, with the reason
    undone: int = 0  # batches that ended without a result for it: lost, or a full disk
    moved_on: bool = False  # the next best syntax was tried after a refusal
    doubt: Doubt = Doubt.NONE
    rendition: int = 0  # bytes of its rendition on the spool
    last: str = ""  # why its last attempt failed
    status: int | None = None  # of its last refusal
    attempts: int = 0  # failed ones that the spool has counted


@dataclass(slots=True, eq=False)
class Lane:
    """A destination's queue.

    Queues are pruned lazily: an item counts only while its delivery's place is that queue, and only once.
    """

    destination: Destination
    shown: tuple[str, ...]
    accepted: dict[str, frozenset[str]]  # by SOP class: the syntaxes that the peer accepts
    limit: int  # deliver batches at once
    asked: dict[str, Asked] = field(default_factory=dict)  # by SOP class; absent: it may be asked at once
    circuit: CircuitState = field(default_factory=CircuitState)
    unlearned: dict[str, list[Delivery]] = field(default_factory=dict)  # by SOP class
    to_render: Turns[Delivery] = field(default_factory=Turns)
    ready: deque[Delivery] = field(default_factory=deque)
    counts: dict[Place, int] = field(default_factory=lambda: dict.fromkeys(Place, 0))
    sending: dict[str, str | None] = field(
        default_factory=dict
    )  # deliver batches, each with the batch that follows it
    failed: str = ""  # the last deliver batch that its peer ended: what follows it fails too
    suspects: dict[Delivery, None] = field(default_factory=dict)  # with a doubt, the last one to fail last
    turns: int = TURNS  # that are left before the circuit opens over objects
    paused: bool = False  # a batch of an earlier dispatcher still sends
    probe: str | None = None  # the outstanding probe batch
    gathers_until: float = 0.0  # when ready deliveries wait no longer for more, seconds since the epoch; or 0
    bytes_ahead: int = 0  # of the renditions of its deliveries
    delivered: int = 0
    dead: int = 0

    @property
    def pending(self) -> int:
        """Deliveries that are neither delivered nor dead."""
        return sum(count for place, count in self.counts.items() if place is not Place.GONE)

    def may_ask(self, sop_class: str, now: float) -> bool:
        """Whether the peer may be asked now what it accepts for this SOP class."""
        asked = self.asked.get(sop_class)
        return asked is None or asked.again_at <= now

    @property
    def untried(self) -> int:
        """Deliveries that could go soon and over which the peer has not failed."""
        places = [Place.TO_RENDER, Place.RENDERING, Place.READY]
        if self.unlearned.keys() - self.accepted.keys():  # others wait until they may be asked again
            places.append(Place.UNLEARNED)
        tried = sum(suspect.place in places for suspect in self.suspects)
        return sum(self.counts[place] for place in places) - tried

    @property
    def may_render(self) -> bool:
        """Whether the lane may request a rendition now."""
        ahead = self.counts[Place.RENDERING] + self.counts[Place.READY] + self.counts[Place.SENDING]
        # What is held has renditions too; but it may wait for another object to be delivered.
        few = ahead + self.counts[Place.HELD] < LOOKAHEAD and self.bytes_ahead < LOOKAHEAD_BYTES
        has_room = few or not ahead
        return self.counts[Place.TO_RENDER] > 0 and has_room and self.circuit.state is not Circuit.OPEN

    def openings(self, left: Callable[[str], int]) -> list[str | None]:
        """The deliver batches that may go now: None for a free association, else the batch to follow.

        `left` gives the number of a batch's objects without a result yet. A lane with several associations
        needs no follower: while one gets its next batch, the others send.
        """
        if not self.counts[Place.READY] or self.circuit.state is Circuit.OPEN or self.paused:
            return []
        limit = self.limit if self.circuit.state is Circuit.CLOSED else 1
        free: list[str | None] = [None] * (limit - len(self.sending))
        if free or self.limit > 1 or self.circuit.state is not Circuit.CLOSED:
            return free
        return [
            batch
            for batch, follower in self.sending.items()
            if follower is None and left(batch) <= NEARLY_THROUGH
        ]

    def begin(self, batch: str, after: str | None) -> None:
        """Give an opening to a deliver batch that is about to be published."""
        if after is None:
            self.sending[batch] = None
        else:
            self.sending[after] = batch

    def end(self, batch: str) -> None:
        """End a deliver batch: its follower takes over its association."""
        follower = self.sending.pop(batch, None)
        if follower is not None:
            self.sending[follower] = None
        self.sending = {first: second if second != batch else None for first, second in self.sending.items()}

    def hold(self, delivery: Delivery, size: int) -> None:
        """Note the bytes of the delivery's rendition on the spool; 0: there is none."""
        self.bytes_ahead += size - delivery.rendition
        delivery.rendition = size

    def move(self, delivery: Delivery, place: Place) -> None:
        """Move a delivery to another place."""
        if place is Place.GONE and delivery.rendition:
            self.hold(delivery, 0)
        if delivery.place is not Place.GONE:
            self.counts[delivery.place] -= 1
        delivery.place = place
        if place is not Place.GONE:
            self.counts[place] += 1
        if place is Place.UNLEARNED:
            self.unlearned.setdefault(delivery.entry.sop_class_uid, []).append(delivery)
        elif place is Place.TO_RENDER:
            self.to_render.add(delivery.entry.caller, delivery.entry.study_instance_uid, delivery)
        elif place is Place.READY:
            self.ready.append(delivery)

    def give_back(self, deliveries: list[Delivery]) -> None:
        """Put unsent deliveries back at the head of the ready queue, in their order."""
        for delivery in reversed(deliveries):
            self.move(delivery, Place.READY)
            self.ready.pop()
            self.ready.appendleft(delivery)

    def bring_forward(self) -> None:
        """Let a ready delivery of another study than the suspects' be the next: it tells more."""
        studies = {suspect.entry.study_instance_uid for suspect in self.suspects}
        for delivery in islice(self.ready, LOOKAHEAD):
            if delivery.place is Place.READY and delivery.entry.study_instance_uid not in studies:
                self.give_back([delivery])
                return

    def take_ready(self, most: int, most_bytes: int) -> list[Delivery]:
        """Take ready deliveries, the first ones, at least one if there is one, up to the limits."""
        taken: list[Delivery] = []
        left = most_bytes
        while self.ready and len(taken) < most and (not taken or self.ready[0].entry.size <= left):
            delivery = self.ready.popleft()
            if delivery.place is Place.READY:
                self.move(delivery, Place.TAKEN)
                left -= delivery.entry.size
                taken.append(delivery)
        return taken

    def take_to_render(self, caller: str, most: int, most_bytes: int) -> list[Delivery]:
        """Take deliveries of one caller that want a rendition; its studies take turns. Limits as above."""
        taken: list[Delivery] = []
        left, queue = most_bytes, self.to_render
        while len(taken) < most and (first := queue.first(caller)):
            if taken and first.entry.size > left:
                break
            delivery = queue.pop(caller)
            if delivery.place is Place.TO_RENDER:
                self.move(delivery, Place.TAKEN)
                left -= delivery.entry.size
                taken.append(delivery)
        if taken:
            queue.end_turn(caller, taken[-1].entry.study_instance_uid)
        return taken
