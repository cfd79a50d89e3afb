"""A requestor made of bytes, for what no toolkit would send. It shares no code with what it talks to.

PS3.8 9.3 (PDUs), annex E (PDVs); PS3.7 6.3.1 and annex E (command sets).
"""

import fcntl
import random
import select
import socket
import struct
import termios
import time
from array import array
from collections.abc import Sequence
from typing import Self

from tests.support.running.processes import wait_until

CT = "1.2.840.10008.5.1.4.1.1.2"
HERE = "127.0.0.1"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
RQ, AC, RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
NO_DATA_SET = 0x0101


def pdu(kind: int, content: bytes, length: int | None = None) -> bytes:
    """A PDU; `length` where it lies about its content."""
    return struct.pack(">BxI", kind, len(content) if length is None else length) + content


def item(kind: int, content: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BxH", kind, len(content) if length is None else length) + content


def association_request(
    contexts: Sequence[tuple[int, str, str]] = ((1, CT, EXPLICIT_LE), (3, VERIFICATION, EXPLICIT_LE)),
    *,
    called: bytes = b"FERRY",
    calling: bytes = b"RAW",
    version: int = 1,
    application: bytes = b"1.2.840.10008.3.1.1.1",
    maximum_length: int = 16384,
    extra: bytes = b"",
) -> bytes:
    """The content of an A-ASSOCIATE-RQ; each context is its id, SOP class and transfer syntax."""
    items = item(0x10, application)
    for number, sop_class, syntax in contexts:
        parts = item(0x30, sop_class.encode()) + item(0x40, syntax.encode())
        items += item(0x20, bytes((number, 0, 0, 0)) + parts)
    items += item(0x50, item(0x51, struct.pack(">I", maximum_length)) + item(0x52, b"1.2.3"))
    return struct.pack(">H2x16s16s32x", version, called.ljust(16), calling.ljust(16)) + items + extra


def association_acceptance(
    contexts: Sequence[tuple[int, int, bytes]] = ((1, 0, EXPLICIT_LE.encode()),),
    *,
    called: bytes = b"WS",
    application: bytes = b"1.2.840.10008.3.1.1.1",
    maximum_length: int = 16384,
    extra: bytes = b"",
) -> bytes:
    """The content of an A-ASSOCIATE-AC; each context is its id, result and transfer syntax."""
    items = item(0x10, application)
    for number, result, syntax in contexts:
        items += item(0x21, bytes((number, 0, result, 0)) + item(0x40, syntax))
    items += item(0x50, item(0x51, struct.pack(">I", maximum_length)) + item(0x52, b"1.2.3"))
    return struct.pack(">H2x16s16s32x", 1, called.ljust(16), b"RAW".ljust(16)) + items + extra


def pdv(context: int, control: int, content: bytes, length: int | None = None) -> bytes:
    """A PDV; bits of `control`: 1 a command set, 2 the last fragment."""
    return struct.pack(">IBB", len(content) + 2 if length is None else length, context, control) + content


def p_data(context: int, control: int, content: bytes) -> bytes:
    return pdu(P_DATA, pdv(context, control, content))


def element(number: int, value: bytes, length: int | None = None) -> bytes:
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value) if length is None else length) + value


def us(number: int, value: int) -> bytes:
    return element(number, struct.pack("<H", value))


def command(*elements: bytes, group_length: int | None = None) -> bytes:
    content = b"".join(elements)
    length = len(content) if group_length is None else group_length
    return element(0, struct.pack("<I", length)) + content


def store_request(uid: bytes = b"1.2.3", sop_class: str = CT, data_set: int = 1) -> bytes:
    """The command set of a C-STORE request."""
    return command(
        element(0x0002, sop_class.encode()),
        us(0x0100, 0x0001),
        us(0x0110, 7),
        us(0x0700, 0),
        us(0x0800, data_set),
        element(0x1000, uid),
    )


def echo_request() -> bytes:
    return command(
        element(0x0002, VERIFICATION.encode()), us(0x0100, 0x0030), us(0x0110, 9), us(0x0800, NO_DATA_SET)
    )


def data_set(uid: bytes = b"1.2.3", study: bytes = b"1.2.4", pixels: int = 1000) -> bytes:
    """A CT image, as far as it goes, in Explicit VR Little Endian."""
    short = [
        (0x00080016, b"UI", CT.encode()),
        (0x00080018, b"UI", uid),
        (0x0020000D, b"UI", study),
        (0x0020000E, b"UI", b"1.2.5"),
    ]
    content = b""
    for tag, vr, value in short:
        padded = value + b"\0" * (len(value) % 2)
        content += struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(padded)) + padded
    return content + struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OW", pixels) + bytes(pixels)


