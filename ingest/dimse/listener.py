"""The port: each connection gets a thread as soon as it is accepted, and their number is bounded."""

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ingest.dimse.association import Association
from ingest.dimse.scp import Scp

log = logging.getLogger(__name__)

_BACKLOG = 512  # connections that wait to be accepted
_MOST_IDLE = 512  # connections without an association: to ask for one takes milliseconds
_GRACE = 4.0  # seconds that associations get to finish once we stop
_FAREWELL = 1.0  # seconds for the A-ABORT of those that did not, and for what is left
_PAUSE = 0.1  # seconds until accepting is tried again


class Listener:
    """Accepts connections at an address, in threads of this process.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(self, host: str, port: int, scp: Scp) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # Of a name that has both, the IPv4 address.
        family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        # An IPv6 address takes IPv4 peers too, where it can.
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        self._socket = socket.create_server(
            address[:2],
            family=family,
            backlog=_BACKLOG,
            dualstack_ipv6=both,
            reuse_port=scp.settings.ingest.shared_port,
        )
        self._scp = scp
        self._stopped = threading.Event()
        self._connections: dict[Association, None] = {}  # the oldest first
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def connections(self) -> list[Association]:
        """Those that are open, the oldest first."""
        with self._lock:
            return list(self._connections)

    def stop(self) -> None:
        """Accept no more; let associations end by themselves, then by an abort, then by closing."""
        self._stopped.set()
        # shutdown wakes accept(), which close alone does not.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for connection in self._idle():
            connection.hang_up()
        _wait_for(lambda: not self._scp.standing(), _GRACE)
        for connection in self.connections():
            connection.end()
        _wait_for(lambda: not self._scp.standing(), _FAREWELL)
        for connection in self.connections():
            connection.hang_up()
        _wait_for(lambda: not self.connections(), _FAREWELL)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, address = self._socket.accept()
            except OSError as error:
                if not self._stopped.is_set():
                    # Out of descriptors, or the peer has gone already.
                    log.warning("Not accepted: %s", error)
                    self._stopped.wait(_PAUSE)
                continue
            try:
                self._welcome(sock, str(address[0]))
            except RuntimeError as error:
                log.warning("Not served: %s", error)  # no thread could be started
                sock.close()

    def _welcome(self, sock: socket.socket, address: str) -> None:
        idle = self._idle()
        if len(idle) >= _MOST_IDLE:
            # Whoever means it has asked long ago, so that a flood of silent peers keeps nobody out.
            idle[0].hang_up()
            self._forget(idle[0])
        connection = Association(sock, address, self._scp)

        def serve() -> None:
            try:
                connection.serve()
            finally:
                self._forget(connection)

        with self._lock:
            self._connections[connection] = None
        try:
            threading.Thread(target=serve, name=f"peer {address}", daemon=True).start()
        except RuntimeError:
            self._forget(connection)
            raise

    def _idle(self) -> list[Association]:
        """The connections without an association, the oldest first."""
        standing = self._scp.standing()
        return [connection for connection in self.connections() if connection not in standing]

    def _forget(self, connection: Association) -> None:
        with self._lock:
            self._connections.pop(connection, None)


def _wait_for(holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
