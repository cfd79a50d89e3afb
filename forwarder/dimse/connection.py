"""A TCP connection to a destination that sends and reads PDUs (PS3.8 9.3), used by one thread.

Every wait is bounded: `timeout` limits connecting, each send, and each whole PDU read. A peer that never
answers, or answers a byte at a time, holds a thread no longer than that.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from dicomferry.dicom.wire import PDU_HEADER, Pdu, no_delay, pdu, quick_ack
from dicomferry.errors import Transient

_MAX_PDU = 1 << 20  # bytes of a PDU: acceptances and responses are far smaller
_READ_SIZE = 1 << 16


class PeerFailure(Transient):
    """The destination cannot be reached, does not answer, rejects us or is lost; ``str()`` says how."""

    instance: str | None = None  # the object that was being sent
    status: int | None = None  # the answer to it, if there was one


class AssociationOver(PeerFailure):
    """The association is of no use any more; another one may be."""


class PeerClosed(AssociationOver):
    """The destination ended the association: it aborted, released or closed."""


class PeerMuddled(AssociationOver):
    """The destination answered something else than what is due, so that no further answer can be trusted."""


class Connection:
    """One connection to a destination."""

    def __init__(self, sock: socket.socket, timeout: float) -> None:
        self.sock = sock
        self._timeout = timeout
        self._received = bytearray()
        no_delay(sock)

    @classmethod
    def connect(
        cls, host: str, port: int, timeout: float, on_socket: Callable[[socket.socket], object]
    ) -> Self:
        """Connect; `on_socket` gets each socket beforehand, so that another thread can shut it down.

        Raises:
            PeerFailure: the message gives the reason.
        """
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise PeerFailure(f"host not found: {host}") from error
        reason = "host not found"
        for family, kind, protocol, _, address in addresses:
            sock = socket.socket(family, kind, protocol)
            on_socket(sock)
            sock.settimeout(timeout)
            try:
                sock.connect(address)
                # Linux may connect a socket to itself if nobody listens on an ephemeral port of this host.
                if sock.getsockname() == sock.getpeername():
                    raise ConnectionRefusedError
            except OSError as error:
                sock.close()
                reason = _connect_error(error)
            else:
                return cls(sock, timeout)
        raise PeerFailure(reason)

    @property
    def has_no_input(self) -> bool:
        """Whether nothing has arrived; on an idle association any input is its end."""
        if self._received:
            return False
        self.sock.setblocking(False)
        try:
            return self.sock.recv(1, socket.MSG_PEEK) is None
        except BlockingIOError:
            return True
        except OSError:
            return False

    def shorten_timeout(self, timeout: float) -> None:
        """Lower the timeout to `timeout` seconds."""
        self._timeout = min(timeout, self._timeout)

    def send(self, content: bytes | bytearray) -> None:
        """Send all of `content`.

        Raises:
            PeerFailure: it was not sent within the timeout, or the peer has gone.
        """
        try:
            self.sock.settimeout(self._timeout)
            self.sock.sendall(content)
        except TimeoutError as error:
            raise PeerFailure("no answer (timeout while sending)") from error
        except OSError as error:
            raise self._close_reason(error) from error

    def read(self) -> tuple[Pdu, bytearray]:
        """Read one PDU: its type and its content.

        Raises:
            PeerFailure: none came within the timeout.
            PeerMuddled: it is no PDU that a requestor expects.
            PeerClosed: the peer aborted or closed.
        """
        deadline = time.monotonic() + self._timeout
        self._fill(PDU_HEADER.size, deadline)
        kind, length = PDU_HEADER.unpack_from(self._received)
        if length > _MAX_PDU or not Pdu.ASSOCIATE_AC <= kind <= Pdu.ABORT:
            raise PeerMuddled("the destination answered with what is no DICOM")
        self._fill(PDU_HEADER.size + length, deadline)
        content = self._received[PDU_HEADER.size : PDU_HEADER.size + length]
        del self._received[: PDU_HEADER.size + length]
        if kind == Pdu.ABORT:
            raise PeerClosed("aborted by the destination")
        return Pdu(kind), content

    def abort(self) -> None:
        """Send an A-ABORT (PS3.8 9.3.8, source: service user) if that needs no wait, and close."""
        with suppress(OSError):
            self.sock.settimeout(0)
            self.sock.send(pdu(Pdu.ABORT))
        self.close()

    def close(self) -> None:
        """Close the connection."""
        with suppress(OSError):
            self.sock.close()

    def _fill(self, wanted: int, deadline: float) -> None:
        while len(self._received) < wanted:
            quick_ack(self.sock)
            try:
                self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
                part = self.sock.recv(_READ_SIZE)
            except TimeoutError as error:
                raise PeerFailure("no answer (timeout)") from error
            except OSError as error:
                raise PeerClosed("connection closed by the destination") from error
            if not part:
                raise PeerClosed("connection closed by the destination")
            self._received += part

    def _close_reason(self, error: OSError) -> PeerFailure:
        # The peer's last bytes can still be read: perhaps its A-ABORT.
        self.shorten_timeout(0.2)
        try:
            self.read()
        except PeerFailure as failure:
            return failure if isinstance(failure, PeerClosed) else PeerClosed(_connect_error(error))
        return PeerClosed("connection closed by the destination")


def _connect_error(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer (timeout while connecting)"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return f"no connection: {error.strerror or type(error).__name__}"
