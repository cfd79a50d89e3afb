"""The listening port: each accepted connection gets a thread; their number is bounded."""

import errno
import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ingest.dimse.association import Association
from ingest.dimse.scp import Scp

log = logging.getLogger(__name__)

_BACKLOG = 512  # connections waiting to be accepted
_MAX_IDLE = 512  # connections without an association, of all processes; a request takes milliseconds
_FINISH_GRACE = 4.0  # seconds for associations to finish when we stop
_ABORT_GRACE = 1.0  # seconds for the rest to abort, and again to close
_RETRY_SECONDS = 0.1  # seconds after accept() has failed
_LET_OTHERS = 10  # milliseconds for which the next connection is left to a process that has fewer


def listen(host: str, port: int, *, shared: bool) -> socket.socket:
    """A socket that listens at an address; `shared`: other ingests may listen there too.

    Raises:
        OSError: it cannot listen there.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    # A name may have both: take its IPv4 address.
    family, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    # An IPv6 socket takes IPv4 peers too, where the system can.
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server(
        address[:2], family=family, backlog=_BACKLOG, dualstack_ipv6=both, reuse_port=shared
    )


class Listener:
    """Accepts connections at a socket, which other processes may share, in threads of this process."""

    def __init__(self, listening: socket.socket, scp: Scp) -> None:
        self.scp = scp
        self._socket = listening
        self._arriving: select.poll | None = None  # with several processes, of which all wake
        if scp.places.processes > 1:
            listening.setblocking(False)
            self._arriving = select.poll()
            self._arriving.register(listening, select.POLLIN)
        self._most_idle = max(1, _MAX_IDLE // scp.places.processes)
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
        # shutdown wakes the thread, which close alone does not. That of all processes: they stop together.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        for connection in self._idle():
            connection.disconnect()
        _wait_until(lambda: not self.scp.associations(), _FINISH_GRACE)
        for connection in self.connections():
            connection.stop()
        _wait_until(lambda: not self.scp.associations(), _ABORT_GRACE)
        for connection in self.connections():
            connection.disconnect()
        _wait_until(lambda: not self.connections(), _ABORT_GRACE)

    def _accept(self) -> None:
        while not self._stopped.is_set():
            if not self._is_ours():
                continue
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                continue  # another process was quicker
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return  # shut down
                # Out of descriptors, or the peer has already gone.
                log.warning("Not accepted: %s", error)
                self._stopped.wait(_RETRY_SECONDS)
                continue
            try:
                self._serve(sock, str(address[0]))
            except RuntimeError as error:
                log.warning("Not served: %s", error)  # no thread could be started
                sock.close()

    def _is_ours(self) -> bool:
        """Wait for a connection; a process that has fewer may take it first, unless it hangs."""
        if self._arriving is None:
            return True
        self._arriving.poll()
        for _ in range(_LET_OTHERS):
            if not self.scp.places.is_ahead():
                break
            time.sleep(0.001)
            if not self._arriving.poll(0):
                return False
        return True

    def _serve(self, sock: socket.socket, address: str) -> None:
        idle = self._idle()
        if len(idle) >= self._most_idle:
            # The oldest would have asked by now: a flood of silent peers keeps nobody out.
            idle[0].disconnect()
            self._remove(idle[0])
        connection = Association(sock, address, self.scp)

        def serve() -> None:
            try:
                connection.serve()
            finally:
                self._remove(connection)

        with self._lock:
            self._connections[connection] = None
            self._count()
        try:
            threading.Thread(target=serve, name=f"peer {address}", daemon=True).start()
        except RuntimeError:
            self._remove(connection)
            raise

    def _idle(self) -> list[Association]:
        """The connections without an association, oldest first."""
        associated = self.scp.associations()
        return [connection for connection in self.connections() if connection not in associated]

    def _remove(self, connection: Association) -> None:
        with self._lock:
            self._connections.pop(connection, None)
            self._count()

    def _count(self) -> None:
        self.scp.places.count_connections(len(self._connections))


def _wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
