"""One association with one destination, as its requestor: C-STORE and C-ECHO.

pynetdicom encodes the request. After that we send the bytes of the files ourselves, a block at a time:
pynetdicom would run two threads for each association, which poll a thousand times a second. PS3.7 9.3
(commands), PS3.8 9.3 (PDUs).
"""

import os
import socket
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import BinaryIO, Self

from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE

from dicomferry.crashpoints import reach
from dicomferry.dicom import dimse, even, negotiation
from dicomferry.dicom.identifiers import APPLICATION_CONTEXT
from dicomferry.dicom.negotiation import DamagedNegotiationError, Negotiation
from dicomferry.dicom.part10 import Meta
from dicomferry.dicom.wire import (
    COMMAND,
    LAST,
    DamagedPdvError,
    Pdu,
    fragment_size,
    fragments,
    pdu,
    pdvs,
    user_information,
)
from dicomferry.settings import Destination
from forwarder.dimse.connection import Connection, PeerClosed, PeerFailure, PeerMuddled
from forwarder.dimse.proposal import ECHO, Context
from forwarder.outcome import of_rejection

_RELEASE_SECONDS = 2.0  # seconds to wait for the answer; nothing depends on it
_OUR_MAXIMUM = 1 << 16  # bytes of a P-DATA-TF that we take; responses are small
_BLOCK = 1 << 18  # bytes passed to the kernel at once


