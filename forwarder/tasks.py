"""The forwarder's Celery tasks, and the worker that runs them on threads.

A thread pool ignores Celery's time limits, so the destination's timeouts bound every wait.
"""

import logging
import os
import signal
import threading
from queue import SimpleQueue
from types import FrameType
from typing import Any

from celery import Celery, signals
from celery.worker import state

from dicomferry.errors import NothingDoneError
from dicomferry.messages.batches import DELIVER, DELIVER_QUEUE, DROPPED, PROBE, DeliverBatch, ProbeBatch
from dicomferry.messages.broker import celery_app, consume, redis_client
from dicomferry.messages.events import EventSender
from dicomferry.settings import Settings
from dicomferry.spool.spool import Spool
from forwarder.forwarder import Forwarder
from forwarder.reports import BatchResult

log = logging.getLogger(__name__)

MAX_THREADS = 4096
STOP_GRACE = 3.0  # seconds for a thread that waits for a peer, when the forwarder stops
STORE_GRACE = 25.0  # seconds for an object being sent, of the 30 that the whole stop may take


def register(app: Celery, settings: Settings) -> Forwarder:
    """Register the tasks with `app`; the caller closes the forwarder that it returns."""
    forwarder = Forwarder(settings, EventSender(redis_client(settings)))

    @app.task(name=DELIVER)  # type: ignore[untyped-decorator]
    def deliver(**message: Any) -> str:
        return _outcome(forwarder.deliver(DeliverBatch.from_message(message)))

    @app.task(name=PROBE)  # type: ignore[untyped-decorator]
    def probe(**message: Any) -> str:
        return _outcome(forwarder.probe(ProbeBatch.from_message(message)))

    return forwarder


def _outcome(result: BatchResult | None) -> str:
    """What Flower shows of a batch.

    Raises:
        NothingDoneError: the destination took nothing.
    """
    if result is None:
        return DROPPED
    if result.did_nothing:
        raise NothingDoneError(result.words)
    return result.words


def thread_count(settings: Settings) -> int:
    """A thread for each batch that can run at once, so that a dead peer never delays another one.

    A lane has at most `max_associations` deliver batches, or one and its successor, and a probe. Threads
    start when needed, and a waiting one costs next to nothing.
    """
    return min(sum(max(d.max_associations, 2) + 1 for d in settings.destination), MAX_THREADS)


def run(settings: Settings) -> None:
    """Consume deliver batches until SIGTERM, SIGINT or SIGQUIT; an object being sent then has `STORE_GRACE`.

    Raises:
        Misconfigured: no broker, or the spool cannot be used.
    """
    Spool(settings.spool).prepare()
    app = celery_app(settings)
    forwarder = register(app, settings)

    def stop_within_seconds(**_: Any) -> None:
        # Replaces Celery's shutdowns: a warm one waits for ever, a cold one always its full time.
        # A handler may interrupt logging or Event.set(), so another thread does the stopping.
        signals_received: SimpleQueue[int] = SimpleQueue()

        def stop_on_signal() -> None:
            signals_received.get()
            forwarder.stop(STOP_GRACE, STORE_GRACE)

        def stop(number: int, _frame: FrameType | None) -> None:
            state.should_stop = os.EX_OK
            signals_received.put(number)

        threading.Thread(target=stop_on_signal, name="stop", daemon=True).start()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, stop)

    signals.worker_ready.connect(stop_within_seconds, weak=False)
    try:
        consume(app, "forwarder", DELIVER_QUEUE, pool="threads", concurrency=thread_count(settings))
    finally:
        forwarder.close()
    log.info("Stopped")
