"""A peer's TCP connection, from which PDUs are read (PS3.8 9.3), by one thread.

Every wait ends, and not only silence is bounded: a peer that sends a byte now and then would hold a thread
for ever. Time that a peer makes us wait is taken from its patience; each byte gives a little back, and a
whole message all of it. What we do with the bytes is not the peer's time, so a slow disk costs it nothing.
"""

import select
import socket
import time
from contextlib import suppress
from enum import IntEnum

from dicomferry.dicom.wire import PDU_HEADER, Pdu, no_delay, quick_ack

MAXIMUM_PDU = 1 << 18  # bytes that a peer may put in one P-DATA-TF; DCMTK never puts more than 128 KiB
_LONGEST_PDU = 1 << 20  # bytes: what is read of peers that heed no maximum, and of association requests
_FIRST_BUFFER = 1 << 14  # bytes: a connection that says nothing shall cost no more
_AHEAD = 1 << 16  # bytes that are taken in one call where PDUs are shorter
_SLOWEST = 1024  # bytes a second below which patience runs out, however long a message is


class Reason(IntEnum):
    """Why the service provider aborts (PS3.8 9.3.8, table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNISED_PDU = 1
    UNEXPECTED_PDU = 2
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class Violation(Exception):  # noqa: N818  a finding about a peer
    """What the peer sent is against the protocol; ``str()`` says how."""

    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(reason, words)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


class Silent(Exception):  # noqa: N818  a finding about a peer
    """The peer sends nothing, or too slowly, or does not read what it is sent."""


class Closed(Exception):  # noqa: N818  no error: connections end
    """The peer has closed the connection, or another thread ends it."""


class Line:
    """One connection; its own thread uses it, others may only end it."""

    def __init__(self, sock: socket.socket, artim_timeout: float) -> None:
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._buffer = bytearray(_FIRST_BUFFER)
        self._start = self._end = 0  # in it: what has arrived and is not read yet
        self._stopped = False
        # ARTIM is one timer for the whole request (PS3.8 9.1.5): nothing gives time back.
        self._most = self._patience = artim_timeout
        self._back = 0.0  # seconds that a byte gives back
        sock.setblocking(False)
        no_delay(sock)

    def establish(self, network_timeout: float) -> None:
        """From now on the peer may take its time, as long as it goes on."""
        self._most = self._patience = network_timeout
        self._back = 1 / _SLOWEST

    def refresh(self) -> None:
        """A message is whole."""
        self._patience = self._most

    def read(self) -> tuple[Pdu, memoryview]:
        """Read one PDU: its type, and its content, which the next read overwrites.

        Raises:
            Violation: it is none, or too long.
            Silent: it did not come, or not fast enough.
            Closed: nothing more comes.
        """
        self._fill(PDU_HEADER.size)
        kind, length = PDU_HEADER.unpack_from(self._buffer, self._start)
        if not Pdu.ASSOCIATE_RQ <= kind <= Pdu.ABORT:
            raise Violation(Reason.UNRECOGNISED_PDU, f"PDU type 0x{kind:02X}")
        if length > _LONGEST_PDU:
            raise Violation(
                Reason.INVALID_PARAMETER, f"a PDU of {length} bytes announced, {MAXIMUM_PDU} are allowed"
            )
        self._fill(PDU_HEADER.size + length)
        content = memoryview(self._buffer)[self._start + PDU_HEADER.size :][:length]
        self._start += PDU_HEADER.size + length
        return Pdu(kind), content

    def send(self, content: bytes | bytearray) -> None:
        """Send all of `content`.

        Raises:
            Silent: the peer does not take it.
            Closed: the peer has gone.
        """
        left = memoryview(content)
        patience = self._most
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                patience = self._wait(select.POLLOUT, patience)
            except OSError as error:
                raise Closed("is gone") from error

    def drain(self, seconds: float) -> None:
        """Let the peer close, as it should (PS3.8 9.2.3, Sta13), and read what it still sends, for so long.

        Closing while something of the peer's is unread would destroy what it has not read of ours.
        """
        deadline = time.monotonic() + seconds
        with suppress(Silent, Closed), memoryview(self._buffer) as scrap:
            while (left := deadline - time.monotonic()) > 0:
                self._patience = left
                self._receive(scrap)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def stop_reading(self) -> None:
        """Make reading raise Closed, from any thread."""
        self._stopped = True
        self._shut(socket.SHUT_RD)

    def hang_up(self) -> None:
        """Make reading and sending raise Closed, from any thread."""
        self._stopped = True
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        with suppress(OSError):
            self._socket.shutdown(how)

    def _fill(self, length: int) -> None:
        """Have `length` bytes to read; the buffer grows with what came, not with what was announced.

        With a long PDU the header of the next one is taken, of short ones as many as come: that is a call
        for each PDU at most, and hardly anything to move.
        """
        while (there := self._end - self._start) < length:
            if self._start + length > len(self._buffer) or not there:
                self._buffer[:there] = self._buffer[self._start : self._end]
                self._start, self._end = 0, there
            if there == len(self._buffer):
                # A new one: PDUs that were read may still be looked at.
                self._buffer = self._buffer + bytearray(min(3 * there, _LONGEST_PDU))
            most = self._start + max(length + PDU_HEADER.size, _AHEAD)
            with memoryview(self._buffer) as view:
                self._end += self._receive(view[self._end : most])

    def _receive(self, into: memoryview) -> int:
        while not self._stopped:
            try:
                received = self._socket.recv_into(into)
            except BlockingIOError:
                self._patience = self._wait(select.POLLIN, self._patience)
                continue
            except OSError as error:
                raise Closed("is gone") from error
            if received == 0:
                break
            self._patience = min(self._patience + received * self._back, self._most)
            return received
        raise Closed("was ended, since ingest stops" if self._stopped else "is gone")

    def _wait(self, event: int, patience: float) -> float:
        """Wait until the socket is ready; what is left of `patience` seconds."""
        quick_ack(self._socket)
        self._poll.modify(self._socket, event)
        began = time.monotonic()
        if patience <= 0 or not self._poll.poll(1000 * patience):
            raise Silent("was silent, or too slow")
        return patience - (time.monotonic() - began)
