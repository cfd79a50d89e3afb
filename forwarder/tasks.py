"""The forwarder's Celery tasks, and the worker that runs them on threads.

A thread pool ignores Celery's time limits; what ends every wait here is a timeout of the destination's.
"""

import logging
import os
import secrets
import signal
import socket
import threading
from queue import SimpleQueue
from types import FrameType
from typing import Any

from celery import Celery, signals
from celery.worker import state

from dicomferry.messages.batches import DELIVER, DELIVER_QUEUE, PROBE, DeliverBatch, ProbeBatch
from dicomferry.messages.broker import celery_app, redis_client
from dicomferry.messages.events import EventSender
from dicomferry.settings import Settings
from dicomferry.spool.spool import Spool
from forwarder.delivery import Forwarder

log = logging.getLogger(__name__)

MOST_THREADS = 4096
STOP_GRACE = 3.0  # seconds that whoever waits for a peer gets when the forwarder stops
STORE_GRACE = 25.0  # and an object that is being sent, of the 30 that everything has


def register(app: Celery, settings: Settings) -> Forwarder:
    """Give `app` the tasks of the forwarder, which is returned: who runs them closes it in the end."""
    forwarder = Forwarder(settings, EventSender(redis_client(settings)))

    @app.task(name=DELIVER)  # type: ignore[untyped-decorator]
    def deliver(**message: Any) -> None:
        forwarder.deliver(DeliverBatch.from_message(message))

    @app.task(name=PROBE)  # type: ignore[untyped-decorator]
    def probe(**message: Any) -> None:
        forwarder.probe(ProbeBatch.from_message(message))

    return forwarder


def threads_for(settings: Settings) -> int:
    """As many as there can be batches at once, so that no dead peer keeps a thread from a living one.

    A lane has at most `max_associations` deliver batches, or one and one that follows it, and a probe. A
    thread that waits costs next to nothing, and there is none before it is needed.
    """
    return min(sum(max(d.max_associations, 2) + 1 for d in settings.destination), MOST_THREADS)


def run(settings: Settings) -> None:
    """Consume deliver batches until SIGTERM, SIGINT or SIGQUIT; an object being sent then has `STORE_GRACE`.

    Raises:
        Misconfigured: no broker, or the spool cannot be used.
    """
    Spool(settings.spool).prepare()
    app = celery_app(settings)
    forwarder = register(app, settings)

    def keep_logging(**_: Any) -> None:
        """Logging is set up by the command line; a receiver keeps Celery from doing it again."""

    def stop_within_seconds(**_: Any) -> None:
        # In the place of Celery's own reactions: a warm one waits for ever, a cold one always its full time.
        # A handler may interrupt a line of the log or an event being set, so another thread stops.
        asked: SimpleQueue[int] = SimpleQueue()

        def await_stop() -> None:
            asked.get()
            forwarder.stop(STOP_GRACE, STORE_GRACE)

        def stop(number: int, _frame: FrameType | None) -> None:
            state.should_stop = os.EX_OK
            asked.put(number)

        threading.Thread(target=await_stop, name="stop", daemon=True).start()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, stop)

    signals.setup_logging.connect(keep_logging, weak=False)
    signals.worker_ready.connect(stop_within_seconds, weak=False)
    worker = app.Worker(
        pool="threads",
        concurrency=threads_for(settings),
        queues=[DELIVER_QUEUE],
        hostname=f"forwarder@{socket.gethostname()}-{secrets.token_hex(3)}",
        quiet=True,
        without_mingle=True,
        without_gossip=True,
    )
    try:
        worker.start()
    finally:
        forwarder.close()
    log.info("Stopped")
