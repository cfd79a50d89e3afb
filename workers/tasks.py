"""The Celery worker that transcodes: one task, whose batch names instances on the spool.

The lease makes a second run of the same message a no-op, an existing rendition is not made again, and no
exception leaves the task: a MemoryError would stop the whole worker. A codec that crashes, hangs or takes too
much memory kills only its child process (see `limits`): the lease then shows that the batch was lost.
"""

import errno
import logging
import re
import secrets
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery import Celery, signals
from celery.exceptions import WorkerLostError
from redis import Redis

from dicomferry.ceilings import Ceilings
from dicomferry.crashpoints import reach
from dicomferry.errors import NothingDoneError, Permanent, Transient, location_of
from dicomferry.messages.batches import TRANSCODE, TRANSCODE_QUEUE, TranscodeBatch
from dicomferry.messages.broker import celery_app, consume, redis_client
from dicomferry.messages.events import (
    Event,
    EventBuffer,
    Failed,
    Finished,
    Postponed,
    Rendered,
    Started,
    Unsuitable,
    push,
)
from dicomferry.settings import Settings
from dicomferry.spool import durable, records
from dicomferry.spool.spool import ROOM, TRANSCODING, Spool
from workers import limits, transcode
from workers.room import NoRoom, Room, TooLarge

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
INODES_LEFT = (
    128  # no rendition is begun with fewer: what is rendered already could not be marked as delivered
)
TURN = 5.0  # seconds: what a batch has not begun by then goes back, so that others have their turn
QUICK = 1 << 20  # bytes received: up to this size an instance takes a fraction of a second
_FOR_ROOM = "waits for room on the spool's disk"
# How a child process ended, in words; the signals as billiard spells them.
_ENDS = {
    "SIGALRM": "it was still at work when its time was over",
    "SIGSEGV": "the codec crashed (SIGSEGV)",
    "SIGBUS": "the codec crashed (SIGBUS)",
    "SIGFPE": "the codec crashed (SIGFPE)",
    "SIGILL": "the codec crashed (SIGILL)",
    "SIGABRT": "the codec gave up (SIGABRT), often for want of memory",
    "SIGKILL": "it was killed from outside (SIGKILL), often for want of memory",
}


def register(app: Celery, settings: Settings) -> None:
    """Register the task `dicomferry.transcode` on `app`."""
    spool = Spool(settings.spool.absolute())
    redis = redis_client(settings)  # connects at the first command: in the child process

    bounds = bounds_of(settings)

    @app.task(name=TRANSCODE, ignore_result=True)  # type: ignore[untyped-decorator]
    def transcode_batch(**message: Any) -> str:
        return _outcome(run_batch(spool, redis, TranscodeBatch.from_message(message), bounds))


@dataclass(frozen=True, slots=True)
class Bounds:
    """What instances may take; without `disk`, renditions may have all that is free."""

    ceilings: Ceilings = Ceilings()
    disk: Room | None = None


def bounds_of(settings: Settings) -> Bounds:
    """The bounds that `settings` set."""
    disk = Room(
        Spool(settings.spool.absolute()).renditions,
        shared=True,
        reserve_mb=settings.ingest.min_free_mb,
        most_mb=settings.worker.renditions_mb,
    )
    return Bounds(settings.worker.ceilings, disk)


def run_batch(
    spool: Spool, redis: Redis, batch: TranscodeBatch, bounds: Bounds = Bounds()
) -> list[Event | None] | None:
    """Make the renditions of a batch and report each at once or a moment later; what became of each.

    What is not begun after `TURN` seconds stays undone: the dispatcher asks for it again. Do nothing if the
    batch's lease is gone or held, and return None.
    """
    with spool.leases.acquire(batch.id) as held:
        if not held:
            log.info("Dropped batch=%s: its lease is gone or held", batch.id)
            return None
        push(redis, [Started(batch.id)])
        reach("transcoding.leased")
        bundle = EventBuffer(redis)
        results: list[Event | None] = []
        until = time.monotonic() + TURN
        for number, instance in enumerate(batch.instances):
            if number and time.monotonic() > until:
                log.info("TurnOver batch=%s left=%d", batch.id, len(batch.instances) - number)
                break
            size = _received_size(spool, instance)
            if size is not None and size > QUICK:
                bundle.send()  # finished renditions need not wait for this one
            outcome = _run_instance(spool, batch, instance, size, bounds)
            results.append(outcome)
            if outcome is not None:
                bundle.add(outcome)
                reach("transcoding.told")
    reach("transcoding.finished")
    bundle.add(Finished(batch.id))
    bundle.send()
    return results