class Association:
    """An established association, for one thread at a time.

    After a PeerFailure it cannot be used any more: `abort` it.
    """

    def __init__(self, connection: Connection, contexts: Sequence[Context], answer: Negotiation) -> None:
        self._connection = connection
        self._message_id = 0
        self.responses = 0  # responses received so far
        self.is_storing = False  # an object is being sent; the peer may have it already
        self.changed = ""  # what the object sent last has other than its file, in words
        self.proposed = frozenset(contexts)
        self.accepted: dict[Context, int] = {}
        by_id = {_context_id(index): context for index, context in enumerate(contexts)}
        for item in answer.contexts:
            context = by_id.get(item.id)
            # An acceptance with a syntax that was not proposed is none.
            if context is not None and item.result == 0 and item.transfer_syntaxes[:1] == context[1:]:
                self.accepted[context] = item.id
        self._fragment_size = fragment_size(answer.maximum_length, _BLOCK)

    @classmethod
    def request(
        cls,
        destination: Destination,
        calling: str,
        contexts: Sequence[Context],
        on_socket: Callable[[socket.socket], object] = lambda _: None,
    ) -> Self:
        """Connect and negotiate; an association that accepts none of `contexts` is no failure.

        Raises:
            PeerFailure: the message gives the reason.
        """
        connection = Connection.connect(destination.host, destination.port, destination.timeout, on_socket)
        try:
            connection.send(_encode_request(destination.title, calling, tuple(contexts)))
            kind, content = connection.read()
            if kind == Pdu.ASSOCIATE_RJ and len(content) >= 4:
                raise PeerFailure(of_rejection(content[2], content[3]))  # noqa: TRY301  closes the connection
            if kind != Pdu.ASSOCIATE_AC:
                raise PeerFailure("the destination answered with what is no DICOM")  # noqa: TRY301
            return cls(connection, contexts, _decode(content))
        except BaseException:
            connection.close()
            raise

    @property
    def sock(self) -> socket.socket:
        """Its socket, which other threads may shut down."""
        return self._connection.sock

    @property
    def is_alive(self) -> bool:
        """Whether it can still be used, between objects: False if the peer has ended it."""
        return self._connection.has_no_input

    def store(self, file: BinaryIO, meta: Meta) -> int:
        """Send the data set of an open file by C-STORE; the response's status.

        It leaves byte for byte, unless its length is odd: then it is padded, and `changed` says so.
        Elements at its head that no data set has stay here (see `encoding.stray_length`).

        Raises:
            KeyError: no presentation context was accepted for it.
            OSError: the file cannot be read.
            PeerClosed: the peer has ended the association, before the object or over it.
            PeerMuddled: the peer answered what is no response to it.
            PeerFailure: no response.
        """
        context_id = self.accepted[meta.sop_class_uid, meta.transfer_syntax_uid]
        if not self.is_alive:
            self._read()
            raise PeerMuddled("the destination answered out of turn")
        self.is_storing = True
        try:
            return self._store(file, meta, context_id)
        finally:
            self.is_storing = False

    def _store(self, file: BinaryIO, meta: Meta, context_id: int) -> int:
        end = os.fstat(file.fileno()).st_size
        changes, self.changed = even.edits(file, meta.begin, end, meta.transfer_syntax_uid)
        source = even.Spliced(file, meta.begin, end, changes)
        left = source.length
        command = self._encode_command(dimse.C_STORE, meta.sop_class_uid, meta.sop_instance_uid)
        head = b"".join(fragments(context_id, command, self._fragment_size, COMMAND))
        block_size = max(_BLOCK // self._fragment_size, 1) * self._fragment_size
        while True:
            content = _read_exactly(source, min(block_size, left))
            left -= len(content)
            parts = fragments(context_id, content, self._fragment_size, 0, 0 if left else LAST)
            self._connection.send(b"".join((head, *parts)))
            head = b""
            if not left:
                break
        reach("delivery.sent")
        return self._read_status(dimse.C_STORE)

    def echo(self) -> int:
        """C-ECHO; the response's status. Raises as `store`."""
        command = self._encode_command(dimse.C_ECHO, ECHO[0])
        self._connection.send(b"".join(fragments(self.accepted[ECHO], command, self._fragment_size, COMMAND)))
        return self._read_status(dimse.C_ECHO)

    def release(self) -> None:
        """End it in order (PS3.8 7.2), and close; a peer that does not answer is left alone."""
        self._connection.shorten_timeout(_RELEASE_SECONDS)
        try:
            self._connection.send(pdu(Pdu.RELEASE_RQ))
            while (kind := self._connection.read()[0]) != Pdu.RELEASE_RP:
                if kind == Pdu.RELEASE_RQ:  # a collision: the requestor answers first (PS3.8 7.2.2.7)
                    self._connection.send(pdu(Pdu.RELEASE_RP))
        except PeerFailure:
            pass  # It is over either way.
        self._connection.close()

    def abort(self) -> None:
        """Abort it and close, without a wait."""
        self._connection.abort()

    def _encode_command(self, field: int, sop_class: str, sop_instance: str | None = None) -> bytes:
        """The command set of a request (PS3.7 9.3.1, 9.3.5)."""
        self._message_id = self._message_id % 0xFFFF + 1
        head = (
            _uid(dimse.AFFECTED_SOP_CLASS_UID, sop_class),
            dimse.number(dimse.COMMAND_FIELD, field),
            dimse.number(dimse.MESSAGE_ID, self._message_id),
        )
        if sop_instance is None:
            return dimse.command_set(*head, dimse.number(dimse.DATA_SET_TYPE, dimse.NO_DATA_SET))
        return dimse.command_set(
            *head,
            dimse.number(dimse.PRIORITY, dimse.MEDIUM),
            dimse.number(dimse.DATA_SET_TYPE, dimse.DATA_SET_FOLLOWS),
            _uid(dimse.AFFECTED_SOP_INSTANCE_UID, sop_instance),
        )

    def _read(self) -> tuple[Pdu, bytearray]:
        """Read a PDU; answer the peer's release, which ends the association."""
        kind, content = self._connection.read()
        if kind == Pdu.RELEASE_RQ:
            self._connection.send(pdu(Pdu.RELEASE_RP))
            self._connection.close()
            raise PeerClosed("released by the destination")
        return kind, content

    def _read_status(self, request: int) -> int:
        """Read the response to the request just sent; its status."""
        values, _ = dimse.decode(self._read_command())  # what is damaged behind the status harms nobody
        field, answered = (
            dimse.number_in(values, element)
            for element in (dimse.COMMAND_FIELD, dimse.MESSAGE_ID_RESPONDED_TO)
        )
        if field != request | dimse.RESPONSE or answered != self._message_id:
            raise PeerMuddled("the destination answered something else than was asked")
        status = dimse.number_in(values, dimse.STATUS)
        if status is None:
            raise PeerMuddled("the destination answered without a status")
        self.responses += 1
        return status

    def _read_command(self) -> bytes:
        """Read PDUs until a command set is complete."""
        command = bytearray()
        while True:
            kind, content = self._read()
            if kind != Pdu.P_DATA_TF:
                raise PeerMuddled("the destination answered out of turn")
            try:
                for _, control, part in pdvs(memoryview(content)):
                    if not control & COMMAND:
                        raise PeerMuddled("the destination answered with a data set")
                    command += part
                    if control & LAST:
                        return bytes(command)
                if len(command) > dimse.MAX_COMMAND_SET:
                    raise PeerMuddled("the destination answered without an end")
            except DamagedPdvError as error:
                raise PeerMuddled("the destination answered with a damaged PDV") from error


def _context_id(index: int) -> int:
    return 2 * index + 1


@lru_cache(64)  # a destination is mostly asked for the same, and pynetdicom takes a while
def _encode_request(called: str, calling: str, contexts: tuple[Context, ...]) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2): one presentation context for each of `contexts`."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = APPLICATION_CONTEXT
    primitive.calling_ae_title = calling
    primitive.called_ae_title = called
    definitions = []
    for index, (sop_class, syntax) in enumerate(contexts):
        definition = build_context(sop_class, syntax)
        definition.context_id = _context_id(index)
        definitions.append(definition)
    primitive.presentation_context_definition_list = definitions
    primitive.user_information = user_information(_OUR_MAXIMUM)
    encoded: bytes = A_ASSOCIATE_RQ(primitive).encode()
    return encoded


def _decode(content: bytearray) -> Negotiation:
    try:
        return negotiation.read(Pdu.ASSOCIATE_AC, memoryview(content))
    except DamagedNegotiationError as error:
        raise PeerFailure(f"the destination answered with a damaged acceptance: {error}") from error


def _read_exactly(source: even.Spliced, size: int) -> bytes:
    content = source.read(size)
    if len(content) != size:
        raise OSError("the file became shorter while it was sent")
    return content


def _uid(element: int, uid: str) -> bytes:
    return dimse.text(element, uid.encode("ascii"))
