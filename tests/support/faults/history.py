"""What a sender and its receivers saw, and whether that keeps the promise.

The promise: an object whose C-STORE was answered 0x0000 is delivered to each of its destinations in
acceptable form, or stands where an operator sees it, with the reason; it comes twice only where that is
unavoidable, and then with the same bytes. `violations` is a pure function over the logs;
times are of one clock, in seconds.
"""

import json
import threading
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HOSTILE = "hostile"  # in place of the pixels of an object that is not to be decoded,
HOSTILE_ROOT = "1.2.826.0.1.3680043.8.498.666."  # whose SOP Instance UID begins so
TURN = 60.0  # seconds from a healthy object's turn until it has arrived, while nothing is broken
MARKING = 3.0  # seconds from an object's arrival until the forwarder has read the answer and noted it


@dataclass(frozen=True, slots=True)
class Sent:
    """One C-STORE as its requestor saw it; without a `status` there was no answer."""

    uid: str
    syntax: str
    digest: str  # of the data set's bytes
    pixels: str  # digest of the decoded pixels
    began: float
    ended: float
    status: int | None
    only: str = ""  # its one destination; else all are


@dataclass(frozen=True, slots=True)
class Arrived:
    """One whole object at a destination."""

    destination: str
    uid: str
    syntax: str
    digest: str
    pixels: str
    at: float


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done to the system, and to which parts of it.

    `touched` names parts ("forwarder", "redis"...), wires ("wire:ws1") and "spool". `at_most` is how many
    objects in one association it can have caught between the peer's success and our marker.
    """

    kind: str
    touched: tuple[str, ...]
    began: float
    ended: float
    at_most: int | None = 1

    def doubles(self, arrival: Arrived) -> bool:
        """Whether it may have kept us from noting that `arrival` was taken."""
        reaches = {"forwarder", "spool", f"wire:{arrival.destination}"} & set(self.touched)
        return bool(reaches) and self.began - MARKING <= arrival.at <= self.ended + MARKING


@dataclass(frozen=True, slots=True)
class Parked:
    """An object that an operator sees on the spool; without a destination, in quarantine."""

    uid: str
    destination: str
    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """A delivery that is still to be made when everything was whole for long; or, without one, an instance
    that stands though nothing is left to be done."""

    uid: str
    destination: str


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken."""

    rule: str
    uid: str
    destination: str
    words: str


@dataclass
class History:
    """Everything that was seen of one run."""

    accepts: dict[str, frozenset[str]]  # by destination: transfer syntaxes that it shows
    associations: dict[str, int] = field(default_factory=dict)  # by destination: at once; else one
    sent: list[Sent] = field(default_factory=list)
    arrived: list[Arrived] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)


def violations(history: History) -> list[Violation]:
    """Every broken promise, each once."""
    sent, arrived = defaultdict(list), defaultdict(list)
    for store in history.sent:
        sent[store.uid].append(store)
    for arrival in history.arrived:
        arrived[arrival.uid, arrival.destination].append(arrival)
    found = [
        Violation("left", left.uid, left.destination, "still on the spool when all was whole for long")
        for left in history.left
    ]
    found += [
        Violation("unreasoned", parked.uid, parked.destination, "parked without a reason")
        for parked in history.parked
        if not parked.reason
    ]
    for uid, stores in sent.items():
        found.extend(_kept(history, uid, stores, arrived))
    for (uid, _), arrivals in arrived.items():
        found.extend(_sound(history, sent[uid], sorted(arrivals, key=lambda a: a.at)))
    return found + list(_doubled(history, sent, arrived)) + list(_late(history, sent, arrived))


def duplicates(history: History) -> int:
    """How many arrivals were not the first of their object at their destination."""
    return len(history.arrived) - len({(a.uid, a.destination) for a in history.arrived})


def _kept(
    history: History, uid: str, stores: list[Sent], arrived: dict[tuple[str, str], list[Arrived]]
) -> Iterable[Violation]:
    if not any(store.status == 0 for store in stores):
        if not any(parked.uid == uid for parked in history.parked):
            yield Violation("unanswered", uid, "", f"{len(stores)} times sent, never answered with success")
        return
    parked = {parked.destination for parked in history.parked if parked.uid == uid}
    left = {left.destination for left in history.left if left.uid == uid}
    for destination in {store.only for store in stores} - {""} or history.accepts:
        if not (arrived.get((uid, destination)) or {destination, ""} & parked or destination in left):
            yield Violation("lost", uid, destination, "answered with success, neither delivered nor parked")


