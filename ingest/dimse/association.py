"""The acceptor's side of one association (PS3.8 9.2), from accept to close, in one thread.

It assembles DIMSE messages from PDUs (PS3.7 chapter 8, PS3.8 annex E) and answers them. A data set goes from
the wire into an `Arrival`; when the connection ends, an unfinished one is discarded.
"""

import logging
import socket
from contextlib import suppress
from dataclasses import dataclass, field

from dicomferry.crashpoints import reach
from dicomferry.dicom import dimse
from dicomferry.dicom.identifiers import HEALTH
from dicomferry.dicom.wire import COMMAND, LAST, DamagedPdvError, Pdu, fragment_size, fragments, pdu, pdvs
from ingest.admission import Admitted, Rejected, plain_address
from ingest.arrival import Arrival
from ingest.dimse import commands, negotiation
from ingest.dimse.commands import Command
from ingest.dimse.connection import (
    MAXIMUM_PDU,
    WE_STOP,
    Closed,
    Connection,
    Reason,
    TimedOut,
    Violation,
)
from ingest.dimse.contexts import ACCEPTED, Answered, answer, refusals
from ingest.dimse.scp import Scp
from ingest.places import Place
from ingest.reception import SUCCESS, UNRECOGNISED_OPERATION, Request

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT = 5.0  # seconds that a peer gets to close after our last PDU (ARTIM, PS3.8 9.1.5)
_RELEASED = "released"
_GIVES_WAY = "was ended: it was silent longest, and another waits for a place"
_USER, _PROVIDER = 0, 2  # source of an A-ABORT (PS3.8 9.3.8)


