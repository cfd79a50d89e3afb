"""A destination's queue: where each of its deliveries stands."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from dicomferry.settings import Destination
from dispatcher.circuit import Circuit, CircuitState
from dispatcher.plan import Choice

UNPLANNED = Choice("", None, "")
NEARLY_THROUGH = 48  # objects left of a batch: what lasts as long as it takes to bring the next one
LOOKAHEAD = 256  # renditions of one lane made or being made and not yet delivered: bounds the disk they take


class Place(Enum):
    """Where a delivery stands in its lane."""

    UNLEARNED = auto()  # what the peer accepts for its SOP class is not known
    TO_RENDER = auto()  # needs a rendition that nobody was asked for yet
    RENDERING = auto()
    READY = auto()
    TAKEN = auto()  # out of its queue, for an instant: what else of it stands there does not count
    BEHIND = auto()  # can be sent once an older object with its SOP Instance UID is
    SENDING = auto()
    DELAYED = auto()  # was refused or came back undone, and waits for its next attempt
    GONE = auto()  # delivered, dead or forgotten: queues skip it


@dataclass(slots=True, eq=False)
class Entry:
    """What the queue manager keeps of an instance."""

    id: str
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    modality: str
    transfer_syntax_uid: str
    size: int
    received_at: float  # seconds since the epoch
    asked_at: float  # since when it is to be delivered: received, or an operator's word on it
    delivered_at: float = 0.0  # of its last delivery
    deliveries: dict[str, "Delivery"] = field(default_factory=dict)  # pending ones, by destination
    alone: bool = False  # it was in a batch that died: never again together with others


@dataclass(slots=True, eq=False)
class Delivery:
    """One pending (instance, destination) pair."""

    entry: Entry
    destination: str
    place: Place = Place.GONE
    choice: Choice = UNPLANNED
    batch: str | None = None  # that renders or sends it
    ruled_out: dict[str, str] | None = None  # transfer syntaxes found unsuitable or refused, with the reason
    undone: int = 0  # times that its batch ended without a word on it: lost, or a full disk
    moved_on: bool = False  # the next best syntax was tried after a refusal
    broke_off: int = 0  # times that the peer ended the association while it got this
    last: str = ""  # why it was not delivered the last time
    status: int | None = None  # of its last refusal
    attempts: int = 0  # refusals on the spool


@dataclass(slots=True, eq=False)
class Lane:
    """A destination's queue.

    Queues are pruned lazily: an item counts while its place says so, and once, however often it is there.
    """

    destination: Destination
    shown: tuple[str, ...]
    accepted: dict[str, frozenset[str]]  # by SOP class: what the peer was seen to accept
    limit: int  # deliver batches at once
    circuit: CircuitState = field(default_factory=CircuitState)
    unlearned: dict[str, list[Delivery]] = field(default_factory=dict)  # by SOP class
    to_render: deque[Delivery] = field(default_factory=deque)
    ready: deque[Delivery] = field(default_factory=deque)
    counts: dict[Place, int] = field(default_factory=lambda: dict.fromkeys(Place, 0))
    sending: dict[str, str | None] = field(default_factory=dict)  # deliver batches, and what follows each
    held: bool = False  # a batch of an earlier dispatcher still sends
    probe: str | None = None  # the probe batch that is under way
    gathers_until: float = 0.0  # in seconds since the epoch; 0 where nothing that is ready waits for others
    delivered: int = 0
    dead: int = 0

    @property
    def pending(self) -> int:
        """Deliveries that are neither delivered nor dead."""
        return sum(count for place, count in self.counts.items() if place is not Place.GONE)

    @property
    def renders(self) -> bool:
        """Whether it may ask for a rendition now."""
        ahead = self.counts[Place.RENDERING] + self.counts[Place.READY] + self.counts[Place.SENDING]
        return (
            self.counts[Place.TO_RENDER] > 0 and ahead < LOOKAHEAD and self.circuit.state is not Circuit.OPEN
        )

    def openings(self, left: Callable[[str], int]) -> list[str | None]:
        """For what deliver batches there is room now: None for a free association, else whom to follow.

        `left` tells of how many objects of a batch nothing was heard yet. Where there are several
        associations none needs one to follow: the others send meanwhile, and who is free first takes what
        there is.
        """
        if not self.counts[Place.READY] or self.circuit.state is Circuit.OPEN or self.held:
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
        """A deliver batch is to be published: it takes an opening."""
        if after is None:
            self.sending[batch] = None
        else:
            self.sending[after] = batch

    def end(self, batch: str) -> None:
        """A deliver batch is over: what follows it has its association now."""
        follower = self.sending.pop(batch, None)
        if follower is not None:
            self.sending[follower] = None
        self.sending = {first: second if second != batch else None for first, second in self.sending.items()}

    def move(self, delivery: Delivery, place: Place) -> None:
        """Put a delivery at a place; it leaves the one where it was."""
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
        """Put what was to be sent at the head of the ready queue again, in its order."""
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