def _outcome(results: list[Event | None] | None) -> str:
    """What Flower shows of a batch: "14 rendered, 2 failed: the codestream is cut".

    Raises:
        NothingDoneError: no rendition was made, and at least one cannot be.
    """
    if results is None:
        return "dropped: another run of it holds its lease, or has ended"
    counts = Counter(type(result).__name__.lower() if result else "gone" for result in results)
    rendered = counts.pop("rendered", 0)
    words = ", ".join([f"{rendered} rendered", *(f"{count} {what}" for what, count in counts.items())])
    reason = next((result.reason for result in results if isinstance(result, Failed | Unsuitable)), "")
    if reason and not rendered:
        raise NothingDoneError(f"{words}: {reason}")
    return f"{words}: {reason}" if reason else words


def _received_size(spool: Spool, instance: str) -> int | None:
    """Bytes received; None if the instance is gone."""
    try:
        return spool.received(instance).stat().st_size
    except FileNotFoundError:
        return None
    except OSError:
        return 0  # opening it will raise the same error, which is handled there


def _run_instance(
    spool: Spool, batch: TranscodeBatch, instance: str, size: int | None, bounds: Bounds
) -> Event | None:
    """Make one rendition; None if the instance is gone. What is postponed the dispatcher asks for again."""
    key = batch.spec.key
    try:
        if spool.rendition(batch.boot, instance, key).exists():
            return _rendered(spool, batch, instance)
        if size is None:
            log.info("Gone instance=%s", instance)
            return None
        _require_inodes(spool)
        if batch.alone and spool.add_attempt(instance, TRANSCODING) > MAX_ATTEMPTS:
            reason = "it killed its worker three times" + _last_end(spool, batch, instance)
            log.error("Failed instance=%s key=%s: %s", instance, key, reason)
            return Failed(batch.id, instance, key, reason)
        outcome = _transcode(spool, batch, instance, size, bounds)
        if batch.alone:
            spool.clear_attempts(instance, TRANSCODING)
    except MemoryError:
        return _out_of_memory(spool, batch, instance)
    except OSError as error:
        return _postponed(batch, instance, _wait(error))
    return outcome


def _postponed(batch: TranscodeBatch, instance: str, reason: str, level: int = logging.WARNING) -> Postponed:
    log.log(level, "Postponed instance=%s key=%s: %s", instance, batch.spec.key, reason)
    return Postponed(batch.id, instance, batch.spec.key, reason)


def _wait(error: Exception) -> str:
    """What an instance waits for after that error."""
    if isinstance(error, NoRoom):
        return f"{_FOR_ROOM}: {error}"
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"{_FOR_ROOM}: {error.strerror}"
    return f"waits for another try, after an error of the worker: {_error_name(error)}"


def _require_inodes(spool: Spool) -> None:
    """Raise OSError where a rendition would take inodes that the markers of others need."""
    if not durable.has_room(spool.renditions, inodes=INODES_LEFT):
        raise OSError(errno.ENOSPC, "the spool is short of inodes")


def _out_of_memory(spool: Spool, batch: TranscodeBatch, instance: str) -> Event | None:
    """The attempt stays recorded: an instance that never fits into memory fails after three."""
    with suppress(OSError):
        attempts = spool.attempts if batch.alone else spool.add_attempt
        if attempts(instance, TRANSCODING) >= MAX_ATTEMPTS:
            reason = "it needed more memory than its worker may have, three times ([worker] memory_mb)"
            log.error("Failed instance=%s key=%s: %s", instance, batch.spec.key, reason)
            return Failed(batch.id, instance, batch.spec.key, reason)
    return _postponed(batch, instance, "waits for another try: out of memory ([worker] memory_mb)")


def _no_room(spool: Spool, batch: TranscodeBatch, instance: str, error: NoRoom) -> Event | None:
    """What fits later waits; what is too large for the spool fails after three attempts."""
    _remove_leftovers(spool, batch, instance)  # or they take the room that it needs
    if isinstance(error, TooLarge):
        with suppress(OSError):
            if spool.add_attempt(instance, ROOM) >= MAX_ATTEMPTS:
                log.error("Failed instance=%s key=%s: %s", instance, batch.spec.key, error)
                return Failed(batch.id, instance, batch.spec.key, f"{error}; tried three times")
    return _postponed(batch, instance, _wait(error), logging.WARNING if error.first else logging.INFO)


