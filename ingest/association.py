"""pynetdicom's acceptor, with a narrow seam of our own: data sets go from the wire into `Arrival`s.

pynetdicom would keep a data set in memory, or flush a temporary file at every fragment and leave it behind
after an abort. Relies on pynetdicom 3.0's `DIMSEServiceProvider.message`, `Association._serve_request` and
`RequestHandler._create_association`.
"""

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from socketserver import BaseServer
from typing import Any, cast

from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom._globals import MODE_ACCEPTOR
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from pynetdicom.transport import AssociationServer, RequestHandler

from dicomferry.crashpoints import reach
from dicomferry.spool import Spool
from dicomferry.wire import PromptSocket
from ingest.admission import Admitted
from ingest.arrival import Arrival, Room
from ingest.dimse import store_response
from ingest.header import is_uid
from ingest.reception import Answer, Request, refusal

log = logging.getLogger(__name__)

MAXIMUM_PDU = 1 << 18  # bytes that a peer may put in one PDU; DCMTK never puts more than 128 KiB
_LONGEST_PDU = 4 << 20  # bytes: more is no request for an association either


class IngestSocket(PromptSocket):
    """A socket that gives no peer more memory than it was promised."""

    def recv(self, nr_bytes: int) -> bytearray:
        """Read one part of a PDU.

        Raises:
            OSError: the PDU is longer than any that we said we take.
        """
        if nr_bytes > _LONGEST_PDU:
            raise OSError(f"a PDU of {nr_bytes} bytes was announced, {MAXIMUM_PDU} are allowed")
        return super().recv(nr_bytes)


class Sink(BytesIO):
    """Where pynetdicom writes the fragments of a data set, as if it were memory."""

    def __init__(self, association: "FerryAssociation", message: DIMSEMessage) -> None:
        super().__init__()
        self.request: Request | None = None
        self.arrival: Arrival | None = None
        self._association = association
        self._message = message

    def write(self, part: Any) -> int:
        """Take a fragment; the first one comes when the command set is complete."""
        if self.request is None:
            self.request = self._association.request_of(self._message)
            self.arrival = self._association.begin(self.request)
            if not is_uid(self.request.sop_instance_uid):
                # pynetdicom aborts on one that is too long; the request, which is kept, gets an answer.
                self._message.command_set.AffectedSOPInstanceUID = UID("0")
        if self.arrival is not None:
            self.arrival.write(part)
        return len(part)


