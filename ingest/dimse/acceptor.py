"""Ingest: listens, admits, receives, until it is told to stop.

One process, one port, any number of called AE titles; a thread a connection. Any number of such processes
receive into one spool; each holds a lease, by which the others know what in ``incoming`` is its own.
"""

import errno
import logging
import os
import resource
import secrets
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from types import FrameType

from dicomferry.errors import Misconfigured
from dicomferry.messages.broker import redis_client
from dicomferry.messages.events import EventSender
from dicomferry.settings import Settings
from dicomferry.spool.spool import RECEIVER_BYTES, Spool
from ingest.dimse.listener import Listener
from ingest.dimse.scp import Scp

log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between looks whether we are to stop


def run(settings: Settings) -> None:
    """Receive until SIGINT or SIGTERM; then let associations finish for a few seconds.

    Raises:
        Misconfigured: the port or the spool cannot be used.
    """
    # No event: where the signal comes while this thread holds its lock, setting it would wait for ever.
    stop: SimpleQueue[int] = SimpleQueue()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        stop.put(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    # A connection needs up to three descriptors; 1024, the usual limit, is for programs that use select().
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with serving(settings):
        # Where another thread is given the signal this one is not woken, and it alone runs Python's handler.
        while True:
            with suppress(Empty):
                stop.get(timeout=_LOOK)
                return


@contextmanager
def serving(settings: Settings) -> Iterator[Listener]:
    """The SCP in threads of this process.

    Raises:
        Misconfigured: the port or the spool cannot be used.
    """
    spool = Spool(settings.spool)
    spool.prepare()
    events = EventSender(redis_client(settings)) if settings.broker else None
    with _receiving(spool) as receiver:
        listener = _listener(settings, Scp(settings, spool, receiver, events))
        _sweep(spool)
        listener.start()
        titles = ", ".join(ae.title for ae in settings.ae)
        log.info("Listening on %s port %d as %s", settings.ingest.host, settings.ingest.port, titles)
        try:
            yield listener
        finally:
            listener.stop()
            if events is not None:
                events.close()
            log.info("Stopped")


def _listener(settings: Settings, scp: Scp) -> Listener:
    host, port = settings.ingest.host, settings.ingest.port
    try:
        return Listener(host, port, scp)
    except OSError as error:
        raise Misconfigured(f"ingest.port: {_why_not(error, host, port)}") from error


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use; stop the program that listens there "
            "(another dicomferry?) or choose another port"
        )
    if error.errno == errno.EACCES:
        return f"port {port} of {host} is not ours to use; ports below 1024 need privileges: choose another"
    return f"cannot listen on port {port} of {host}: {error}; ingest.host names an address of this machine"


@contextmanager
def _receiving(spool: Spool) -> Iterator[str]:
    """Hold a lease among the receivers; with its name begins that of all that we put into ``incoming``."""
    while True:
        receiver = secrets.token_hex(RECEIVER_BYTES)
        spool.receivers.create(receiver)
        with spool.receivers.acquire(receiver) as held:
            if held:  # else another one has swept it in the instant in which nobody held it
                yield receiver
                return


def _sweep(spool: Spool) -> None:
    """Remove what receivers that are no more have left."""
    left = [
        name
        for name in os.listdir(spool.incoming)
        if spool.receivers.state(name[: 2 * RECEIVER_BYTES]) != "running"
    ]
    for name in left:
        shutil.rmtree(spool.incoming / name, ignore_errors=True)
    for receiver in spool.receivers.batches():
        spool.receivers.revoke(receiver)
    if left:
        log.info("Swept %d unfinished objects of a former run", len(left))
