"""What the SCP decides and does for its associations, of which it knows no more than that they are there."""

import logging
import threading
from collections.abc import Hashable

from dicomferry.crashpoints import reach
from dicomferry.dicom.identifiers import is_uid
from dicomferry.messages.events import EventSender, Received
from dicomferry.settings import Settings
from dicomferry.spool.spool import Spool
from ingest.admission import Admitted, Rejected, admit
from ingest.arrival import Arrival, Room
from ingest.dimse.negotiation import AssociationRequest
from ingest.reception import CANNOT_UNDERSTAND, FAULT_OF_OURS, Answer, Request, receive, refusal

log = logging.getLogger(__name__)


class Scp:
    """Admits associations up to a limit, and answers what they store."""

    def __init__(self, settings: Settings, spool: Spool, receiver: str, events: EventSender | None) -> None:
        self.settings = settings
        self._receiver = receiver
        self._spool = spool
        self._room = Room(spool, settings.ingest.min_free_mb)
        self._events = events
        self._standing: set[Hashable] = set()
        self._lock = threading.Lock()

    def admit(self, association: Hashable, request: AssociationRequest, address: str) -> Admitted | Rejected:
        """Decide about a request for an association; one that is admitted stands until it leaves."""
        with self._lock:
            decision = admit(
                self.settings,
                request.calling_ae_title,
                request.called_ae_title,
                address,
                associations=len(self._standing) + 1,
                lack=self._room.lack(),
            )
            if isinstance(decision, Admitted):
                self._standing.add(association)
        return decision

    def leave(self, association: Hashable) -> None:
        """The association has ended, if there was one."""
        with self._lock:
            self._standing.discard(association)

    def standing(self) -> frozenset[Hashable]:
        """The associations that stand."""
        with self._lock:
            return frozenset(self._standing)

    def begin(self, admitted: Admitted, request: Request) -> Arrival | None:
        """Make room for a data set; None where it is refused already, so that it is read and dropped."""
        if refusal(admitted, request) is not None:
            return None
        arrival = Arrival(self._spool, self._receiver, self._room)
        arrival.open(request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax_uid)
        return arrival

    def answer(self, admitted: Admitted, request: Request, arrival: Arrival | None) -> Answer:
        """Answer a C-STORE when everything that it brought has been read; never raises."""
        try:
            answer = self._answer(admitted, request, arrival)
        except Exception:
            log.exception("Fault")
            answer = Answer(FAULT_OF_OURS, "fault in dicomferry, see its log")
        if answer.instance is None:
            uid = request.sop_instance_uid if is_uid(request.sop_instance_uid) else "an object"
            log.warning("Refused %s 0x%04X: %s", uid, answer.status, answer.comment)
        elif self._events is not None:
            self._events.send(Received(answer.instance))
            reach("reception.announced")
        return answer

    def _answer(self, admitted: Admitted, request: Request, arrival: Arrival | None) -> Answer:
        if arrival is None:
            return refusal(admitted, request) or Answer(CANNOT_UNDERSTAND, "no data set")
        return receive(self._spool, admitted, request, arrival)