def _transcode(spool: Spool, batch: TranscodeBatch, instance: str, size: int, bounds: Bounds) -> Event | None:
    """Run the codec once.

    Raises:
        MemoryError: the codec needs more memory than it may have.
    """
    key = batch.spec.key
    try:
        source = spool.received(instance)
        target = spool.rendition(batch.boot, instance, key)
        with limits.deadline(limits.seconds_for(size)):
            report = transcode.transcode(
                source,
                target,
                batch.spec,
                verify=batch.verify,
                recorded=True,
                ceilings=bounds.ceilings,
                disk=bounds.disk,
            )
    except transcode.Unsuitable as error:
        log.warning("Unsuitable instance=%s key=%s: %s", instance, key, error)
        return Unsuitable(batch.id, instance, key, str(error))
    except Permanent as error:
        log.warning("Failed instance=%s key=%s: %s", instance, key, error)
        return Failed(batch.id, instance, key, str(error))
    except MemoryError:
        raise
    except NoRoom as error:
        return _no_room(spool, batch, instance, error)
    except (Transient, OSError) as error:
        return _postponed(batch, instance, _wait(error))
    except Exception as error:  # noqa: BLE001  no exception may leave the task
        # Its text and traceback may quote values of the data set; type and place do not.
        reason = f"unexpected {type(error).__name__} at {location_of(error)}"
        log.error("Failed instance=%s key=%s: %s", instance, key, reason)  # noqa: TRY400  see above
        return Failed(batch.id, instance, key, reason)
    rendered = Rendered(
        batch.id, instance, key, report.notes, report.digest or "", report.verified, report.size
    )
    log.info("Rendered instance=%s key=%s%s", instance, key, f": {rendered.words}" if rendered.words else "")
    return rendered


def _rendered(spool: Spool, batch: TranscodeBatch, instance: str) -> Rendered:
    """The event for an existing rendition, from its record."""
    key = batch.spec.key
    path = spool.rendition(batch.boot, instance, key)
    record = records.read(path) or {}
    notes, digest, verified = (str(record.get(name, "")) for name in ("notes", "digest_before", "verified"))
    return Rendered(batch.id, instance, key, notes, digest, verified, path.stat().st_size)


def _error_name(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{type(error).__name__} {errno.errorcode.get(error.errno, error.errno)}"
    return type(error).__name__


def record_end(spool: Spool, batch: TranscodeBatch, error: BaseException) -> None:
    """Log how the child that ran `batch` ended, and keep it for the reason of a failed instance."""
    found = re.search(r"\((SIG[A-Z0-9]+)\)", str(error))
    name = found[1] if found else "no signal"
    words = _ENDS.get(name, f"it ended ({name})")
    log.error("ChildLost batch=%s n=%d: %s", batch.id, len(batch.instances), words)
    for instance in batch.instances:
        # Partial files would fill the disk. If another worker is writing one by now, its batch is repeated.
        _remove_leftovers(spool, batch, instance)
    if batch.alone:
        path = _end_path(spool, batch, batch.instances[0])
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(words)


def _remove_leftovers(spool: Spool, batch: TranscodeBatch, instance: str) -> None:
    for left in durable.leftover_temporaries(spool.rendition(batch.boot, instance, batch.spec.key)):
        left.unlink(missing_ok=True)


def _last_end(spool: Spool, batch: TranscodeBatch, instance: str) -> str:
    try:
        return f"; the last time {_end_path(spool, batch, instance).read_text()}"
    except OSError:
        return ""


def _end_path(spool: Spool, batch: TranscodeBatch, instance: str) -> Path:
    return spool.rendition(batch.boot, instance, batch.spec.key).with_suffix(".ended")


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
    register(app, settings)

    def keep_logging(**_: Any) -> None:
        """Connected, this receiver keeps Celery from setting up logging."""

    def limit_child(**_: Any) -> None:
        limits.limit_process(settings.worker.memory_mb)

    def child_lost(exception: BaseException, kwargs: dict[str, Any], **_: Any) -> None:
        if isinstance(exception, WorkerLostError):
            record_end(Spool(settings.spool.absolute()), TranscodeBatch.from_message(kwargs), exception)

    # record_end logs one line; Celery would log the traceback of a pool that lost a process.
    logging.getLogger("celery.worker.request").addFilter(lambda r: "WorkerLostError" not in r.getMessage())
    signals.setup_logging.connect(keep_logging, weak=False)
    signals.worker_process_init.connect(limit_child, weak=False)
    signals.task_failure.connect(child_lost, weak=False)
    worker = app.Worker(
        pool="prefork",
        concurrency=concurrency or settings.worker.concurrency or limits.cores(),
        queues=[TRANSCODE_QUEUE],
        hostname=f"worker@{socket.gethostname()}-{secrets.token_hex(3)}",
        quiet=True,
        without_mingle=True,
        without_gossip=True,
    )
    consume(worker)
    log.info("Stopped")
