"""The SCP behind all associations: admits them, and answers their C-STOREs."""

import logging
import threading
import time
from typing import Protocol

from dicomferry.crashpoints import reach
from dicomferry.dicom.identifiers import is_uid
from dicomferry.messages.events import CallerRejected, EventSender, Received
from dicomferry.settings import Ingest, Settings
from dicomferry.spool.spool import Spool
from ingest.admission import Admitted, Rejected, Standing, admit
from ingest.arrival import Arrival
from ingest.dimse.negotiation import AssociationRequest
from ingest.places import Place, Places
from ingest.reception import CANNOT_UNDERSTAND, INTERNAL_FAULT, Answer, Request, receive, refusal
from ingest.room import Counts, FreeSpace, QuarantineRoom
from ingest.sharing import Rows
from ingest.staging import Staging

log = logging.getLogger(__name__)

MAX_TOLD = 16  # destinations: the event of an instance with more has no record, or it might be of any length
_TELL_EVERY = 1_000_000_000  # nanoseconds


class Peer(Protocol):
    """What holds a place among the associations."""

    def give_way(self) -> None:
        """End it, from any thread, since another has taken its place."""


class Board:
    """What the processes of one ingest share; made before they are forked."""

    def __init__(self, ingest: Ingest, processes: int = 1) -> None:
        self.places = Places(ingest.max_associations, processes)
        self.counts = Counts(processes)
        self.told_at = Rows(processes, 1)  # when each told of a rejection last, in monotonic nanoseconds


class Scp:
    """Admits associations up to a limit and receives their objects; any thread may call it."""

    def __init__(
        self, settings: Settings, spool: Spool, receiver: str, events: EventSender | None, board: Board
    ) -> None:
        self.settings = settings
        self.places = board.places
        self._staging = Staging(spool.incoming, receiver)
        self._spool = spool
        self._free_space = FreeSpace(spool, settings.ingest, board.counts, board.places.process)
        self._quarantine_room = QuarantineRoom(spool, settings.ingest)
        self._events = events
        self._associations: dict[Peer, Place] = {}
        self._lock = threading.Lock()
        self._told_at = board.told_at

    def admit(
        self, association: Peer, request: AssociationRequest, address: str
    ) -> tuple[Admitted, Place] | Rejected:
        """Decide about an association request; an admitted association counts until `remove`.

        Others that have long been silent may be ended for it.
        """
        calling, called = request.calling_ae_title, request.called_ae_title
        shortage = self._free_space.shortage()
        try:
            with self.places.lock():
                standing = self.places.standing()
                others = tuple(standing.values())
                decision = admit(self.settings, calling, called, address, standing=others, shortage=shortage)
                if isinstance(decision, Rejected):
                    return decision
                numbers = tuple(standing)
                ended = [numbers[index] for index in decision.instead_of]
                place = self.places.take(Standing(decision.host, decision.named), ended, standing)
                with self._lock:
                    self._associations[association] = place
        except OSError as error:
            return Rejected(2, 3, 1, str(error.strerror))  # temporary congestion
        if ended:
            self.heed()
        return decision, place

    def heed(self) -> None:
        """End those of our associations whose places others have taken."""
        with self._lock:
            lost = [association for association, place in self._associations.items() if place.is_lost]
            for association in lost:
                del self._associations[association]
        for association in lost:
            association.give_way()

    def tell_of(self, rejected: Rejected, request: AssociationRequest, address: str) -> None:
        """Tell the dispatcher of a rejection, for `status`; a flood of them costs it one event a second."""
        now = time.monotonic_ns()
        if self._events is not None and now - self._told_at.most(0) >= _TELL_EVERY:
            self._told_at.set(self.places.process, 0, now)
            calling, called = request.calling_ae_title, request.called_ae_title
            self._events.send(CallerRejected(calling, called, address, rejected.why))

    def remove(self, association: Peer) -> None:
        """Stop counting the association, if it was admitted."""
        with self._lock:
            place = self._associations.pop(association, None)
        if place is not None:
            place.leave()

    def close(self) -> None:
        """Leave nothing in ``incoming``; every association has ended."""
        self._staging.close()

    def associations(self) -> frozenset[Peer]:
        """The admitted associations that have not ended."""
        with self._lock:
            return frozenset(self._associations)

    def open_arrival(self, admitted: Admitted, request: Request) -> Arrival | None:
        """Open a file for a data set; None where we refuse the object and drop its data set."""
        if refusal(admitted, request) is not None:
            return None
        most, deliveries = self.settings.ingest.max_object_mb, len(admitted.destinations)
        arrival = Arrival(self._staging, self._free_space, deliveries, most)
        uid = request.sop_instance_uid if is_uid(request.sop_instance_uid) else ""
        arrival.open(request.sop_class_uid, uid, request.transfer_syntax_uid)
        return arrival

    def answer(self, admitted: Admitted, request: Request, arrival: Arrival | None) -> Answer:
        """Answer a C-STORE whose data set has been read; never raises."""
        try:
            answer = self._answer(admitted, request, arrival)
        except Exception:
            log.exception("Fault")
            answer = Answer(INTERNAL_FAULT, "fault in dicomferry, see its log")
        if answer.instance is None:
            uid = request.sop_instance_uid if is_uid(request.sop_instance_uid) else "an object"
            log.warning("Refused %s 0x%04X: %s", uid, answer.status, answer.comment)
        elif self._events is not None:
            found = answer.instance
            told = answer.is_new and len(found.destinations) <= MAX_TOLD
            self._events.send(Received(found.id, found.to_record() if told else None))
            reach("reception.announced")
        return answer

    def _answer(self, admitted: Admitted, request: Request, arrival: Arrival | None) -> Answer:
        if arrival is None:
            return refusal(admitted, request) or Answer(CANNOT_UNDERSTAND, "no data set")
        return receive(self._spool, self._quarantine_room, admitted, request, arrival)
