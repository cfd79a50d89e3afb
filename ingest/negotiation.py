"""The PDUs that begin an association: A-ASSOCIATE-RQ, -AC and -RJ (PS3.8 9.3.2 to 9.3.4)."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from dicomferry.wire import Pdu, pdu
from ingest.admission import Rejected
from ingest.contexts import Answered, Proposed
from ingest.line import MAXIMUM_PDU, Reason, Violation

_FIXED = struct.Struct(">H2x16s16s32x")  # protocol version, called and calling AE title
_ITEM = struct.Struct(">BxH")  # item type, length of what follows
_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"  # PS3.7 annex A
_VERSION_1 = 1  # a bit of the protocol version


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """What an A-ASSOCIATE-RQ asks for."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[Proposed, ...]
    maximum_length: int  # bytes of a P-DATA-TF that the requestor takes; 0: no limit (PS3.8 annex D.1)
    head: bytes  # as sent: it comes back in the acceptance
    unsupported: Rejected | None  # why nobody's request of this kind is accepted


def decode(content: memoryview) -> AssociationRequest:
    """Read the content of an A-ASSOCIATE-RQ.

    Raises:
        Violation: it is damaged.
    """
    if len(content) < _FIXED.size:
        raise _damaged("shorter than its fixed part")
    version, called, calling = _FIXED.unpack_from(content)
    application = b""
    contexts: list[Proposed] = []
    maximum_length = 0
    for kind, item in _items(content[_FIXED.size :]):
        if kind == 0x10:
            application = bytes(item)
        elif kind == 0x20:
            contexts.append(_proposed(item))
        elif kind == 0x50:
            lengths = [part for sub, part in _items(item) if sub == 0x51 and len(part) == 4]
            maximum_length = int.from_bytes(lengths[0], "big") if lengths else 0
    if len({context.id for context in contexts}) != len(contexts):
        raise _damaged("a presentation context ID is used twice")
    unsupported: Rejected | None = None
    if not version & _VERSION_1:
        unsupported = Rejected(1, 2, 2, f"protocol version 0x{version:04X}")
    elif application.rstrip(b"\0 ") != _APPLICATION_CONTEXT:
        unsupported = Rejected(1, 1, 2, "another application context than DICOM's")
    return AssociationRequest(
        called_ae_title=_text(called),
        calling_ae_title=_text(calling),
        contexts=tuple(contexts),
        maximum_length=maximum_length,
        head=bytes(content[: _FIXED.size]),
        unsupported=unsupported,
    )


def acceptance(request: AssociationRequest, contexts: tuple[Answered, ...]) -> bytes:
    """The A-ASSOCIATE-AC (PS3.8 9.3.3)."""
    answers = b"".join(
        _item(
            0x21,
            struct.pack(">BxBx", context.id, context.result)
            + _item(0x40, context.transfer_syntax.encode("ascii", "replace")),
        )
        for context in contexts
    )
    version = struct.pack(">H", _VERSION_1)
    content = (
        version + request.head[2:] + _item(0x10, _APPLICATION_CONTEXT) + answers + _our_user_information()
    )
    return pdu(Pdu.ASSOCIATE_AC, content)


def rejection(rejected: Rejected) -> bytes:
    """The A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return pdu(Pdu.ASSOCIATE_RJ, bytes((0, rejected.result, rejected.source, rejected.reason)))


@cache
def _our_user_information() -> bytes:
    """PS3.7 annex D.3.3: Maximum Length, Implementation Class UID, Implementation Version Name."""
    return _item(
        0x50,
        _item(0x51, struct.pack(">I", MAXIMUM_PDU))
        + _item(0x52, PYNETDICOM_IMPLEMENTATION_UID.encode())
        + _item(0x55, PYNETDICOM_IMPLEMENTATION_VERSION.encode()),
    )


def _proposed(item: memoryview) -> Proposed:
    if len(item) < 4:
        raise _damaged("a presentation context without an ID")
    parts = [(kind, _text(bytes(part))) for kind, part in _items(item[4:])]
    return Proposed(
        id=item[0],
        abstract_syntax=next((text for kind, text in parts if kind == 0x30), ""),
        transfer_syntaxes=tuple(text for kind, text in parts if kind == 0x40),
    )


def _items(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The items or sub-items one after the other: type and content."""
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


def _item(kind: int, content: bytes) -> bytes:
    return _ITEM.pack(kind, len(content)) + content


def _text(value: bytes) -> str:
    """An AE title or a UID, without its padding; nothing in it can forge a line of a log."""
    text = value.decode("ascii", "replace").strip("\0 ")
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _damaged(words: str) -> Violation:
    return Violation(Reason.INVALID_PARAMETER, f"A-ASSOCIATE-RQ: {words}")
