"""A pool of associations, which limits their number for each destination and keeps idle ones for a moment.

A batch borrows an association and gives it back. The pool keeps it for a moment (`linger`), since negotiation
costs a few round trips: an object every second needs no association each. But a stock storescp serves one
association at a time, and our idle one would block the next. So where a destination has one association, ours
gives way to another calling AE title, and to another destination of the same host and port.
"""

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from weakref import WeakSet

from dicomferry.settings import Destination
from forwarder.dimse.connection import PeerFailure
from forwarder.dimse.proposal import MAX_CONTEXTS, Context, Proposal
from forwarder.dimse.scu import Association

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.5  # at least, where the lane has more


@dataclass(frozen=True, slots=True, eq=False)
class PooledAssociation:
    """An association of the pool, its destination and its calling AE title."""

    destination: Destination
    calling: str
    association: Association
    fresh: bool  # just negotiated, so its acceptance is news


class AssociationPool:
    """Lends associations to any thread, never more to a destination than its `max_associations`."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._changed = threading.Condition()
        self._idle: dict[PooledAssociation, threading.Timer] = {}  # oldest first
        self._places: Counter[str] = Counter()  # by destination: lent, idle, being negotiated or released
        self._asking: Counter[tuple[str, int]] = Counter()  # by host and port: associations being negotiated
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._established: WeakSet[Association] = WeakSet()
        self._closed = False

    def borrow(
        self, destination: Destination, calling: str, proposal: Proposal, needs: Collection[Context]
    ) -> PooledAssociation:
        """An idle association that proposed all of `needs`, or else a new one with `proposal`.

        One that replaces an idle one proposes what that did, too: else objects of two SOP classes in turn
        would make an association each.

        Raises:
            PeerFailure: the destination fails, or has no place in time; the message gives the reason.
        """
        idle = self._claim_place(destination, calling, needs)
        # From here on we hold a place.
        contexts = proposal.contexts
        try:
            if idle is not None and not idle.association.is_alive:
                idle.association.abort()  # The peer closed it, as it may.
            elif idle is not None and idle.calling == calling and set(needs) <= idle.association.proposed:
                return replace(idle, fresh=False)
            elif idle is not None:
                self._release(idle)
                if idle.calling == calling:
                    contexts = _widened(proposal.contexts, idle.association.proposed)
            association = self._request(destination, calling, contexts)
        except BaseException:
            self._free_place(destination.name)
            raise
        log.info(
            "Associated destination=%s calling=%s contexts=%d accepted=%d",
            destination.name, calling, len(contexts), len(association.accepted),
        )  # fmt: skip
        with self._changed:
            self._established.add(association)
        return PooledAssociation(destination, calling, association, fresh=True)

    def give_back(self, pooled: PooledAssociation, *, keep: bool, more: bool = False) -> None:
        """Return an association: keep it for a moment (longer if `more` is to come), or release it now."""
        seconds = pooled.destination.linger
        if more:
            seconds = max(seconds, self._idle_seconds)
        with self._changed:
            blocks = _serves_one(pooled) and self._asking[_address(pooled.destination)]
            if keep and seconds and not blocks and not self._closed and pooled.association.accepted:
                timer = threading.Timer(seconds, self._expire, [pooled])
                timer.daemon = True
                self._idle[pooled] = timer
                timer.start()
                self._changed.notify_all()
                return
        try:
            self._release(pooled)
        finally:
            self._free_place(pooled.destination.name)

    def abort(self, pooled: PooledAssociation) -> None:
        """Return an association that failed: abort it."""
        try:
            pooled.association.abort()
        finally:
            self._free_place(pooled.destination.name)

    def close(self) -> None:
        """Release idle associations and keep no more; lent ones go on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            idle = list(self._idle)
        for pooled in idle:
            self._expire(pooled)

    def disconnect(self, *, storing: bool) -> None:
        """Shut every connection down, also one being made; threads that wait on one fail at once.

        Without `storing` it spares those that send an object, which might have to be sent twice.
        """
        with self._changed:
            sockets = set(self._sockets)
            if not storing:
                sockets -= {association.sock for association in self._established if association.is_storing}
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _request(self, destination: Destination, calling: str, contexts: Sequence[Context]) -> Association:
        """Negotiate, after what may block it is released: idle ones of other destinations at that address."""
        address = _address(destination)
        with self._changed:
            self._asking[address] += 1
            blocking = [p for p in self._idle if _serves_one(p) and _address(p.destination) == address]
        try:
            for pooled in blocking:
                self._expire(pooled)
            return Association.request(destination, calling, contexts, self._register_socket)
        finally:
            with self._changed:
                self._asking[address] -= 1

    def _claim_place(
        self, destination: Destination, calling: str, needs: Collection[Context]
    ) -> PooledAssociation | None:
        """Take the most suitable idle association with its place; None: a place for a new one."""

        def suitability(pooled: PooledAssociation) -> tuple[bool, bool]:
            same = pooled.calling == calling
            return same and set(needs) <= pooled.association.proposed, same

        deadline = time.monotonic() + destination.timeout
        with self._changed:
            while True:
                if self._closed:
                    raise PeerFailure("the forwarder is stopping")
                idle = [pooled for pooled in self._idle if pooled.destination.name == destination.name]
                best = max(idle, key=suitability, default=None)
                full = self._places[destination.name] >= destination.max_associations
                if best is not None and (full or best.calling == calling):
                    self._idle.pop(best).cancel()
                    return best
                if not full:
                    self._places[destination.name] += 1
                    return None
                if not self._changed.wait(deadline - time.monotonic()):
                    raise PeerFailure(f"all {destination.max_associations} associations are in use")

    def _expire(self, pooled: PooledAssociation) -> None:
        with self._changed:
            timer = self._idle.pop(pooled, None)
        if timer is None:
            return  # Borrowed a moment ago.
        timer.cancel()
        try:
            self._release(pooled)
        finally:
            self._free_place(pooled.destination.name)

    def _free_place(self, destination: str) -> None:
        with self._changed:
            self._places[destination] -= 1
            self._changed.notify_all()

    def _register_socket(self, sock: socket.socket) -> None:
        with self._changed:
            self._sockets.add(sock)

    def _release(self, pooled: PooledAssociation) -> None:
        pooled.association.release()
        log.info("Released destination=%s calling=%s", pooled.destination.name, pooled.calling)


def _address(destination: Destination) -> tuple[str, int]:
    return destination.host, destination.port


def _serves_one(pooled: PooledAssociation) -> bool:
    """Whether the peer may serve one association at a time."""
    return pooled.destination.max_associations == 1


def _widened(contexts: Sequence[Context], more: Collection[Context]) -> tuple[Context, ...]:
    """`contexts`, and `more` if one association can carry all of them."""
    both = tuple(dict.fromkeys((*contexts, *sorted(more))))
    return both if len(both) <= MAX_CONTEXTS else tuple(contexts)
