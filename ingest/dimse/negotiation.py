"""The PDUs that begin an association: A-ASSOCIATE-RQ, -AC and -RJ (PS3.8 9.3.2 to 9.3.4).

pynetdicom decodes and encodes them. It refuses some requests of old and odd senders that DCMTK and Orthanc
accept; so we normalise a request before it decodes it, and correct an acceptance after it encodes it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_items import (
    ApplicationContextItem,
    PresentationContextItemAC,
    PresentationContextItemRQ,
    TransferSyntaxSubItem,
    UserInformationItem,
)

from dicomferry.dicom.identifiers import APPLICATION_CONTEXT, is_uid, text_of
from dicomferry.dicom.syntaxes import BY_UID
from dicomferry.dicom.wire import PDU_HEADER, Pdu, pdu, user_information
from dicomferry.text import shown_value
from ingest.admission import Rejected
from ingest.dimse.connection import MAXIMUM_PDU, Reason, Violation
from ingest.dimse.contexts import Answered, Proposed

_FIXED = struct.Struct(">H2x16s16s32x")  # protocol version, called and calling AE title
_ITEM = struct.Struct(">BxH")  # item type, length of its content
_APPLICATION_CONTEXT, _CONTEXT, _USER_INFORMATION = 0x10, 0x20, 0x50  # item types
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX, _MAXIMUM_LENGTH = 0x30, 0x40, 0x51  # of sub-items
_PLACEHOLDER_TITLE = b"TITLE".ljust(16)
_VERSION_1 = 1  # a bit of the protocol version


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """What an A-ASSOCIATE-RQ asks for."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[Proposed, ...]
    maximum_length: int  # bytes of a P-DATA-TF that the requestor takes; 0: no limit (PS3.8 annex D.1)
    head: bytes  # as sent; the acceptance repeats it
    unsupported: Rejected | None  # why we accept no request of this kind


def decode(content: memoryview) -> AssociationRequest:
    """Read the content of an A-ASSOCIATE-RQ.

    Raises:
        Violation: it is damaged.
    """
    if len(content) < _FIXED.size:
        raise _damaged("shorter than its fixed part")
    version, called, calling = _FIXED.unpack_from(content)
    request = A_ASSOCIATE_RQ()
    normalised = _normalise(content)
    try:
        request.decode(pdu(Pdu.ASSOCIATE_RQ, normalised))
    except Exception as error:
        # The decoder's input is from the network: any exception means a damaged request.
        raise _damaged(type(error).__name__) from error
    unsupported: Rejected | None = None
    if not version & _VERSION_1:
        unsupported = Rejected(1, 2, 2, f"protocol version 0x{version:04X}")
    elif request.application_context_name != APPLICATION_CONTEXT:
        unsupported = Rejected(1, 1, 2, "another application context than DICOM's")
    information = request.user_information
    return AssociationRequest(
        called_ae_title=_title(called),
        calling_ae_title=_title(calling),
        contexts=tuple(map(_proposed, request.presentation_context)),
        maximum_length=(information.maximum_length if information else None) or 0,
        head=bytes(content[: _FIXED.size]),
        unsupported=unsupported,
    )


def acceptance(request: AssociationRequest, contexts: tuple[Answered, ...]) -> bytes:
    """The A-ASSOCIATE-AC (PS3.8 9.3.3)."""
    application = ApplicationContextItem()
    application.application_context_name = APPLICATION_CONTEXT
    answer = A_ASSOCIATE_AC()
    answer.variable_items = [application, *map(_answered, contexts), _our_user_information()]
    encoded = answer.encode()
    # Titles and reserved bytes go back exactly as sent (table 9-17).
    head = PDU_HEADER.size + _FIXED.size
    version = encoded[PDU_HEADER.size : PDU_HEADER.size + 2]
    return encoded[: PDU_HEADER.size] + version + request.head[2:] + encoded[head:]


