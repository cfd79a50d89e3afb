"""Makes the renditions of one batch.

The lease makes a second run of the same message a no-op, an existing rendition is not made again, and no
exception leaves: a MemoryError would stop the whole worker.
"""

import errno
import logging
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from redis import Redis

from dicomferry.ceilings import Ceilings
from dicomferry.crashpoints import reach
from dicomferry.errors import Permanent, Transient, location_of
from dicomferry.messages.batches import TranscodeBatch
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
from dicomferry.spool import durable, records
from dicomferry.spool.seats import Seats
from dicomferry.spool.spool import ROOM, TRANSCODING, Spool
from workers import child_ends, limits, transcode
from workers.room import NoRoom, Room, TooLarge

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
INODES_LEFT = 128  # with fewer no rendition is begun: what is rendered could not be marked as delivered
TURN = 5.0  # seconds: what a batch has not begun by then goes back, so that others have their turn
QUICK = 1 << 20  # bytes received: up to this size an instance takes a fraction of a second
_FOR_ROOM = "waits for room on the spool's disk"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What instances may take; without `disk`, renditions may have all that is free.

    A batch has one of the `seats`; without any, and where none is free, an instance has this process alone.
    """

    ceilings: Ceilings = Ceilings()
    disk: Room | None = None
    seats: Seats | None = None


def run_batch(
    spool: Spool, redis: Redis, batch: TranscodeBatch, bounds: Bounds = Bounds()
) -> list[Event | None] | None:
    """Make the renditions of a batch and report each at once or a moment later; what became of each.

    What is not begun after `TURN` seconds stays undone: the dispatcher asks for it again. Do nothing if the
    batch's lease is gone or held, and return None.
    """
    seated = bounds.seats.seated() if bounds.seats else nullcontext()
    with spool.leases.acquire(batch.id) as held, seated:
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
            reason = "it killed its worker three times" + child_ends.last(spool, batch, instance)
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
    child_ends.remove_leftovers(spool, batch, instance)  # or they take the room that it needs
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
                seats=bounds.seats,
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
