"""One association with one destination, as its requestor: C-STORE and C-ECHO.

pynetdicom encodes the request and decodes the acceptance; on the established association objects leave as
the bytes of their files, a block at a time, without pynetdicom's two threads an association that poll a
thousand times a second. PS3.7 9.3 (commands), PS3.8 9.3 (PDUs).
"""

import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self

from pynetdicom import build_context
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE

from dicomferry.crashpoints import reach
from dicomferry.dicom.identifiers import APPLICATION_CONTEXT
from dicomferry.dicom.part10 import Meta
from dicomferry.dicom.wire import COMMAND, LAST, PDV_HEADER, Pdu, pdu, user_information
from dicomferry.settings import Destination
from forwarder.dimse.line import Line, PeerClosed, PeerFailure
from forwarder.dimse.proposal import ECHO, Context
from forwarder.outcome import of_rejection

_RELEASE_SECONDS = 2.0  # nothing depends on the answer
_OUR_MAXIMUM = 1 << 16  # bytes of a P-DATA-TF that we take: responses
_BLOCK = 1 << 18  # bytes handed to the kernel at once
_PDV = struct.Struct(">BxIIBB")  # P-DATA-TF with one PDV, up to its control header (PS3.8 9.3.5, annex E)
_C_STORE_RQ, _C_ECHO_RQ, _RESPONSE = 0x0001, 0x0030, 0x8000
_NO_DATA_SET = 0x0101


