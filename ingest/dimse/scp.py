"""The SCP behind all associations: admits them, and answers their C-STOREs."""

import logging
import threading
import time
from typing import Protocol

from dicomferry.crashpoints import reach
from dicomferry.dicom.identifiers import is_uid
from dicomferry.messages.events import CallerRejected, EventSender, Received
from dicomferry.settings import Settings
from dicomferry.spool.spool import Spool
from ingest.admission import Admitted, Rejected, Standing, admit
from ingest.arrival import Arrival
from ingest.dimse.negotiation import AssociationRequest
from ingest.reception import CANNOT_UNDERSTAND, INTERNAL_FAULT, Answer, Request, receive, refusal
from ingest.room import FreeSpace, QuarantineRoom
from ingest.staging import Staging

log = logging.getLogger(__name__)

MAX_TOLD = 16  # destinations: the event of an instance with more has no record, or it might be of any length


class Place(Protocol):
    """What holds a place among the associations."""

    @property
    def silent(self) -> float:
        """Seconds without a message in progress."""

    def give_way(self) -> None:
        """End it, from any thread, since another takes its place."""


class Scp:
    """Admits associations up to a limit and receives their objects; any thread may call it."""

    def __init__(self, settings: Settings, spool: Spool, receiver: str, events: EventSender | None) -> None:
        self.settings = settings
        self._staging = Staging(spool.incoming, receiver)
        self._spool = spool
        self._free_space = FreeSpace(spool, settings.ingest)
        self._quarantine_room = QuarantineRoom(spool, settings.ingest)
        self._events = events
        self._associations: dict[Place, Admitted] = {}
        self._lock = threading.Lock()
        self._tell_at = 0.0  # monotonic: when a rejection may be told again

    def admit(self, association: Place, request: AssociationRequest, address: str) -> Admitted | Rejected:
        """Decide about an association request; an admitted association counts until `remove`.

        Others that have long been silent may be ended for it.
        """
        with self._lock:
            places = list(self._associations.items())
            decision = admit(
                self.settings,
                request.calling_ae_title,
                request.called_ae_title,
                address,
                standing=[Standing(held.host, held.named, place.silent) for place, held in places],
                shortage=self._free_space.shortage(),
            )
            if isinstance(decision, Admitted):
                for place in (places[index][0] for index in decision.instead_of):
                    place.give_way()
                    del self._associations[place]
                self._associations[association] = decision
        return decision

    def tell_of(self, rejected: Rejected, request: AssociationRequest, address: str) -> None:
        """Tell the dispatcher of a rejection, for `status`; a flood of them costs it one event a second."""
        now = time.monotonic()
        if self._events is not None and now >= self._tell_at:
            self._tell_at = now + 1.0
            calling, called = request.calling_ae_title, request.called_ae_title
            self._events.send(CallerRejected(calling, called, address, rejected.why))

    def remove(self, association: Place) -> None:
        """Stop counting the association, if it was admitted."""
        with self._lock:
            self._associations.pop(association, None)

    def close(self) -> None:
        """Leave nothing in ``incoming``; every association has ended."""
        self._staging.close()

    def associations(self) -> frozenset[Place]:
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
