"""The Celery worker that transcodes: one task, whose batch names instances on the spool.

A codec that crashes, hangs or takes too much memory kills only its child process (see `limits`): the lease
then shows that the batch was lost.
"""

import logging
from collections import Counter
from typing import Any

from celery import Celery, signals
from celery.exceptions import WorkerLostError

from dicomferry.errors import NothingDoneError
from dicomferry.messages.batches import DROPPED, TRANSCODE, TRANSCODE_QUEUE, TranscodeBatch
from dicomferry.messages.broker import celery_app, consume, redis_client
from dicomferry.messages.events import Event, Failed, Unsuitable
from dicomferry.settings import Settings
from dicomferry.spool.seats import Seats
from dicomferry.spool.spool import Spool, boot_id
from workers import child_ends, limits
from workers.batch import Bounds, run_batch
from workers.room import Room

log = logging.getLogger(__name__)


def register(app: Celery, settings: Settings, processes: int = 1) -> None:
    """Register the task `dicomferry.transcode` on `app`, for a worker of so many processes."""
    spool = Spool(settings.spool.absolute())
    redis = redis_client(settings)  # connects at the first command: in the child process
    bounds = bounds_of(settings, processes)

    @app.task(name=TRANSCODE, ignore_result=True)  # type: ignore[untyped-decorator]
    def transcode_batch(**message: Any) -> str:
        return _outcome(run_batch(spool, redis, TranscodeBatch.from_message(message), bounds))


def bounds_of(settings: Settings, processes: int = 1) -> Bounds:
    """The bounds that `settings` set, for a worker of so many processes."""
    spool = Spool(settings.spool.absolute())
    disk = Room(
        spool.renditions,
        shared=True,
        reserve_mb=settings.ingest.min_free_mb,
        most_mb=settings.worker.renditions_mb,
    )
    seats = Seats(spool.seats, min(processes, limits.cores()), boot_id())
    return Bounds(settings.worker.ceilings, disk, seats)


def _outcome(results: list[Event | None] | None) -> str:
    """What Flower shows of a batch: "14 rendered, 2 failed: the codestream is cut".

    Raises:
        NothingDoneError: no rendition was made, and at least one cannot be.
    """
    if results is None:
        return DROPPED
    counts = Counter(type(result).__name__.lower() if result else "gone" for result in results)
    rendered = counts.pop("rendered", 0)
    words = ", ".join([f"{rendered} rendered", *(f"{count} {what}" for what, count in counts.items())])
    reason = next((result.reason for result in results if isinstance(result, Failed | Unsuitable)), "")
    if reason and not rendered:
        raise NothingDoneError(f"{words}: {reason}")
    return f"{words}: {reason}" if reason else words


def run(settings: Settings, concurrency: int | None = None) -> None:
    """Run the worker in this process until SIGTERM, SIGINT or SIGQUIT; the caller has set up logging.

    `concurrency` is the number of child processes; None: that of the settings, or the number of cores.
    At SIGTERM, running batches get a few seconds to end if REMAP_SIGTERM=SIGQUIT was in the environment
    before Celery was imported; else the worker waits for them without limit.

    Raises:
        Misconfigured: no broker, or no usable spool.
    """
    Spool(settings.spool.absolute()).prepare()
    app = celery_app(settings)
    processes = concurrency or settings.worker.concurrency or limits.cores()
    register(app, settings, processes)
    _connect_signals(settings)
    consume(app, "worker", TRANSCODE_QUEUE, pool="prefork", concurrency=processes)
    log.info("Stopped")


def _connect_signals(settings: Settings) -> None:
    """Set limits in each child process, and record how it ended."""

    def limit_child(**_: Any) -> None:
        limits.limit_process(settings.worker.memory_mb)

    def child_lost(exception: BaseException, kwargs: dict[str, Any], **_: Any) -> None:
        if isinstance(exception, WorkerLostError):
            child_ends.record(
                Spool(settings.spool.absolute()), TranscodeBatch.from_message(kwargs), exception
            )

    # child_ends logs one line; Celery would log the traceback of a pool that lost a process.
    logging.getLogger("celery.worker.request").addFilter(lambda r: "WorkerLostError" not in r.getMessage())
    signals.worker_process_init.connect(limit_child, weak=False)
    signals.task_failure.connect(child_lost, weak=False)
