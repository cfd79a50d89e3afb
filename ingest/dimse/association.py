"""One connection, from its first byte to its last: the acceptor's side of PS3.8 9.2, in one thread.

What arrives is assembled here into DIMSE messages (PS3.7 chapter 8, PS3.8 annex E) and answered. A data set
goes from the wire into an `Arrival`, and whatever ends the connection ends that too.
"""

import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from dicomferry.crashpoints import reach
from dicomferry.dicom.wire import COMMAND, LAST, PDU_HEADER, PDV_HEADER, Pdu, pdu
from ingest.admission import Admitted, Rejected, plain_address
from ingest.arrival import Arrival
from ingest.dimse import commands, negotiation
from ingest.dimse.commands import Command
from ingest.dimse.contexts import ACCEPTED, Answered, answer
from ingest.dimse.line import MAXIMUM_PDU, Closed, Line, Reason, Silent, Violation
from ingest.dimse.scp import Scp
from ingest.reception import SUCCESS, UNRECOGNISED_OPERATION, Request

log = logging.getLogger(__name__)

_LONGEST_COMMAND = 1 << 14  # bytes of a command set; that of a C-STORE has 250
_FAREWELL = 5.0  # seconds that a peer gets to close when all is said (ARTIM, PS3.8 9.1.5)
_USER, _PROVIDER = 0, 2  # who aborts (PS3.8 9.3.8)


