"""A TCP connection's middle, where it can be cut: between a requestor and an acceptor on loopback."""

import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Self

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST
_P_DATA = 4
_COMMAND, _LAST = 1, 2


class Wire:
    """Listens on `port` and carries everything to `target`, until it is told otherwise."""

    def __init__(self, target: int, port: int = 0) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._lock = threading.Lock()
        self._carried: set[_Carried] = set()
        self._ended = False
        self.hole = False  # nothing passes, until it does again: late, as TCP does
        self._cut_answers = 0
        self._cut_objects = 0
        self.cuts: list[float] = []  # time.monotonic() of each answer or object that was cut
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def reset(self) -> int:
        """Reset every connection, as a firewall that lost its table does; how many there were."""
        with self._lock:
            for carried in self._carried:
                carried.doomed = True
            return len(self._carried)

    def cut_next_answer(self) -> None:
        """Reset the next connection that carries an object, after its last byte, before its response."""
        with self._lock:
            self._cut_answers += 1

    def cut_next_object(self) -> None:
        """Reset the next connection that carries an object, in its middle."""
        with self._lock:
            self._cut_objects += 1

    def disarm(self) -> None:
        """Cut nothing that has not been cut."""
        with self._lock:
            self._cut_answers = self._cut_objects = 0

    def spare(self) -> None:
        """Carry everything again."""
        self.disarm()
        self.hole = False

    def close(self) -> None:
        self._ended = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        while not self._ended:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=[near], daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
        except OSError:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            near.close()
            return
        carried = _Carried(self, near, far)
        with self._lock:
            self._carried.add(carried)
        try:
            carried.run()
        finally:
            with self._lock:
                self._carried.discard(carried)

    def takes_answer(self) -> bool:
        with self._lock:
            taken = self._cut_answers > 0
            self._cut_answers -= taken
        return taken

    def takes_object(self) -> bool:
        with self._lock:
            taken = self._cut_objects > 0
            self._cut_objects -= taken
        if taken:
            self.cuts.append(time.monotonic())
        return taken


class _Carried:
    """One connection and its continuation, in one thread, so that a reset is one."""

    def __init__(self, wire: Wire, near: socket.socket, far: socket.socket) -> None:
        self._wire, self._near, self._far = wire, near, far
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(60)
        self._pending = bytearray()  # from the requestor: a part of a PDU
        self._mute = False  # the answer that comes next is cut
        self.doomed = False

    def run(self) -> None:
        reset = True
        with suppress(OSError):
            reset = self._run()
        for end in (self._near, self._far):
            with suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.close()

    def _run(self) -> bool:
        """Carry; whether the end is a reset."""
        while not self.doomed:
            if self._wire.hole:
                time.sleep(0.05)
                continue
            readable, _, _ = select.select([self._near, self._far], [], [], 0.05)
            for end in readable:
                content = end.recv(1 << 16)
                if end is self._far:
                    if self._mute and content:
                        self._wire.cuts.append(time.monotonic())
                        return True
                    if not content:
                        return False
                    self._near.sendall(content)
                elif not content:
                    self._far.sendall(self._pending)
                    return False
                elif self._forward(content):
                    return True
        return True

    def _forward(self, content: bytes) -> bool:
        """Pass on whole PDUs; True where the connection is to end in the middle of an object."""
        self._pending += content
        while len(self._pending) >= 6:
            length = 6 + int.from_bytes(self._pending[2:6], "big")
            if len(self._pending) < length:
                break
            pdu = bytes(self._pending[:length])
            del self._pending[:length]
            first, last = _object_in(pdu)
            if first and self._wire.takes_object():
                self._far.sendall(pdu[: length // 2])
                return True
            if last and self._wire.takes_answer():
                self._mute = True
            self._far.sendall(pdu)
        return False


def _object_in(pdu: bytes) -> tuple[bool, bool]:
    """Whether a PDU holds a part of a data set, and whether the last one (PS3.8 9.3.5, annex E.2)."""
    some = last = False
    at = 6
    while pdu[0] == _P_DATA and at + 6 <= len(pdu):
        length, _, control = struct.unpack_from(">IBB", pdu, at)
        some |= not control & _COMMAND
        last |= control & (_COMMAND | _LAST) == _LAST
        at += 4 + length
    return some, last
