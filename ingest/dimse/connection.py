"""A peer's TCP connection, from which one thread reads PDUs (PS3.8 9.3).

Every wait is bounded. A timeout for silence alone would let a peer that sends a byte now and then hold a
thread for ever. So each wait for the peer shortens its time left; each byte adds a little, and a complete
message restores it. Only waiting counts: our slow disk costs the peer nothing.
"""

import select
import socket
import time
from contextlib import suppress
from enum import IntEnum

from dicomferry.dicom.wire import PDU_HEADER, Pdu, no_delay, quick_ack

MAXIMUM_PDU = 1 << 18  # bytes of a P-DATA-TF that we announce; DCMTK never sends more than 128 KiB
_LONGEST_PDU = 1 << 20  # bytes that we accept: some peers ignore the maximum, and A-ASSOCIATE-RQ has none
_FIRST_BUFFER = 1 << 14  # bytes: all that a silent connection costs
_READ_AHEAD = 1 << 16  # bytes to ask for in one call when PDUs are shorter
WE_STOP = "was ended, since ingest stops"
_MINIMUM_RATE = 1024  # bytes a second; a slower message runs out of time, however long it is


class Reason(IntEnum):
    """Why the service provider aborts (PS3.8 9.3.8, table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNISED_PDU = 1
    UNEXPECTED_PDU = 2
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6


class Violation(Exception):  # noqa: N818  a finding about a peer
    """The peer violated the protocol; ``str()`` says how."""

    def __init__(self, reason: Reason, words: str) -> None:
        super().__init__(reason, words)
        self.reason = reason

    def __str__(self) -> str:
        return str(self.args[1])


class TimedOut(Exception):  # noqa: N818  a finding about a peer
    """The peer sends nothing, sends too slowly, or does not read."""


class Closed(Exception):  # noqa: N818  no error: connections end
    """The peer or another thread has closed the connection."""


class Connection:
    """One connection; its own thread uses it, other threads may only end it."""

    def __init__(self, sock: socket.socket, artim_timeout: float) -> None:
        self._socket = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._buffer = bytearray(_FIRST_BUFFER)
        self._start = self._end = 0  # in the buffer: what has arrived and is not read yet
        self._stopped = ""  # why another thread has ended it
        # ARTIM is one timer for the whole request (PS3.8 9.1.5): bytes add no time.
        self._timeout = self._time_left = artim_timeout
        self._credit_per_byte = 0.0  # seconds that a byte adds
        sock.setblocking(False)
        no_delay(sock)

    def start_network_timeout(self, network_timeout: float) -> None:
        """The association is accepted: `network_timeout` seconds of waiting, and each byte adds time."""
        self._timeout = self._time_left = network_timeout
        self._credit_per_byte = 1 / _MINIMUM_RATE

    def reset_timer(self) -> None:
        """Restore the full timeout, since a message is complete."""
        self._time_left = self._timeout

    def read(self) -> tuple[Pdu, memoryview]:
        """Read one PDU: its type and its content, which the next read overwrites.

        Raises:
            Violation: it is no PDU, or too long.
            TimedOut: it did not come in time.
            Closed: the connection has ended.
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
            TimedOut: the peer does not read it.
            Closed: the peer has gone.
        """
        left = memoryview(content)
        time_left = self._timeout
        while left:
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                time_left = self._wait(select.POLLOUT, time_left)
            except OSError as error:
                raise Closed("is gone") from error

    def drain(self, seconds: float) -> None:
        """Read and drop what the peer sends until it closes (PS3.8 9.2.3, Sta13), for `seconds` at most.

        Closing with bytes unread resets the connection, and the peer would lose our last PDU.
        """
        deadline = time.monotonic() + seconds
        with suppress(TimedOut, Closed), memoryview(self._buffer) as scrap:
            while (left := deadline - time.monotonic()) > 0:
                self._time_left = left
                self._receive(scrap)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def stop_reading(self, why: str) -> None:
        """Make reading raise Closed for that reason, from any thread."""
        self._stopped = why
        self._shut_down(socket.SHUT_RD)

    def disconnect(self) -> None:
        """Make reading and sending raise Closed, from any thread."""
        self._stopped = WE_STOP
        self._shut_down(socket.SHUT_RDWR)

    def _shut_down(self, how: int) -> None:
        with suppress(OSError):
            self._socket.shutdown(how)

    def _fill(self, length: int) -> None:
        """Read until the buffer has `length` bytes; it grows with what arrives, not with what is announced.

        A read of a long PDU takes the next one's header too, a read of short ones all that came: so a PDU
        costs one call at most, and few bytes move.
        """
        while (available := self._end - self._start) < length:
            if self._start + length > len(self._buffer) or not available:
                self._buffer[:available] = self._buffer[self._start : self._end]
                self._start, self._end = 0, available
            if available == len(self._buffer):
                # A new buffer: the caller may still look at a PDU in the old one.
                self._buffer = self._buffer + bytearray(min(3 * available, _LONGEST_PDU))
            limit = self._start + max(length + PDU_HEADER.size, _READ_AHEAD)
            with memoryview(self._buffer) as view:
                self._end += self._receive(view[self._end : limit])

    def _receive(self, into: memoryview) -> int:
        while not self._stopped:
            try:
                received = self._socket.recv_into(into)
            except BlockingIOError:
                self._time_left = self._wait(select.POLLIN, self._time_left)
                continue
            except OSError as error:
                raise Closed("is gone") from error
            if received == 0:
                break
            self._time_left = min(self._time_left + received * self._credit_per_byte, self._timeout)
            return received
        raise Closed(self._stopped or "is gone")

    def _wait(self, event: int, time_left: float) -> float:
        """Wait until the socket is ready, at most `time_left` seconds; the seconds that remain."""
        quick_ack(self._socket)
        self._poll.modify(self._socket, event)
        began = time.monotonic()
        if time_left <= 0 or not self._poll.poll(1000 * time_left):
            raise TimedOut("was silent, or too slow")
        return time_left - (time.monotonic() - began)