class ArrivingProvider(DIMSEServiceProvider):
    """The DIMSE provider, whose messages keep their data set in a `Sink`."""

    _association: "FerryAssociation"

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take a P-DATA indication; a message that cannot be decoded ends the association, not the thread."""
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = Sink(self._assoc, self.message)  # type: ignore[arg-type]
        try:
            super().receive_primitive(primitive)
        except Exception as error:  # noqa: BLE001  whatever a peer's bytes make pydicom raise
            log.warning("Undecodable message: %s", type(error).__name__)
            self.dul.event_queue.put("Evt19")


class FerryAssociation(Association):
    """An association that we accepted, and what arrives in it."""

    def __init__(self, server: "FerryServer") -> None:
        super().__init__(server.ae, MODE_ACCEPTOR)
        self.dimse = ArrivingProvider(self)
        self.admitted: Admitted | None = None
        self.server = server
        self._server = server
        self._spool = server.spool
        self._room = server.room
        self._arrivals: set[Arrival] = set()
        self._ended = False
        self.dul.daemon = True  # a peer that is stuck must not keep the process
        self._arrivals_lock = threading.Lock()

    def request_of(self, message: DIMSEMessage) -> Request:
        """What the command set of `message` and its context say; empty where they say nothing."""
        context = self._accepted_cx.get(message.context_id or 0)
        command = message.command_set
        return Request(
            sop_class_uid=str(command.get("AffectedSOPClassUID") or ""),
            sop_instance_uid=str(command.get("AffectedSOPInstanceUID") or ""),
            abstract_syntax=str(context.abstract_syntax) if context else "",
            transfer_syntax_uid=str(context.transfer_syntax[0]) if context else "",
        )

    def begin(self, request: Request) -> Arrival | None:
        """Make room for a data set; None where it is refused already, so that it is read and dropped."""
        if (
            self.admitted is None
            or request.abstract_syntax in {"", Verification}
            or refusal(self.admitted, request)
        ):
            return None
        arrival = Arrival(self._spool, self._room)
        with self._arrivals_lock:
            if self._ended:
                return None
            self._arrivals.add(arrival)
        arrival.open(request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax_uid)
        return arrival

    def done(self, arrival: Arrival) -> None:
        """The arrival has been answered."""
        with self._arrivals_lock:
            self._arrivals.discard(arrival)

    def disconnect(self) -> None:
        """End it without a word, from any thread."""
        sock = self.dul.socket.socket if self.dul.socket else None
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def run_reactor(self) -> None:
        """Serve until the association ends, then leave nothing of it in ``incoming``."""
        try:
            super().run_reactor()
        finally:
            with self._arrivals_lock:
                self._ended = True
            for arrival in self._arrivals:
                arrival.discard()
            if self.admitted is not None:
                who = f"{self.admitted.calling_ae_title} at {self.admitted.host}"
                log.info("%s %s", "Released" if self.is_released else "Aborted", who)

    def _serve_request(self, msg: Any, context_id: int) -> None:
        context = self._accepted_cx.get(context_id)
        if isinstance(msg, C_STORE) and msg.MessageID is not None and context is not None:
            # pynetdicom chooses the service by the SOP class and knows none for a private one.
            self._answer_store(msg, context_id)
        else:
            super()._serve_request(msg, context_id)

    def _answer_store(self, msg: C_STORE, context_id: int) -> None:
        sink = cast("Sink", msg.DataSet)
        answer = self.server.store(self, sink)
        if not self.is_established or msg.MessageID is None:
            return
        uids = (sink.request.sop_class_uid, sink.request.sop_instance_uid) if sink.request else ("", "")
        response = P_DATA()
        response.presentation_data_value_list.append(
            (context_id, b"\x03" + store_response(msg.MessageID, *uids, answer.status, answer.comment))
        )
        self.dul.send_pdu(response)
        reach("reception.answered")


class Connection(RequestHandler):
    """Makes the association of one connection."""

    server: "FerryServer"

    def _create_association(self) -> FerryAssociation:
        # Accepted sockets have no timeout of their own: a peer that stops within a PDU would stay for ever.
        self.request.settimeout(self.ae.network_timeout)
        association = FerryAssociation(self.server)
        association.name = f"AcceptorThread@{self.client_address[0]}"
        association.set_socket(IngestSocket(association, client_socket=self.request))
        acceptor = association.acceptor
        acceptor.maximum_length = self.ae.maximum_pdu_size
        acceptor.ae_title = self.server.ae_title
        acceptor.address_info = self.local
        acceptor.implementation_class_uid = self.ae.implementation_class_uid
        acceptor.implementation_version_name = self.ae.implementation_version_name
        association.requestor.address_info = self.remote
        association.bind(evt.EVT_REQUESTED, self.server.requested)
        return association


class FerryServer(AssociationServer):
    """Listens; each connection becomes a `FerryAssociation`."""

    request_queue_size = 128  # connections that wait to be accepted; the default of 5 refuses a burst

    def __init__(
        self,
        ae: AE,
        address: tuple[str, int],
        spool: Spool,
        room: Room,
        *,
        requested: Callable[[evt.Event], None],
        store: Callable[[FerryAssociation, Sink], Answer],
    ) -> None:
        self.spool = spool
        self.room = room
        self.requested = requested  # admits an association or rejects it
        self.store = store  # answers a C-STORE, and never raises
        super().__init__(ae, address, ae.ae_title, [], request_handler=Connection)

    def associations(self) -> list[FerryAssociation]:
        """Those that stand, and connections that have not asked for one yet."""
        return [cast("FerryAssociation", association) for association in self.active_associations]

    def stop_accepting(self) -> None:
        """Close the listening socket; associations that stand go on."""
        BaseServer.shutdown(self)
        self.server_close()
