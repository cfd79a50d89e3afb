"""The associations that are open: how many, to whom, and how long an idle one is kept.

A batch borrows one and gives it back. Kept for a moment where the lane has more, since negotiating costs a
few round trips; released soon, since a stock storescp serves one association at a time and an idle one of
ours would block the next.
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
from forwarder.dimse.line import PeerFailure
from forwarder.dimse.proposal import Context, Proposal
from forwarder.dimse.scu import Association

log = logging.getLogger(__name__)

IDLE_SECONDS = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Loan:
    """An association in use by one batch."""

    destination: str
    calling: str
    association: Association
    fresh: bool  # just negotiated: its answer may teach something


class Associations:
    """Lends associations to any thread; never more at once to a destination than it allows."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._changed = threading.Condition()
        self._kept: dict[Loan, threading.Timer] = {}  # oldest first
        self._open: Counter[str] = Counter()  # by destination: lent, kept, being negotiated or released
        self._sockets: WeakSet[socket.socket] = WeakSet()
        self._established: WeakSet[Association] = WeakSet()
        self._closed = False

    def borrow(
        self, destination: Destination, calling: str, proposal: Proposal, needs: Collection[Context]
    ) -> Loan:
        """A kept association that has proposed all of `needs`, or else a new one with `proposal`.

        Raises:
            PeerFailure: none can be had; the reason in words.
        """
        found = self._take(destination, calling, needs)
        # Its place, or a free one, is ours from here on.
        try:
            if found is not None and not found.association.is_alive:
                found.association.abort()  # The peer closed it meanwhile, which is its right.
            elif found is not None and found.calling == calling and set(needs) <= found.association.proposed:
                return replace(found, fresh=False)
            elif found is not None:
                self._release(found)
            association = Association.request(destination, calling, proposal.contexts, self._watch)
        except BaseException:
            self._leave(destination.name)
            raise
        log.info(
            "Associated destination=%s calling=%s contexts=%d accepted=%d",
            destination.name, calling, len(proposal.contexts), len(association.accepted),
        )  # fmt: skip
        with self._changed:
            self._established.add(association)
        return Loan(destination.name, calling, association, fresh=True)

    def give_back(self, loan: Loan, *, keep: bool) -> None:
        """The batch is through with it: keep it a moment, or release it now."""
        with self._changed:
            if keep and not self._closed and loan.association.accepted:
                timer = threading.Timer(self._idle_seconds, self._expire, [loan])
                timer.daemon = True
                self._kept[loan] = timer
                timer.start()
                self._changed.notify_all()
                return
        try:
            self._release(loan)
        finally:
            self._leave(loan.destination)

    def drop(self, loan: Loan) -> None:
        """It is no longer good: abort it."""
        try:
            loan.association.abort()
        finally:
            self._leave(loan.destination)

    def close(self) -> None:
        """Release what is kept and keep nothing more; what is lent goes on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            kept = list(self._kept)
        for loan in kept:
            self._expire(loan)

    def cut(self, *, storing: bool) -> None:
        """End every connection now, also while it is being made: whoever waits on one hears at once.

        Without `storing` those that carry an object are left alone: cut now, it might have to be sent twice.
        """
        with self._changed:
            sockets = set(self._sockets)
            if not storing:
                sockets -= {
                    association.connection for association in self._established if association.is_storing
                }
        for sock in sockets:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _take(self, destination: Destination, calling: str, needs: Collection[Context]) -> Loan | None:
        """A kept association with its place, the best for the purpose first; None: a place for a new one."""

        def fitness(loan: Loan) -> tuple[bool, bool]:
            same = loan.calling == calling
            return same and set(needs) <= loan.association.proposed, same

        deadline = time.monotonic() + destination.timeout
        with self._changed:
            while True:
                if self._closed:
                    raise PeerFailure("the forwarder is stopping")
                kept = [loan for loan in self._kept if loan.destination == destination.name]
                best = max(kept, key=fitness, default=None)
                full = self._open[destination.name] >= destination.max_associations
                if best is not None and (full or best.calling == calling):
                    self._kept.pop(best).cancel()
                    return best
                if not full:
                    self._open[destination.name] += 1
                    return None
                if not self._changed.wait(deadline - time.monotonic()):
                    raise PeerFailure(f"all {destination.max_associations} associations are in use")

    def _expire(self, loan: Loan) -> None:
        with self._changed:
            timer = self._kept.pop(loan, None)
        if timer is None:
            return  # Borrowed at the last moment.
        timer.cancel()
        try:
            self._release(loan)
        finally:
            self._leave(loan.destination)

    def _leave(self, destination: str) -> None:
        with self._changed:
            self._open[destination] -= 1
            self._changed.notify_all()

    def _watch(self, sock: socket.socket) -> None:
        with self._changed:
            self._sockets.add(sock)

    def _release(self, loan: Loan) -> None:
        loan.association.release()
        log.info("Released destination=%s calling=%s", loan.destination, loan.calling)
