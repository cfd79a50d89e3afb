"""What requestor and acceptor share: PDUs (PS3.8 9.3), and sockets that do not stall.

Nagle's algorithm and delayed acknowledgement, together, cost 40 ms a message against a peer that writes in
several small pieces, as stock DCMTK and Orthanc do. TCP_NODELAY cures our writes. TCP_QUICKACK cures the
peer's; it is Linux only and the kernel resets it, so it is set again before waiting.
"""

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from enum import IntEnum
from typing import Any

from pynetdicom.pdu_primitives import (
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
)

from dicomferry.dicom.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomferry.errors import FerryError

PDU_HEADER = struct.Struct(">BxI")  # PDU type, length of what follows
_PDV_HEADER = struct.Struct(">IBB")  # length of what follows, presentation context, message control header
COMMAND, LAST = 1, 2  # bits of the message control header (PS3.8 annex E.2)
_P_DATA_HEAD = struct.Struct(">BxIIBB")  # a P-DATA-TF with one PDV, up to its fragment (PS3.8 9.3.5)

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)


class DamagedPdvError(FerryError):
    """A P-DATA-TF cannot be read; the message says where."""


class Pdu(IntEnum):
    """PDU types (PS3.8 9.3.1)."""

    ASSOCIATE_RQ = 1
    ASSOCIATE_AC = 2
    ASSOCIATE_RJ = 3
    P_DATA_TF = 4
    RELEASE_RQ = 5
    RELEASE_RP = 6
    ABORT = 7


def pdu(kind: Pdu, content: bytes = b"\0\0\0\0") -> bytes:
    """A whole PDU; the content's default is the one of A-RELEASE-RQ and -RP (PS3.8 9.3.6, 9.3.7)."""
    return PDU_HEADER.pack(kind, len(content)) + content


def fragment_size(maximum_length: int | None, limit: int) -> int:
    """Bytes of a message in one P-DATA-TF, an even number.

    `maximum_length` is the peer's, 0 or None if it has none (PS3.8 annex D.1); `limit` is ours.
    """
    return max(min(maximum_length or limit, limit) - _PDV_HEADER.size, 2) & ~1


def fragments(
    context_id: int, message: bytes, size: int, control: int, end: int = LAST
) -> Iterator[bytes | memoryview]:
    """P-DATA-TF PDUs of one PDV each: a header, then at most `size` bytes of `message`, in turn.

    `control` is the message control header (PS3.8 annex E.2); the last one has the bits of `end` too.
    """
    view = memoryview(message)
    for start in range(0, max(len(message), 1), size):
        part = view[start : start + size]
        last = end if start + len(part) == len(message) else 0
        yield _P_DATA_HEAD.pack(Pdu.P_DATA_TF, len(part) + 6, len(part) + 2, context_id, control | last)
        yield part


def pdvs(content: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The presentation context, the message control header and the fragment of each PDV of a P-DATA-TF.

    Raises:
        DamagedPdvError: after the PDVs before the damage.
    """
    at = 0
    while at < len(content):
        if at + _PDV_HEADER.size > len(content):
            raise DamagedPdvError("a PDV ends early")
        length, context_id, control = _PDV_HEADER.unpack_from(content, at)
        at += 4
        if not 2 <= length <= len(content) - at:
            raise DamagedPdvError(f"a PDV of {length} bytes in {len(content) - at}")
        yield context_id, control, content[at + 2 : at + length]
        at += length


def user_information(maximum_length: int) -> list[Any]:
    """Our user information in a negotiation, as pynetdicom's primitives (PS3.7 annex D.3.3).

    `maximum_length` is how many bytes we take in one P-DATA-TF.
    """
    length, implementation, version = (
        MaximumLengthNotification(),
        ImplementationClassUIDNotification(),
        ImplementationVersionNameNotification(),
    )
    length.maximum_length_received = maximum_length
    implementation.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, implementation, version]


def no_delay(sock: socket.socket) -> None:
    """Send small writes at once."""
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def quick_ack(sock: socket.socket) -> None:
    """Acknowledge at once what has arrived and what arrives next."""
    if _QUICKACK is not None:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