class Association:
    """A connection and, once negotiated, its association; `serve` runs in its own thread."""

    def __init__(self, sock: socket.socket, address: str, scp: Scp) -> None:
        self.address = plain_address(address)
        self._scp = scp
        # Then it may be our health check, which would fill the log.
        self._from_here = plain_address(str(sock.getsockname()[0])) == self.address
        self._connection = Connection(sock, scp.settings.ingest.artim_timeout)
        self._admitted: Admitted | None = None
        self._level = logging.INFO  # of what is well
        self._contexts: dict[int, Answered] = {}
        self._fragment_size = 0  # bytes of a message in one P-DATA-TF that we send
        self._message: _Message | None = None
        self._place: Place | None = None  # among the associations, once admitted
        self._peer_must_close = False  # our last PDU has left

    def serve(self) -> None:
        """Serve the peer until it ends the association, a fault does, or `stop`."""
        level = logging.DEBUG
        try:
            how = self._negotiate() or self._exchange()
        except Violation as violation:
            how, level = f"violated the protocol: {violation}", logging.WARNING
            # Before acceptance the source is the user (PS3.8 9.2.3, AA-1), afterwards the provider.
            self._abort(*((_PROVIDER, violation.reason) if self._admitted else (_USER, 0)))
        except (TimedOut, Closed) as ended:
            how = str(ended)
            # Without an association the connection just closes (AA-2).
            if self._admitted:
                self._abort(_PROVIDER if isinstance(ended, TimedOut) else _USER, 0)
        except Exception:
            log.exception("Fault")
            how = "met a fault of ours"
            self._abort(_PROVIDER, 0)
        finally:
            self._clean_up()
        who = self._admitted.calling_ae_title if self._admitted else "Peer"
        if self._admitted:
            level = max(level, self._level if how == _RELEASED else logging.INFO)
        log.log(level, "%s at %s %s", who, self.address, how)

    def stop(self) -> None:
        """Make `serve` abort and return, from any thread."""
        self._connection.stop_reading(WE_STOP)

    def give_way(self) -> None:
        """Make `serve` abort and return, from any thread, since another takes its place."""
        self._connection.stop_reading(_GIVES_WAY)

    def disconnect(self) -> None:
        """End the connection without an abort, from any thread."""
        self._connection.disconnect()

    def _clean_up(self) -> None:
        if self._message is not None and self._message.arrival is not None:
            self._message.arrival.discard()
        self._scp.remove(self)
        if self._peer_must_close:
            self._connection.drain(_CLOSE_TIMEOUT)
        self._connection.close()

    def _send_last(self, content: bytes) -> None:
        """Send our last PDU, after which the peer closes the connection."""
        self._connection.send(content)
        self._peer_must_close = True

    def _abort(self, source: int, reason: int) -> None:
        with suppress(TimedOut, Closed):
            self._send_last(pdu(Pdu.ABORT, bytes((0, 0, source, reason))))

    def _negotiate(self) -> str | None:
        """Answer the association request; how the connection has ended, or None."""
        kind, content = self._connection.read()
        if kind == Pdu.ABORT:
            return "aborted"
        if kind != Pdu.ASSOCIATE_RQ:
            raise Violation(Reason.UNEXPECTED_PDU, f"{kind.name} where a request for an association is due")
        request = negotiation.decode(content)
        decision = request.unsupported or self._scp.admit(self, request, self.address)
        quiet = self._from_here and request.only_verifies
        if isinstance(decision, Rejected):
            # Our own check where nobody may call from here; that it is rejected shows that we work.
            if quiet and decision.is_of_caller and request.calling_ae_title == HEALTH:
                level = logging.DEBUG
            else:
                level = logging.WARNING
                self._scp.tell_of(decision, request, self.address)
            log.log(level, "Rejected %s at %s: %s", request.calling_ae_title, self.address, decision.why)
            self._send_last(negotiation.rejection(decision))
            return "was rejected"
        self._admitted, self._place = decision
        answers = answer(request.contexts, self._admitted.ae)
        self._contexts = {context.id: context for context in answers if context.result == ACCEPTED}
        self._fragment_size = fragment_size(request.maximum_length, MAXIMUM_PDU)
        self._connection.send(negotiation.acceptance(request, answers))
        self._connection.start_network_timeout(self._scp.settings.ingest.network_timeout)
        self._place.end_message()
        self._level = logging.DEBUG if quiet else logging.INFO
        who, called = request.calling_ae_title, request.called_ae_title
        log.log(self._level, "Accepted %s at %s to %s", who, self.address, called)
        if refused := refusals(answers):
            log.warning("ContextsRefused %s at %s: %s", request.calling_ae_title, self.address, refused)
        return None

    def _exchange(self) -> str:
        """Answer messages until the peer ends the association; how it ended."""
        while True:
            kind, content = self._connection.read()
            if kind == Pdu.P_DATA_TF:
                self._take_fragments(content)
            elif kind == Pdu.RELEASE_RQ:
                self._send_last(pdu(Pdu.RELEASE_RP))
                return _RELEASED
            elif kind == Pdu.ABORT:
                return "aborted"
            else:
                raise Violation(Reason.UNEXPECTED_PDU, f"{kind.name} within an association")

    def _take_fragments(self, content: memoryview) -> None:
        try:
            for context_id, control, part in pdvs(content):
                self._take_fragment(context_id, control, part)
        except DamagedPdvError as error:
            raise Violation(Reason.INVALID_PARAMETER, str(error)) from error

    def _take_fragment(self, context_id: int, control: int, part: memoryview) -> None:
        """Take a fragment of the command set, or of the data set that follows it."""
        context = self._contexts.get(context_id)
        if context is None:
            raise Violation(Reason.INVALID_PARAMETER, f"presentation context {context_id} is not accepted")
        message = self._message or self._begin(context)
        if message.context is not context or bool(control & COMMAND) is not (message.command is None):
            raise Violation(Reason.UNEXPECTED_PARAMETER, "a fragment that does not continue the message")
        if message.command is not None:
            if message.arrival is not None:
                message.arrival.write(part)
            if control & LAST:
                self._complete(message, message.command)
            return
        message.content += part
        if len(message.content) > dimse.MAX_COMMAND_SET:
            raise Violation(Reason.INVALID_PARAMETER, "a command set without an end")
        if control & LAST:
            message.command = command = commands.decode(bytes(message.content))
            if not command.has_data_set:
                self._complete(message, command)
            elif command.field == dimse.C_STORE and self._admitted is not None:
                message.arrival = self._scp.open_arrival(self._admitted, message.request)

    def _begin(self, context: Answered) -> "_Message":
        if self._place is not None:
            if self._place.is_lost:  # and we have not been told yet
                raise Closed(_GIVES_WAY)
            self._place.begin_message()
        self._message = _Message(context)
        return self._message

    def _complete(self, message: "_Message", command: Command) -> None:
        """Answer a complete message."""
        if command.field == dimse.C_STORE and self._admitted is not None:
            answered = self._scp.answer(self._admitted, message.request, message.arrival)
            self._respond(message.context, commands.response(command, answered.status, answered.comment))
            reach("reception.answered")
        elif command.field == dimse.C_ECHO:
            self._respond(message.context, commands.response(command, SUCCESS))
        elif command.field & dimse.RESPONSE:
            raise Violation(Reason.UNEXPECTED_PARAMETER, "a response to nothing that was asked")
        elif command.field != dimse.C_CANCEL:
            self._respond(message.context, commands.response(command, UNRECOGNISED_OPERATION))
        self._message = None
        if self._place is not None:
            self._place.end_message()
        self._connection.reset_timer()

    def _respond(self, context: Answered, content: bytes) -> None:
        self._connection.send(b"".join(fragments(context.id, content, self._fragment_size, COMMAND)))


@dataclass(slots=True)
class _Message:
    """A DIMSE message while it arrives."""

    context: Answered
    content: bytearray = field(default_factory=bytearray)  # of the command set
    command: Command | None = None  # once complete
    arrival: Arrival | None = None  # receives its data set; None: the data set is dropped

    @property
    def request(self) -> Request:
        """The request of a C-STORE."""
        return Request(
            sop_class_uid=self.command.sop_class_uid if self.command else "",
            sop_instance_uid=self.command.sop_instance_uid if self.command else "",
            abstract_syntax=self.context.abstract_syntax,
            transfer_syntax_uid=self.context.transfer_syntax,
        )