def tiny_image(
    uid: bytes, modality: bytes = b"CT", photometric: bytes = b"MONOCHROME2", side: int = 2
) -> bytes:
    """A whole image of `side` x `side` bytes of noise, in Explicit VR Little Endian; `side` is even."""
    numbers = [(0x10, side), (0x11, side), (0x100, 8), (0x101, 8), (0x102, 7), (0x103, 0)]
    elements = [
        (0x00080016, b"UI", CT.encode()),
        (0x00080018, b"UI", uid),
        (0x00080060, b"CS", modality),
        (0x0020000D, b"UI", b"1.2.4"),
        (0x0020000E, b"UI", b"1.2.5"),
        (0x00280002, b"US", struct.pack("<H", 1)),
        (0x00280004, b"CS", photometric),
        *((0x00280000 | element, b"US", struct.pack("<H", value)) for element, value in numbers),
    ]
    content = b""
    for tag, vr, value in elements:
        padded = value + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
        content += struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(padded)) + padded
    pixels = random.Random(uid).randbytes(side * side)
    return content + struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", len(pixels)) + pixels


class Raw:
    """A connection to an acceptor on loopback."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=60)

    @classmethod
    def associated(cls, port: int, *contexts: tuple[int, str, str]) -> Self:
        """With an association that stands."""
        peer = cls(port)
        peer.send(pdu(RQ, association_request(contexts) if contexts else association_request()))
        kind, content = peer.read()
        assert kind == AC, (kind, content)
        return peer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def read(self) -> tuple[int, bytes]:
        """The next PDU: its type and its content; type 0 where the acceptor has closed."""
        head = self._exactly(6)
        if len(head) < 6:
            return 0, b""
        kind, length = struct.unpack(">BxI", head)
        return kind, self._exactly(length)

    def status(self) -> int:
        """The status of the response that comes next."""
        kind, content = self.read()
        assert kind == P_DATA, (kind, content)
        at = 6
        while at < len(content):
            number, length = struct.unpack_from("<2xHI", content, at)
            if number == 0x0900:
                return int.from_bytes(content[at + 8 : at + 8 + length], "little")
            at += 8 + length
        raise AssertionError("a response without a status")

    def echo(self, context: int = 3) -> int:
        """C-ECHO; the status."""
        self.send(p_data(context, 3, echo_request()))
        return self.status()

    def store(self, uid: bytes = b"1.2.3", content: bytes | None = None) -> int:
        """C-STORE; the status."""
        self.send(
            p_data(1, 3, store_request(uid)), p_data(1, 2, data_set(uid) if content is None else content)
        )
        return self.status()

    def trickle(self, content: bytes, pause: float = 0.02, seconds: float = 20.0) -> bool:
        """Send a byte at a time; whether the acceptor put an end to it before all was said."""
        deadline = time.monotonic() + seconds
        for byte in content:
            if select.select([self.sock], [], [], pause)[0]:
                return True
            try:
                self.sock.send(bytes((byte,)))
            except OSError:
                return True
            assert time.monotonic() < deadline, "the acceptor lets a peer trickle for ever"
        return False

    def vanish(self) -> None:
        """Be gone without a word to the other side, as when the power fails. Needs root.

        Both sides have acknowledged what was sent: an acknowledgement that is still to come would be answered
        with a reset.

        Raises:
            PermissionError: we are not.
        """
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        wait_until(lambda: not self._unacknowledged(), "what was sent to be acknowledged")
        tcp_repair = 19
        self.sock.setsockopt(socket.IPPROTO_TCP, tcp_repair, 1)
        self.sock.close()

    def _unacknowledged(self) -> int:
        """Bytes (tcp(7), SIOCOUTQ)."""
        left = array("i", [0])
        fcntl.ioctl(self.sock, termios.TIOCOUTQ, left)
        return left[0]

    def _exactly(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            try:
                part = self.sock.recv(size - len(content))
            except ConnectionResetError:
                part = b""
            if not part:
                break
            content += part
        return content


class From(Raw):
    """A requestor at one of loopback's addresses."""

    def __init__(self, port: int, address: str = HERE) -> None:
        self.sock = socket.create_connection((HERE, port), 20, source_address=(address, 0))

    def ask(self, calling: bytes = b"RAW", called: bytes = b"FERRY") -> tuple[int, bytes]:
        """The answer to a request for an association."""
        self.send(pdu(RQ, association_request(calling=calling, called=called)))
        kind, content = self.read()
        return kind, b"" if kind == AC else content