def _sound(history: History, stores: list[Sent], arrivals: list[Arrived]) -> Iterable[Violation]:
    first = arrivals[0]
    uid, destination = first.uid, first.destination
    if not stores:
        yield Violation("foreign", uid, destination, "was never sent to us")
        return
    for arrival in arrivals:
        if arrival.syntax not in history.accepts[destination]:
            yield Violation("unacceptable", uid, destination, f"came in {arrival.syntax}")
        if arrival.pixels not in {store.pixels for store in stores}:
            yield Violation("altered", uid, destination, f"came with pixels {arrival.pixels}")
        as_sent = {store.digest for store in stores if store.syntax == arrival.syntax}
        if as_sent and arrival.digest not in as_sent:
            yield Violation(
                "touched", uid, destination, "came in the syntax it was sent in, with other bytes"
            )
        if arrival.digest != first.digest:
            yield Violation("differing", uid, destination, "came twice, with different bytes")


def _late(
    history: History, sent: dict[str, list[Sent]], arrived: dict[tuple[str, str], list[Arrived]]
) -> Iterable[Violation]:
    """Healthy objects that did not arrive though no older one did either: so it was their turn.

    Only what was sent when the last fault was over, to a destination that answered again, is looked at.
    """
    whole = max((fault.ended for fault in history.faults), default=0.0)
    taken = {uid: [s.ended for s in stores if s.status == 0] for uid, stores in sent.items()}
    for destination in history.accepts:
        first = {uid: min(a.at for a in some) for (uid, name), some in arrived.items() if name == destination}
        answers = min((at for at in first.values() if at > whole), default=0.0)
        older: list[float] = []  # when those arrived that were taken before
        for uid in sorted((uid for uid in first if taken.get(uid)), key=lambda uid: min(taken[uid])):
            before = bisect_right(older, first[uid])
            turn = max(min(taken[uid]), answers, older[before - 1] if before else 0.0)
            insort(older, first[uid])
            healthy = sent[uid][0].pixels != HOSTILE and min(s.began for s in sent[uid]) >= whole
            if healthy and first[uid] - turn > TURN:
                yield Violation("late", uid, destination, f"came {first[uid] - turn:.0f} s after its turn")


def _doubled(
    history: History, sent: dict[str, list[Sent]], arrived: dict[tuple[str, str], list[Arrived]]
) -> Iterable[Violation]:
    # What was sent again after no answer may have been received twice, and is delivered twice then.
    again = {key: max(sum(_may_stand(history, s) for s in sent[key[0]]) - 1, 0) for key in arrived}
    repeated = [a for arrivals in arrived.values() for a in sorted(arrivals, key=lambda a: a.at)[:-1]]
    faults = sorted(history.faults, key=lambda fault: fault.ended)
    room = {
        (index, name): None if fault.at_most is None else fault.at_most * history.associations.get(name, 1)
        for index, fault in enumerate(faults)
        for name in history.accepts
    }
    told = set()
    # Each to the fault that ends first, those that have no other explanation before the rest.
    for arrival in sorted(repeated, key=lambda a: (again[a.uid, a.destination], a.at)):
        key = arrival.uid, arrival.destination
        for index, fault in enumerate(faults):
            left = room.get((index, arrival.destination), 0)
            if left != 0 and fault.doubles(arrival):
                room[index, arrival.destination] = None if left is None else left - 1
                break
        else:
            again[key] -= 1
            if again[key] < 0 and key not in told:
                told.add(key)
                words = f"came {len(arrived[key])} times; nothing explains that at {arrival.at:.1f}"
                yield Violation("duplicate", *key, words)


def _may_stand(history: History, store: Sent) -> bool:
    """Whether a C-STORE may have put the object on the spool."""
    if store.status in (0, None):
        return True
    # The rename was made, and what makes it last was not.
    return any(
        "spool" in f.touched and f.began <= store.ended and store.began <= f.ended for f in history.faults
    )


class Journal:
    """Appends entries to a file as they happen, from any thread, and keeps them."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self._lock = threading.Lock()
        self.entries: list[Any] = []

    def add(self, entry: Any) -> None:
        with self._lock:
            self.entries.append(entry)
            self._file.write(json.dumps({"entry": type(entry).__name__} | asdict(entry)) + "\n")
            self._file.flush()

    def of(self, kind: type) -> list[Any]:
        with self._lock:
            return [entry for entry in self.entries if type(entry) is kind]

    def close(self) -> None:
        self._file.close()