class Association:
    """An established association; one thread at a time uses it.

    Where a method raises PeerFailure the association is no longer good: `abort` it.
    """

    def __init__(self, line: Line, contexts: Sequence[Context], answer: A_ASSOCIATE_AC) -> None:
        self._line = line
        self._message_id = 0
        self.responses = 0  # how often the peer has answered
        self.is_storing = False  # an object is on its way, and perhaps with the peer already
        self.proposed = frozenset(contexts)
        self.accepted: dict[Context, int] = {}
        by_id = {_context_id(index): context for index, context in enumerate(contexts)}
        for item in answer.presentation_context:
            context_id = item.presentation_context_id or 0
            context = by_id.get(context_id)
            # An acceptor that names another syntax than the one proposed has accepted nothing.
            if context is not None and item.result == 0 and item.transfer_syntax == context[1]:
                self.accepted[context] = context_id
        self._fragment = _fragment(answer)

    @classmethod
    def request(
        cls,
        destination: Destination,
        calling: str,
        contexts: Sequence[Context],
        opened: Callable[[socket.socket], object] = lambda _: None,
    ) -> Self:
        """Connect and negotiate; an association that accepts none of `contexts` is one too.

        Raises:
            PeerFailure: with the reason in words.
        """
        line = Line.dial(destination.host, destination.port, destination.timeout, opened)
        try:
            line.send(_request(destination.title, calling, contexts))
            kind, content = line.read()
            if kind == Pdu.ASSOCIATE_RJ and len(content) >= 4:
                raise PeerFailure(of_rejection(content[2], content[3]))  # noqa: TRY301  closes the line
            if kind != Pdu.ASSOCIATE_AC:
                raise PeerFailure("the destination answered with what is no DICOM")  # noqa: TRY301
            return cls(line, contexts, _decode(pdu(kind, bytes(content))))
        except BaseException:
            line.close()
            raise

    @property
    def connection(self) -> socket.socket:
        """Its socket, by which other threads know it."""
        return self._line.connection

    @property
    def is_alive(self) -> bool:
        """Whether, being idle, it can still be used: False where the peer has ended it meanwhile."""
        return self._line.is_quiet

    def store(self, path: Path, meta: Meta) -> int:
        """C-STORE the data set of the file at `path`, byte for byte; the response's status.

        Raises:
            KeyError: no presentation context was accepted for it.
            OSError: the file cannot be read.
            PeerFailure: no response.
        """
        context_id = self.accepted[meta.sop_class_uid, meta.transfer_syntax_uid]
        self.is_storing = True
        try:
            return self._store(path, meta, context_id)
        finally:
            self.is_storing = False

    def _store(self, path: Path, meta: Meta, context_id: int) -> int:
        with path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size - meta.offset
            file.seek(meta.offset)
            command = self._command(_C_STORE_RQ, meta.sop_class_uid, meta.sop_instance_uid)
            head = b"".join(self._fragments(context_id, command, COMMAND))
            at_once = max(_BLOCK // self._fragment, 1) * self._fragment
            while True:
                content = _read_exactly(file, min(at_once, left))
                left -= len(content)
                self._line.send(
                    b"".join((head, *self._fragments(context_id, content, 0, 0 if left else LAST)))
                )
                head = b""
                if not left:
                    break
        reach("delivery.sent")
        return self._status(_C_STORE_RQ)

    def echo(self) -> int:
        """C-ECHO; the response's status. Raises as `store`."""
        command = self._command(_C_ECHO_RQ, ECHO[0])
        self._line.send(b"".join(self._fragments(self.accepted[ECHO], command, COMMAND)))
        return self._status(_C_ECHO_RQ)

    def release(self) -> None:
        """End it in order (PS3.8 7.2), and close; a peer that does not answer is left alone."""
        self._line.hurry(_RELEASE_SECONDS)
        try:
            self._line.send(pdu(Pdu.RELEASE_RQ))
            while (kind := self._line.read()[0]) != Pdu.RELEASE_RP:
                if kind == Pdu.RELEASE_RQ:  # a collision: the requestor answers first (PS3.8 7.2.2.7)
                    self._line.send(pdu(Pdu.RELEASE_RP))
        except PeerFailure:
            pass  # It is over either way.
        self._line.close()

    def abort(self) -> None:
        """End it at once (PS3.8 9.3.8, source: service user), and close."""
        self._line.abandon(pdu(Pdu.ABORT))

    def _command(self, field: int, sop_class: str, sop_instance: str | None = None) -> bytes:
        """A command set in Implicit VR Little Endian (PS3.7 6.3.1, 9.3.1, 9.3.5)."""
        self._message_id = self._message_id % 0xFFFF + 1
        elements = _uid(0x0002, sop_class) + _us(0x0100, field) + _us(0x0110, self._message_id)
        if sop_instance is None:
            elements += _us(0x0800, _NO_DATA_SET)
        else:
            priority_medium = 0
            elements += _us(0x0700, priority_medium) + _us(0x0800, 1) + _uid(0x1000, sop_instance)
        return struct.pack("<HHII", 0, 0, 4, len(elements)) + elements

    def _fragments(
        self, context_id: int, content: bytes, kind: int, end: int = LAST
    ) -> Iterator[bytes | memoryview]:
        """P-DATA-TF PDUs with one PDV each, header and fragment by turns; the last has the bit `end`."""
        view = memoryview(content)
        for start in range(0, max(len(content), 1), self._fragment):
            part = view[start : start + self._fragment]
            last = end if start + len(part) == len(content) else 0
            yield _PDV.pack(Pdu.P_DATA_TF, len(part) + 6, len(part) + 2, context_id, kind | last)
            yield part

    def _status(self, request: int) -> int:
        """The status in the response to the request just sent."""
        command = bytearray()
        while True:
            kind, content = self._line.read()
            if kind == Pdu.RELEASE_RQ:
                self._line.send(pdu(Pdu.RELEASE_RP))
                raise PeerClosed("released by the destination before it answered")
            if kind != Pdu.P_DATA_TF:
                raise PeerFailure("the destination answered out of turn")
            ended = False
            for control, part in _pdvs(content):
                if not control & COMMAND:
                    raise PeerFailure("the destination answered with a data set")
                command += part
                ended = bool(control & LAST)
            if ended:
                break
        elements = dict(_us_elements(bytes(command)))
        if elements.get(0x0100) != request | _RESPONSE or elements.get(0x0120) != self._message_id:
            raise PeerFailure("the destination answered something else than was asked")
        if 0x0900 not in elements:
            raise PeerFailure("the destination answered without a status")
        self.responses += 1
        return elements[0x0900]


def _context_id(index: int) -> int:
    return 2 * index + 1


def _request(called: str, calling: str, contexts: Sequence[Context]) -> bytes:
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


def _decode(content: bytes) -> A_ASSOCIATE_AC:
    answer = A_ASSOCIATE_AC()
    try:
        answer.decode(content)
        answer.presentation_context  # noqa: B018  decodes lazily
    except Exception as error:
        # A decoder of what the network sent: any exception means that it is no acceptance.
        raise PeerFailure("the destination answered with a damaged acceptance") from error
    return answer


def _fragment(answer: A_ASSOCIATE_AC) -> int:
    """Bytes of the message in one P-DATA-TF: the peer's maximum (PS3.8 annex D.1; 0 is no limit), even."""
    information = answer.user_information
    maximum = (information.maximum_length if information else None) or _BLOCK
    return max(min(maximum, _BLOCK) - 6, 2) & ~1


def _read_exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise OSError("the file became shorter while it was sent")
    return content


def _uid(element: int, value: str) -> bytes:
    encoded = value.encode("ascii")
    encoded += b"\0" * (len(encoded) % 2)
    return struct.pack("<HHI", 0, element, len(encoded)) + encoded


def _us(element: int, value: int) -> bytes:
    return struct.pack("<HHIH", 0, element, 2, value)


def _pdvs(content: bytearray) -> Iterator[tuple[int, bytes]]:
    """The message control header and the fragment of each PDV in a P-DATA-TF."""
    at = 0
    while at + 6 <= len(content):
        length, _, control = PDV_HEADER.unpack_from(content, at)
        if length < 2 or at + 4 + length > len(content):
            raise PeerFailure("the destination answered with a damaged PDV")
        yield control, bytes(content[at + 6 : at + 4 + length])
        at += 4 + length


def _us_elements(command: bytes) -> Iterator[tuple[int, int]]:
    """The element numbers and values of a command set's elements of VR US."""
    at = 0
    while at + 8 <= len(command):
        element, length = struct.unpack_from("<2xHI", command, at)
        at += 8
        if length == 2 and at + 2 <= len(command):
            yield element, int.from_bytes(command[at : at + 2], "little")
        at += length
