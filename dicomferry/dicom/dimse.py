"""DIMSE command sets: Implicit VR Little Endian (PS3.7 6.3.1, chapter 9, annex E).

By hand, since pydicom takes 0.6 ms to read or write one: more than the rest of an answer takes, the disk
aside.
"""

import struct

# Command Field (PS3.7 E.1)
C_STORE, C_ECHO, C_CANCEL = 0x0001, 0x0030, 0x0FFF
RESPONSE = 0x8000  # the bit of Command Field that marks a response

# Element numbers in group 0000 (PS3.7 E.1)
AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID = 0x0002, 0x0003
COMMAND_FIELD, MESSAGE_ID, MESSAGE_ID_RESPONDED_TO = 0x0100, 0x0110, 0x0120
PRIORITY, DATA_SET_TYPE = 0x0700, 0x0800
STATUS, ERROR_COMMENT = 0x0900, 0x0902
AFFECTED_SOP_INSTANCE_UID, REQUESTED_SOP_INSTANCE_UID = 0x1000, 0x1001

MEDIUM = 0x0000  # Priority
DATA_SET_FOLLOWS, NO_DATA_SET = 0x0001, 0x0101  # Command Data Set Type
MAX_COMMAND_SET = 1 << 14  # bytes; that of a C-STORE has 250
_HEADER = struct.Struct("<HHI")


def command_set(*elements: bytes) -> bytes:
    """A command set of encoded `elements`, in order, behind their group length."""
    content = b"".join(elements)
    return _HEADER.pack(0, 0, 4) + struct.pack("<I", len(content)) + content


def number(element: int, value: int) -> bytes:
    """An element of VR US."""
    return _HEADER.pack(0, element, 2) + struct.pack("<H", value)


def text(element: int, value: bytes, padding: bytes = b"\0") -> bytes:
    """An element of text, made even; a UID is padded with NUL."""
    value += padding * (len(value) % 2)
    return _HEADER.pack(0, element, len(value)) + value


def decode(content: bytes) -> tuple[dict[int, bytes], str]:
    """The values in a command set by element number, up to what is damaged, and that in words.

    The group length is not looked at: the fragments tell the end.
    """
    values: dict[int, bytes] = {}
    at = 0
    while at < len(content):
        if at + _HEADER.size > len(content):
            return values, "an element ends early"
        group, element, length = _HEADER.unpack_from(content, at)
        at += _HEADER.size
        if group != 0 or at + length > len(content):
            return values, f"({group:04X},{element:04X}) with {length} bytes"
        values[element] = content[at : at + length]
        at += length
    return values, ""


def number_in(values: dict[int, bytes], element: int) -> int | None:
    """The value of an element of VR US; None if it is missing or no US."""
    value = values.get(element, b"")
    return int.from_bytes(value, "little") if len(value) == 2 else None
