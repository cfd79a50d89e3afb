"""Decodes requests' command sets and encodes responses' (PS3.7 chapter 9, annex E).

By hand, since pydicom takes 0.6 ms for either: more than the rest of an answer takes, the disk aside.
"""

import struct
from dataclasses import dataclass

from dicomferry.dicom.identifiers import is_uid, text_of
from ingest.dimse.connection import Reason, Violation

C_STORE, C_ECHO, C_CANCEL = 0x0001, 0x0030, 0x0FFF  # Command Field (PS3.7 E.1)
RESPONSE = 0x8000  # the bit of Command Field that marks a response
_NO_DATA_SET = 0x0101
_LONGEST_COMMENT = 64  # characters of Error Comment, VR LO
_ELEMENT = struct.Struct("<HHI")


@dataclass(frozen=True, slots=True)
class Command:
    """A request's command set; UIDs as sent, empty where absent."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str


def decode(content: bytes) -> Command:
    """Read a command set: Implicit VR Little Endian (PS3.7 6.3.1).

    It ignores the group length: the fragments tell the end.

    Raises:
        Violation: it is damaged, or lacks an element that every request has.
    """
    elements: dict[int, bytes] = {}
    at = 0
    while at < len(content):
        if at + _ELEMENT.size > len(content):
            raise _damaged("an element ends early")
        group, element, length = _ELEMENT.unpack_from(content, at)
        at += _ELEMENT.size
        if group != 0 or at + length > len(content):
            raise _damaged(f"({group:04X},{element:04X}) with {length} bytes")
        elements[element] = content[at : at + length]
        at += length
    field = _us(elements, 0x0100)
    return Command(
        field=field,
        # C-CANCEL and responses have none of their own (PS3.7 9.3.2.3, 9.3.1.2).
        message_id=_us(elements, 0x0120 if field == C_CANCEL or field & RESPONSE else 0x0110),
        has_data_set=_us(elements, 0x0800) != _NO_DATA_SET,
        sop_class_uid=_ui(elements, 0x0002) or _ui(elements, 0x0003),
        sop_instance_uid=_ui(elements, 0x1000) or _ui(elements, 0x1001),
    )


def response(command: Command, status: int, comment: str = "") -> bytes:
    """The command set that answers `command`; `comment` is cut to 64 characters (VR LO)."""
    error_comment = comment.encode("ascii", "replace").replace(b"\\", b"/")[:_LONGEST_COMMENT].strip()
    elements = b"".join(
        (
            _uid(0x0002, command.sop_class_uid),
            _number(0x0100, command.field | RESPONSE),
            _number(0x0120, command.message_id),
            _number(0x0800, _NO_DATA_SET),
            _number(0x0900, status),
            _text(0x0902, error_comment, b" ") if error_comment else b"",
            _uid(0x1000, command.sop_instance_uid),
        )
    )
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(elements)) + elements


def _us(elements: dict[int, bytes], element: int) -> int:
    value = elements.get(element, b"")
    if len(value) != 2:
        raise _damaged(f"(0000,{element:04X}) is missing or no US")
    return int.from_bytes(value, "little")


def _ui(elements: dict[int, bytes], element: int) -> str:
    return text_of(elements.get(element, b""))


def _number(element: int, value: int) -> bytes:
    return _ELEMENT.pack(0, element, 2) + struct.pack("<H", value)


def _uid(element: int, uid: str) -> bytes:
    # Optional in a response, so an invalid UID is left out.
    return _text(element, uid.encode("ascii"), b"\0") if is_uid(uid) else b""


def _text(element: int, value: bytes, padding: bytes) -> bytes:
    value += padding * (len(value) % 2)
    return _ELEMENT.pack(0, element, len(value)) + value


def _damaged(words: str) -> Violation:
    return Violation(Reason.INVALID_PARAMETER, f"command set: {words}")
