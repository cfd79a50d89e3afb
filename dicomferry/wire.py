"""Sockets that do not stall, for both sides of an association.

Nagle's algorithm and delayed acknowledgement, together, cost 40 ms a message against a peer that writes in
several small pieces, as stock DCMTK and Orthanc do. TCP_NODELAY cures our writes. TCP_QUICKACK cures the
peer's; it is Linux only and the kernel resets it, so it is set again around every read.
"""

import socket
from contextlib import suppress
from typing import Any

from pynetdicom.transport import AssociationSocket

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
_CHUNK = 1 << 18


def no_delay(sock: socket.socket) -> None:
    """Send small writes at once."""
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def quick_ack(sock: socket.socket) -> None:
    """Acknowledge what arrives next at once."""
    if _QUICKACK is not None:
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


class PromptSocket(AssociationSocket):
    """pynetdicom's socket, without the stalls and with reads of what is there."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if self.socket is not None:
            no_delay(self.socket)
            quick_ack(self.socket)

    def recv(self, nr_bytes: int) -> bytearray:
        """Read exactly `nr_bytes`, or fewer where the connection ends before."""
        received = bytearray()
        sock = self.socket
        while sock is not None and len(received) < nr_bytes:
            part = sock.recv(min(_CHUNK, nr_bytes - len(received)))
            quick_ack(sock)
            if not part:
                break
            received += part
        return received

    def send(self, bytestream: bytes) -> None:
        """Send all of `bytestream`."""
        super().send(bytestream)
        if self.socket is not None:
            quick_ack(self.socket)
