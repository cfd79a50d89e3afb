"""The listening port: each accepted connection gets a thread; their number is bounded."""

import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ingest.dimse.association import Association
from ingest.dimse.scp import Scp

log = logging.getLogger(__name__)

_BACKLOG = 512  # connections waiting to be accepted
_MAX_IDLE = 512  # connections without an association; a request takes milliseconds
_FINISH_GRACE = 4.0  # seconds for associations to finish when we stop
_ABORT_GRACE = 1.0  # seconds for the rest to abort, and again to close
_RETRY_SECONDS = 0.1  # seconds after accept() has failed


class Listener:
    """Accepts connections at an address, in threads of this process.

    Raises:
        OSError: it cannot listen at the address.
    """

    def __init__(self, host: str, port: int, scp: Scp) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # A name may have both: take its IPv4 address.
        family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        # An IPv6 socket takes IPv4 peers too, where the system can.
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
        self._connections: dict[Association, None] = {}  # oldest first
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, name="accept", daemon=True)

    def start(self) -> None:
        """Start to accept connections."""
        self._thread.start()

    def connections(self) -> list[Association]:
        """The open connections, oldest first."""
        with self._lock:
            return list(self._connections)

    def stop(self) -> None:
        """Accept no more; let associations finish, abort the rest, then close what is left."""
        self._stopped.set()
        # shutdown wakes accept(), which close alone does not.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for connection in self._idle():
            connection.disconnect()
        _wait_until(lambda: not self._scp.associations(), _FINISH_GRACE)
        for connection in self.connections():
            connection.stop()
        _wait_until(lambda: not self._scp.associations(), _ABORT_GRACE)
        for connection in self.connections():
            connection.disconnect()
        _wait_until(lambda: not self.connections(), _ABORT_GRACE)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                sock, address = self._socket.accept()
            except OSError as error:
                if not self._stopped.is_set():
                    # Out of descriptors, or the peer has already gone.
                    log.warning("Not accepted: %s", error)
                    self._stopped.wait(_RETRY_SECONDS)
                continue
            try:
                self._serve(sock, str(address[0]))
            except RuntimeError as error:
                log.warning("Not served: %s", error)  # no thread could be started
                sock.close()

    def _serve(self, sock: socket.socket, address: str) -> None:
        idle = self._idle()
        if len(idle) >= _MAX_IDLE:
            # The oldest would have asked by now: a flood of silent peers keeps nobody out.
            idle[0].disconnect()
            self._remove(idle[0])
        connection = Association(sock, address, self._scp)

        def serve() -> None:
            try:
                connection.serve()
            finally:
                self._remove(connection)

        with self._lock:
            self._connections[connection] = None
        try:
            threading.Thread(target=serve, name=f"peer {address}", daemon=True).start()
        except RuntimeError:
            self._remove(connection)
            raise

    def _idle(self) -> list[Association]:
        """The connections without an association, oldest first."""
        associated = self._scp.associations()
        return [connection for connection in self.connections() if connection not in associated]

    def _remove(self, connection: Association) -> None:
        with self._lock:
            self._connections.pop(connection, None)


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