class Association:
    """A connection, and the association that it may become; `serve` runs in its thread."""

    def __init__(self, sock: socket.socket, address: str, scp: Scp) -> None:
        self.address = plain_address(address)
        self._scp = scp
        self._line = Line(sock, scp.settings.ingest.artim_timeout)
        self._admitted: Admitted | None = None
        self._contexts: dict[int, Answered] = {}
        self._fragment = 0  # bytes of a message in one P-DATA-TF that we send
        self._message: _Message | None = None
        self._is_told = False  # whether it is the peer's turn to close

    def serve(self) -> None:
        """Serve the peer until it ends this, or a fault does, or `end`."""
        level = logging.DEBUG
        try:
            how = self._negotiate() or self._exchange()
        except Violation as violation:
            how, level = f"violated the protocol: {violation}", logging.WARNING
            # Before an association stands it is the user who aborts (PS3.8 9.2.3, AA-1), then the provider.
            self._abort(*((_PROVIDER, violation.reason) if self._admitted else (_USER, 0)))
        except (Silent, Closed) as ended:
            how = str(ended)
            # Whoever has not asked for an association in time is owed no answer (AA-2).
            if self._admitted:
                self._abort(_PROVIDER if isinstance(ended, Silent) else _USER, 0)
        except Exception:
            log.exception("Fault")
            how = "met a fault of ours"
            self._abort(_PROVIDER, 0)
        finally:
            self._leave()
        who = self._admitted.calling_ae_title if self._admitted else "Peer"
        log.log(max(level, logging.INFO) if self._admitted else level, "%s at %s %s", who, self.address, how)

    def end(self) -> None:
        """Abort it, from any thread."""
        self._line.stop_reading()

    def hang_up(self) -> None:
        """End it without a word, from any thread."""
        self._line.hang_up()

    def _leave(self) -> None:
        if self._message is not None and self._message.arrival is not None:
            self._message.arrival.discard()
        self._scp.leave(self)
        if self._is_told:
            self._line.drain(_FAREWELL)
        self._line.close()

    def _tell(self, last: bytes) -> None:
        """Send the PDU after which the peer has to close."""
        self._line.send(last)
        self._is_told = True

    def _abort(self, source: int, reason: int) -> None:
        with suppress(Silent, Closed):
            self._tell(pdu(Pdu.ABORT, bytes((0, 0, source, reason))))

    def _negotiate(self) -> str | None:
        """Answer the request for an association; how the connection has ended, if it has."""
        kind, content = self._line.read()
        if kind == Pdu.ABORT:
            return "aborted"
        if kind != Pdu.ASSOCIATE_RQ:
            raise Violation(Reason.UNEXPECTED_PDU, f"{kind.name} where a request for an association is due")
        request = negotiation.decode(content)
        decision = request.unsupported or self._scp.admit(self, request, self.address)
        if isinstance(decision, Rejected):
            log.warning("Rejected %s at %s: %s", request.calling_ae_title, self.address, decision.why)
            self._tell(negotiation.rejection(decision))
            return "was rejected"
        self._admitted = decision
        answers = answer(request.contexts, decision.ae)
        self._contexts = {context.id: context for context in answers if context.result == ACCEPTED}
        most = min(request.maximum_length or MAXIMUM_PDU, MAXIMUM_PDU)
        self._fragment = max(most - PDV_HEADER.size, 2) & ~1
        self._line.send(negotiation.acceptance(request, answers))
        self._line.establish(self._scp.settings.ingest.network_timeout)
        log.info("Accepted %s at %s to %s", request.calling_ae_title, self.address, request.called_ae_title)
        return None

    def _exchange(self) -> str:
        """Take and answer messages until the peer ends the association; how it did."""
        while True:
            kind, content = self._line.read()
            if kind == Pdu.P_DATA_TF:
                for context_id, control, part in _pdvs(content):
                    self._take(context_id, control, part)
            elif kind == Pdu.RELEASE_RQ:
                self._tell(pdu(Pdu.RELEASE_RP))
                return "released"
            elif kind == Pdu.ABORT:
                return "aborted"
            else:
                raise Violation(Reason.UNEXPECTED_PDU, f"{kind.name} within an association")

    def _take(self, context_id: int, control: int, part: memoryview) -> None:
        """Take a fragment: of a command set first, then of the data set that it announces."""
        context = self._contexts.get(context_id)
        if context is None:
            raise Violation(Reason.INVALID_PARAMETER, f"presentation context {context_id} is not accepted")
        message = self._message = self._message or _Message(context)
        if message.context is not context or bool(control & COMMAND) is not (message.command is None):
            raise Violation(Reason.UNEXPECTED_PARAMETER, "a fragment that does not continue the message")
        if message.command is not None:
            if message.arrival is not None:
                message.arrival.write(part)
            if control & LAST:
                self._complete(message, message.command)
            return
        message.content += part
        if len(message.content) > _LONGEST_COMMAND:
            raise Violation(Reason.INVALID_PARAMETER, "a command set without an end")
        if control & LAST:
            message.command = command = commands.decode(bytes(message.content))
            if not command.has_data_set:
                self._complete(message, command)
            elif command.field == commands.C_STORE and self._admitted is not None:
                message.arrival = self._scp.begin(self._admitted, message.request)

    def _complete(self, message: "_Message", command: Command) -> None:
        """Answer a message that is whole."""
        if command.field == commands.C_STORE and self._admitted is not None:
            given = self._scp.answer(self._admitted, message.request, message.arrival)
            self._respond(message.context, commands.response(command, given.status, given.comment))
            reach("reception.answered")
        elif command.field == commands.C_ECHO:
            self._respond(message.context, commands.response(command, SUCCESS))
        elif command.field & commands.RESPONSE:
            raise Violation(Reason.UNEXPECTED_PARAMETER, "a response to nothing that was asked")
        elif command.field != commands.C_CANCEL:
            self._respond(message.context, commands.response(command, UNRECOGNISED_OPERATION))
        self._message = None
        self._line.refresh()

    def _respond(self, context: Answered, content: bytes) -> None:
        out = bytearray()
        for start in range(0, len(content), self._fragment):
            part = content[start : start + self._fragment]
            last = LAST if start + len(part) == len(content) else 0
            out += PDU_HEADER.pack(Pdu.P_DATA_TF, len(part) + PDV_HEADER.size)
            out += PDV_HEADER.pack(len(part) + 2, context.id, COMMAND | last) + part
        self._line.send(out)


@dataclass(slots=True)
class _Message:
    """A DIMSE message while it arrives."""

    context: Answered
    content: bytearray = field(default_factory=bytearray)  # of the command set
    command: Command | None = None  # once that is whole
    arrival: Arrival | None = None  # where its data set goes; None: nowhere

    @property
    def request(self) -> Request:
        """What a C-STORE asks for."""
        return Request(
            sop_class_uid=self.command.sop_class_uid if self.command else "",
            sop_instance_uid=self.command.sop_instance_uid if self.command else "",
            abstract_syntax=self.context.abstract_syntax,
            transfer_syntax_uid=self.context.transfer_syntax,
        )


def _pdvs(content: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The presentation context, the message control header and the fragment of each PDV of a P-DATA-TF."""
    at = 0
    while at < len(content):
        if at + PDV_HEADER.size > len(content):
            raise Violation(Reason.INVALID_PARAMETER, "a PDV ends early")
        length, context_id, control = PDV_HEADER.unpack_from(content, at)
        at += 4
        if not 2 <= length <= len(content) - at:
            raise Violation(Reason.INVALID_PARAMETER, f"a PDV of {length} bytes in {len(content) - at}")
        yield context_id, control, content[at + 2 : at + length]
        at += length
