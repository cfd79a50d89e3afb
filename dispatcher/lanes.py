"""A destination's queue, and the place of each of its deliveries."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from dicomferry.settings import Destination
from dispatcher.circuit import Circuit, CircuitState
from dispatcher.plan import Choice

UNPLANNED = Choice("", None, "")
NEARLY_THROUGH = 48  # unsent objects of a batch: sending them takes as long as bringing the next batch
LOOKAHEAD = 256  # undelivered renditions of one lane, made or being made: bounds their disk space,
LOOKAHEAD_BYTES = 2 << 30  # and so does this,
KEPT_BYTES = 64 << 20  # or this while their destination is off: the others are made again


class Place(Enum):
    """Where a delivery stands in its lane."""

    UNLEARNED = auto()  # what the peer accepts for its SOP class is not known yet
    TO_RENDER = auto()  # needs a rendition that was not requested yet
    RENDERING = auto()
    READY = auto()
    TAKEN = auto()  # out of its queue, for an instant: its other items in that queue do not count
    BEHIND = auto()  # waits until an older object with its SOP Instance UID is sent
    SENDING = auto()
    DELAYED = auto()  # was refused or came back undone, and waits for its next attempt
    GONE = auto()  # delivered, dead or removed: queues skip it


@dataclass(slots=True, eq=False)
class Entry:
    """An instance, as the queue manager keeps it."""

    id: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    modality: str
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
    broke_off: int = 0  # times that the peer ended the association while it received this
    rendition: int = 0  # bytes of its rendition on the spool
    last: str = ""  # why its last attempt failed
    status: int | None = None  # of its last refusal
    attempts: int = 0  # refusals that the spool has counted


@dataclass(slots=True, eq=False)
class Lane:
    """A destination's queue.

    Queues are pruned lazily: an item counts only while its delivery's place is that queue, and only once.
    """

    destination: Destination
    shown: tuple[str, ...]
    accepted: dict[str, frozenset[str]]  # by SOP class: the syntaxes that the peer accepts
    limit: int  # deliver batches at once
    circuit: CircuitState = field(default_factory=CircuitState)
    unlearned: dict[str, list[Delivery]] = field(default_factory=dict)  # by SOP class
    to_render: deque[Delivery] = field(default_factory=deque)
    ready: deque[Delivery] = field(default_factory=deque)
    counts: dict[Place, int] = field(default_factory=lambda: dict.fromkeys(Place, 0))
    sending: dict[str, str | None] = field(
        default_factory=dict
    )  # deliver batches, each with the batch that follows it
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

    @property
    def may_render(self) -> bool:
        """Whether the lane may request a rendition now."""
        ahead = self.counts[Place.RENDERING] + self.counts[Place.READY] + self.counts[Place.SENDING]
        has_room = not ahead or (ahead < LOOKAHEAD and self.bytes_ahead < LOOKAHEAD_BYTES)
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
            self.to_render.append(delivery)
        elif place is Place.READY:
            self.ready.append(delivery)

    def give_back(self, deliveries: list[Delivery]) -> None:
        """Put unsent deliveries back at the head of the ready queue, in their order."""
        for delivery in reversed(deliveries):
            self.move(delivery, Place.READY)
            self.ready.pop()
            self.ready.appendleft(delivery)

    def take(self, place: Place, most: int, most_bytes: int) -> Iterator[Delivery]:
        """Take deliveries from the head of a queue, at least one if there is one, up to the limits."""
        queue = self.ready if place is Place.READY else self.to_render
        taken = size = 0
        while queue and taken < most and (not taken or size + queue[0].entry.size <= most_bytes):
            delivery = queue.popleft()
            if delivery.place is place:
                self.move(delivery, Place.TAKEN)
                taken += 1
                size += delivery.entry.size
                yield delivery
