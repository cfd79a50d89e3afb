"""A TCP connection that carries PDUs (PS3.8 9.3), used by one thread.

Every wait ends: `timeout` bounds connecting, each block sent, and each whole PDU read, so that a peer that
never answers, or answers a byte at a time, holds a thread no longer than that.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from dicomferry.dicom.wire import PDU_HEADER, Pdu, no_delay, quick_ack
from dicomferry.errors import Transient

_LARGEST = 1 << 20  # bytes of a PDU: acceptances and responses are far smaller
_CHUNK = 1 << 16


class PeerFailure(Transient):
    """The destination cannot be reached, does not answer, rejects us or is lost; ``str()`` says how."""

    instance: str | None = None  # the object that was on its way


class PeerClosed(PeerFailure):
    """The destination ended the association: it aborted, released or closed."""


class Line:
    """One connection to a destination."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self.connection = sock
        self._timeout = timeout
        self._received = bytearray()
        no_delay(sock)

    @classmethod
    def dial(cls, host: str, port: int, timeout: float, opened: Callable[[socket.socket], object]) -> Self:
        """Connect; `opened` hears of each socket before it connects, so that another thread can shut it.

        Raises:
            PeerFailure: with the reason in words.
        """
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise PeerFailure(f"host not found: {host}") from error
        words = "host not found"
        for family, kind, protocol, _, address in addresses:
            sock = socket.socket(family, kind, protocol)
            opened(sock)
            sock.settimeout(timeout)
            try:
                sock.connect(address)
                # Linux connects a socket to itself where nobody listens on an ephemeral port of ours.
                if sock.getsockname() == sock.getpeername():
                    raise ConnectionRefusedError
            except OSError as error:
                sock.close()
                words = _connect_words(error)
            else:
                return cls(sock, timeout)
        raise PeerFailure(words)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing has arrived: on an idle association, anything that does is its end."""
        if self._received:
            return False
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) is None
        except BlockingIOError:
            return True
        except OSError:
            return False

    def hurry(self, timeout: float) -> None:
        """From now on wait no longer than `timeout` seconds."""
        self._timeout = min(timeout, self._timeout)

    def send(self, content: bytes | bytearray) -> None:
        """Send all of `content`.

        Raises:
            PeerFailure: it did not leave within the timeout, or the peer has gone.
        """
        try:
            self.connection.settimeout(self._timeout)
            self.connection.sendall(content)
        except TimeoutError as error:
            raise PeerFailure("no answer (timeout while sending)") from error
        except OSError as error:
            raise self._why_closed(error) from error

    def read(self) -> tuple[Pdu, bytearray]:
        """Read one PDU: its type and its content.

        Raises:
            PeerFailure: none came within the timeout, or it is no PDU of this state of an association.
            PeerClosed: the peer aborted or closed.
        """
        deadline = time.monotonic() + self._timeout
        self._fill(PDU_HEADER.size, deadline)
        kind, length = PDU_HEADER.unpack_from(self._received)
        if length > _LARGEST or not Pdu.ASSOCIATE_AC <= kind <= Pdu.ABORT:
            raise PeerFailure("the destination answered with what is no DICOM")
        self._fill(PDU_HEADER.size + length, deadline)
        content = self._received[PDU_HEADER.size : PDU_HEADER.size + length]
        del self._received[: PDU_HEADER.size + length]
        if kind == Pdu.ABORT:
            raise PeerClosed("aborted by the destination")
        return Pdu(kind), content

    def abandon(self, farewell: bytes) -> None:
        """Say `farewell` if that is possible at once, and close."""
        with suppress(OSError):
            self.connection.settimeout(0)
            self.connection.send(farewell)
        self.close()

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self.connection.close()

    def _fill(self, wanted: int, deadline: float) -> None:
        while len(self._received) < wanted:
            quick_ack(self.connection)
            try:
                self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
                part = self.connection.recv(_CHUNK)
            except TimeoutError as error:
                raise PeerFailure("no answer (timeout)") from error
            except OSError as error:
                raise PeerClosed("connection closed by the destination") from error
            if not part:
                raise PeerClosed("connection closed by the destination")
            self._received += part

    def _why_closed(self, error: OSError) -> PeerFailure:
        # What the peer sent before it closed is still there to read: perhaps its A-ABORT.
        self.hurry(0.2)
        try:
            self.read()
        except PeerFailure as failure:
            return failure if isinstance(failure, PeerClosed) else PeerClosed(_connect_words(error))
        return PeerClosed("connection closed by the destination")


def _connect_words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer (timeout while connecting)"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return f"no connection: {error.strerror or type(error).__name__}"