def rejection(rejected: Rejected) -> bytes:
    """The A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    answer = A_ASSOCIATE_RJ()
    answer.result, answer.source, answer.reason_diagnostic = rejected.result, rejected.source, rejected.reason
    return answer.encode()


def _normalise(content: memoryview) -> bytes:
    """The request in a form that pynetdicom decodes: placeholder titles, the items that we use, clean UIDs.

    pynetdicom raises on a title or implementation version that is blank, padded with NUL or not ASCII, on a
    UID that is long or not ASCII, and on unknown items, which are to be skipped (PS3.8 9.3.1). It is slow
    with each syntax, so repeated and unknown transfer syntaxes are left out.
    """
    items = bytearray()
    ids = set[int]()
    for kind, item in _items(content[_FIXED.size :]):
        if kind == _APPLICATION_CONTEXT:
            items += _item(kind, _uid(item).encode())
        elif kind == _CONTEXT:
            if len(item) < 4:
                raise _damaged("a presentation context without an ID")
            if item[0] in ids:
                continue  # the first one counts, as for DCMTK
            ids.add(item[0])
            items += _item(kind, bytes(item[:4]) + _normalise_syntaxes(item[4:]))
        elif kind == _USER_INFORMATION:
            lengths = [part for sub, part in _items(item) if sub == _MAXIMUM_LENGTH and len(part) == 4]
            items += _item(kind, b"".join(_item(_MAXIMUM_LENGTH, length) for length in lengths[:1]))
    return _FIXED.pack(_VERSION_1, _PLACEHOLDER_TITLE, _PLACEHOLDER_TITLE) + items


def _normalise_syntaxes(items: memoryview) -> bytes:
    """A context's first abstract syntax, and its transfer syntaxes that we know, each once."""
    names = [(kind, _uid(name)) for kind, name in _items(items)]
    abstract = [uid for kind, uid in names if kind == _ABSTRACT_SYNTAX][:1]
    transfer = dict.fromkeys(uid for kind, uid in names if kind == _TRANSFER_SYNTAX and uid in BY_UID)
    return b"".join(
        _item(kind, uid.encode())
        for kind, uids in ((_ABSTRACT_SYNTAX, abstract), (_TRANSFER_SYNTAX, transfer))
        for uid in uids
    )


def _uid(value: memoryview) -> str:
    """A UID without its padding; empty where it is invalid."""
    text = text_of(bytes(value))
    return text if is_uid(text) else ""


def _items(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each item or sub-item."""
    at = 0
    while at < len(content):
        if at + _ITEM.size > len(content):
            raise _damaged("an item ends early")
        kind, length = _ITEM.unpack_from(content, at)
        at += _ITEM.size
        if at + length > len(content):
            raise _damaged(f"item 0x{kind:02X} is longer than what holds it")
        yield kind, content[at : at + length]
        at += length


def _item(kind: int, content: bytes | memoryview) -> bytes:
    return _ITEM.pack(kind, len(content)) + content


def _proposed(item: PresentationContextItemRQ) -> Proposed:
    return Proposed(
        id=item.presentation_context_id or 0,
        abstract_syntax=str(item.abstract_syntax or ""),
        transfer_syntaxes=tuple(map(str, item.transfer_syntax)),
    )


def _answered(context: Answered) -> PresentationContextItemAC:
    syntax = TransferSyntaxSubItem()
    syntax.transfer_syntax_name = context.transfer_syntax
    item = PresentationContextItemAC()
    item.presentation_context_id, item.result_reason = context.id, context.result
    item.transfer_syntax_sub_item = [syntax]
    return item


@cache
def _our_user_information() -> UserInformationItem:
    item = UserInformationItem()
    item.from_primitive(user_information(MAXIMUM_PDU))
    return item


def _title(value: bytes) -> str:
    """An AE title without its padding, fit to be shown."""
    return shown_value(text_of(value))


def _damaged(words: str) -> Violation:
    return Violation(Reason.INVALID_PARAMETER, f"A-ASSOCIATE-RQ: {words}")
