"""A pool of associations, which limits their number for each destination and keeps idle ones for a moment.

A batch borrows an association and gives it back. The pool keeps it if the lane has more work, since
negotiation costs a few round trips, but not for long: a stock storescp serves one association at a time, and
our idle one would block the next.
"""

import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from weakref import WeakSet

from dicomferry.settings import Destination
from forwarder.dimse.connection import PeerFailure
from forwarder.dimse.proposal import Context, Proposal
from forwarder.dimse.scu import Association

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class PooledAssociation:
    """An association of the pool, its destination and its calling AE title."""

    destination: str
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
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._established: WeakSet[Association] = WeakSet()
        self._closed = False

    def borrow(
        self, destination: Destination, calling: str, proposal: Proposal, needs: Collection[Context]
    ) -> PooledAssociation:
        """An idle association that proposed all of `needs`, or else a new one with `proposal`.

        Raises:
            PeerFailure: the destination fails, or has no place in time; the message gives the reason.
        """
        idle = self._claim_place(destination, calling, needs)
        # From here on we hold a place.
        try:
            if idle is not None and not idle.association.is_alive:
                idle.association.abort()  # The peer closed it, as it may.
            elif idle is not None and idle.calling == calling and set(needs) <= idle.association.proposed:
                return replace(idle, fresh=False)
            elif idle is not None:
                self._release(idle)
            association = Association.request(destination, calling, proposal.contexts, self._register_socket)
        except BaseException:
            self._free_place(destination.name)
            raise
        log.info(
            "Associated destination=%s calling=%s contexts=%d accepted=%d",
            destination.name, calling, len(proposal.contexts), len(association.accepted),
        )  # fmt: skip
        with self._changed:
            self._established.add(association)
        return PooledAssociation(destination.name, calling, association, fresh=True)

    def give_back(self, pooled: PooledAssociation, *, keep: bool) -> None:
        """Return an association: keep it for a moment, or release it now."""
        with self._changed:
            if keep and not self._closed and pooled.association.accepted:
                timer = threading.Timer(self._idle_seconds, self._expire, [pooled])
                timer.daemon = True
                self._idle[pooled] = timer
                timer.start()
                self._changed.notify_all()
                return
        try:
            self._release(pooled)
        finally:
            self._free_place(pooled.destination)

    def abort(self, pooled: PooledAssociation) -> None:
        """Return an association that failed: abort it."""
        try:
            pooled.association.abort()
        finally:
            self._free_place(pooled.destination)

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
                idle = [pooled for pooled in self._idle if pooled.destination == destination.name]
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
            self._free_place(pooled.destination)

    def _free_place(self, destination: str) -> None:
        with self._changed:
            self._places[destination] -= 1
            self._changed.notify_all()

    def _register_socket(self, sock: socket.socket) -> None:
        with self._changed:
            self._sockets.add(sock)

    def _release(self, pooled: PooledAssociation) -> None:
        pooled.association.release()
        log.info("Released destination=%s calling=%s", pooled.destination, pooled.calling)
