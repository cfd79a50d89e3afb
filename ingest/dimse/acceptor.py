"""Ingest: listens and receives until a signal stops it, in one process or, on more cores, in several.

One ingest has one port, any number of called AE titles and a thread per connection. Any number of processes
receive into one spool; each holds a lease, which tells the others that its files in ``incoming`` are in use.
"""

import errno
import logging
import os
import resource
import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType

from dicomferry.errors import Misconfigured
from dicomferry.messages.broker import redis_client
from dicomferry.messages.events import EventSender
from dicomferry.settings import Settings
from dicomferry.spool import durable
from dicomferry.spool.spool import RECEIVER_BYTES, Spool
from ingest.dimse.listener import Listener, listen
from ingest.dimse.processes import ENDS, Children
from ingest.dimse.scp import Board, Scp

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5  # seconds between checks for a signal
_MOST_BY_DEFAULT = 4  # processes
_CORES_FOR_EACH = 2  # the senders, the disk and the other parts want some too


def run(settings: Settings) -> None:
    """Receive until SIGINT or SIGTERM; then let associations finish for a few seconds.

    Raises:
        Misconfigured: the port or the spool cannot be used.
    """
    # A connection needs up to three descriptors; the usual limit, 1024, is for programs that use select().
    hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    processes = settings.ingest.processes or _usual_processes(len(os.sched_getaffinity(0)))
    if processes > 1:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        with _listening(settings) as listening:
            board = Board(settings.ingest, processes)
            Children(board.places, lambda: receiving(settings, listening, board)).run()
        return
    # No Event: if the signal interrupts this thread while it holds the Event's lock, set() waits for ever.
    stop: SimpleQueue[int] = SimpleQueue()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        stop.put(number)

    for number in ENDS:
        signal.signal(number, on_signal)
    with serving(settings):
        # Only this thread runs Python's handlers, and a signal that another thread gets does not wake it.
        while True:
            with suppress(Empty):
                stop.get(timeout=_POLL_SECONDS)
                return


def _usual_processes(cores: int) -> int:
    return max(1, min(_MOST_BY_DEFAULT, cores // _CORES_FOR_EACH))


@contextmanager
def serving(settings: Settings) -> Iterator[Listener]:
    """Run the SCP in threads of this process alone.

    Raises:
        Misconfigured: the port or the spool cannot be used.
    """
    with (
        _listening(settings) as listening,
        receiving(settings, listening, Board(settings.ingest)) as listener,
    ):
        yield listener


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """The spool is there, and the socket listens."""
    Spool(settings.spool).prepare()
    host, port = settings.ingest.host, settings.ingest.port
    try:
        listening = listen(host, port, shared=settings.ingest.shared_port)
    except OSError as error:
        raise Misconfigured(f"ingest.port: {_explain(error, host, port)}") from error
    with listening:
        log.info("Listening on %s port %d as %s", host, port, ", ".join(ae.title for ae in settings.ae))
        yield listening
    log.info("Stopped")


@contextmanager
def receiving(settings: Settings, listening: socket.socket, board: Board) -> Iterator[Listener]:
    """Run the SCP in threads of this process, which may be one of several."""
    spool = Spool(settings.spool)
    events = EventSender(redis_client(settings)) if settings.broker else None
    with _receiver_lease(spool) as receiver:
        scp = Scp(settings, spool, receiver, events, board)
        listener = Listener(listening, scp)
        _sweep(spool)
        listener.start()
        try:
            yield listener
        finally:
            listener.stop()
            scp.close()
            if events is not None:
                events.close()


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use; stop the program that listens there "
            "(another dicomferry?) or choose another port"
        )
    if error.errno == errno.EACCES:
        return f"port {port} of {host} is not ours to use; ports below 1024 need privileges: choose another"
    return f"cannot listen on port {port} of {host}: {error}; ingest.host names an address of this machine"


@contextmanager
def _receiver_lease(spool: Spool) -> Iterator[str]:
    """Hold a receiver lease; names of what we put into ``incoming`` begin with its name."""
    while True:
        receiver = secrets.token_hex(RECEIVER_BYTES)
        spool.receivers.create(receiver)
        with spool.receivers.acquire(receiver) as held:
            if held:  # else another receiver swept it before we held it
                yield receiver
                return


def _sweep(spool: Spool) -> None:
    """Remove what receivers that have ended left in ``incoming``."""
    left = [
        name
        for name in os.listdir(spool.incoming)
        if spool.receivers.state(name[: 2 * RECEIVER_BYTES]) != "running"
    ]
    for name in left:
        durable.remove(spool.incoming / name)
    for receiver in spool.receivers.batches():
        spool.receivers.revoke(receiver)
    if left:
        log.info("Swept %d unfinished objects of a former run", len(left))
