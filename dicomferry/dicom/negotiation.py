"""Reads the PDUs that negotiate an association: A-ASSOCIATE-RQ and -AC (PS3.8 9.3.2, 9.3.3).

Ingest reads a peer's request, the forwarder a peer's acceptance, and both forgive what DCMTK forgives: of the
items and sub-items only those that we use are looked at, unknown ones are skipped (PS3.8 9.3.1), and a UID
that is none is an empty one, which matches nothing. pynetdicom raises on most of this.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dicomferry.dicom.identifiers import is_uid, text_of
from dicomferry.dicom.wire import Pdu
from dicomferry.errors import FerryError
from dicomferry.text import shown_value

FIXED_PART = struct.Struct(">H2x16s16s32x")  # protocol version, called and calling AE title
_ITEM = struct.Struct(">BxH")  # item type, length of its content
_APPLICATION_CONTEXT, _USER_INFORMATION = 0x10, 0x50  # item types
_CONTEXT = {Pdu.ASSOCIATE_RQ: 0x20, Pdu.ASSOCIATE_AC: 0x21}
_ABSTRACT_SYNTAX, _TRANSFER_SYNTAX, _MAXIMUM_LENGTH = 0x30, 0x40, 0x51  # types of sub-items


class DamagedNegotiationError(FerryError):
    """The PDU cannot be read; the message says where."""


@dataclass(frozen=True, slots=True)
class PresentationContext:
    """A proposed context, or the answer to one; a UID that is invalid is empty."""

    id: int
    result: int  # of an answer: 0 is acceptance (PS3.8 9.3.3.2)
    abstract_syntax: str  # of a proposal
    transfer_syntaxes: tuple[str, ...]  # each once, in the peer's order; an answer has one


@dataclass(frozen=True, slots=True)
class Negotiation:
    """What a request or an acceptance says."""

    version: int
    called_ae_title: str
    calling_ae_title: str
    application_context: str
    contexts: tuple[PresentationContext, ...]  # of each id the first
    maximum_length: int  # bytes of a P-DATA-TF that the peer takes; 0: no limit (PS3.8 annex D.1)


def read(kind: Pdu, content: memoryview) -> Negotiation:
    """Read the content of an A-ASSOCIATE-RQ or -AC.

    Raises:
        DamagedNegotiationError: its structure is damaged.
    """
    if len(content) < FIXED_PART.size:
        raise DamagedNegotiationError("shorter than its fixed part")
    version, called, calling = FIXED_PART.unpack_from(content)
    application, maximum_length = "", 0
    contexts: dict[int, PresentationContext] = {}
    for number, item in _items(content[FIXED_PART.size :]):
        if number == _APPLICATION_CONTEXT:
            application = _uid(item)
        elif number == _CONTEXT[kind]:
            context = _context(item)
            contexts.setdefault(context.id, context)
        elif number == _USER_INFORMATION:
            lengths = [part for sub, part in _items(item) if sub == _MAXIMUM_LENGTH and len(part) == 4]
            maximum_length = int.from_bytes(lengths[0], "big") if lengths else maximum_length
    return Negotiation(
        version, _title(called), _title(calling), application, tuple(contexts.values()), maximum_length
    )


def _context(item: memoryview) -> PresentationContext:
    if len(item) < 4:
        raise DamagedNegotiationError("a presentation context without an ID")
    names = [(kind, _uid(name)) for kind, name in _items(item[4:])]
    return PresentationContext(
        id=item[0],
        result=item[2],
        abstract_syntax=next((uid for kind, uid in names if kind == _ABSTRACT_SYNTAX), ""),
        transfer_syntaxes=tuple(dict.fromkeys(uid for kind, uid in names if kind == _TRANSFER_SYNTAX)),
    )


def _items(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each item or sub-item."""
    at = 0
    while at < len(content):
        if at + _ITEM.size > len(content):
            raise DamagedNegotiationError("an item ends early")
        kind, length = _ITEM.unpack_from(content, at)
        at += _ITEM.size
        if at + length > len(content):
            raise DamagedNegotiationError(f"item 0x{kind:02X} is longer than what holds it")
        yield kind, content[at : at + length]
        at += length


def _uid(value: memoryview) -> str:
    """A UID without its padding; empty where it is invalid."""
    text = text_of(bytes(value))
    return text if is_uid(text) else ""


def _title(value: bytes) -> str:
    """An AE title without its padding, up to the first NUL, fit to be shown."""
    return shown_value(text_of(value))
