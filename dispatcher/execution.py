"""Carries out the queue manager's commands, on the spool and at the broker."""

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from dicomferry.crashpoints import reach
from dicomferry.messages.batches import DeliverBatch
from dicomferry.spool.leases import LeaseContent
from dicomferry.spool.spool import Spool
from dispatcher.bookkeeping import Bookkeeping
from dispatcher.commands import (
    Command,
    CountAttempt,
    DropRenditions,
    MarkDead,
    Note,
    Publish,
    Reread,
    Retire,
)
from dispatcher.publisher import Publisher

log = logging.getLogger(__name__)


class Executor:
    """Carries out commands in order.

    `reread` reads an instance from the spool again; `unpublished` is told which batch the broker or the disk
    did not take, and why.
    """

    def __init__(
        self,
        spool: Spool,
        publisher: Publisher,
        books: Bookkeeping,
        reread: Callable[[str], None],
        unpublished: Callable[[str, Exception], None],
    ) -> None:
        self._spool = spool
        self._publisher = publisher
        self._books = books
        self._reread = reread
        self._unpublished = unpublished

    def carry_out(self, commands: Iterable[Command]) -> None:
        """Carry out these commands."""
        for command in commands:
            match command:
                case Publish():
                    self._publish(command)
                case MarkDead():
                    self._mark_dead(command)
                case CountAttempt():
                    with suppress(OSError):  # the instance is gone, or the disk is full: we remember it
                        self._spool.add_attempt(command.instance, command.destination)
                case Reread():
                    for instance in command.instances:
                        self._reread(instance)
                case Note():
                    self._books.note(command)
                case DropRenditions():
                    self._spool.drop_renditions(command.instance)
                case Retire():
                    self._books.retire(command.instance)

    def _publish(self, command: Publish) -> None:
        batch = command.batch
        try:
            destination = batch.destination if isinstance(batch, DeliverBatch) else None
            self._spool.leases.create(batch.id, LeaseContent(command.instances, destination))
            reach("publication.leased")
            self._publisher.publish(batch, command.label)
            reach("publication.published")
            log.info("Published batch=%s %s", batch.id, command.label)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("NotPublished batch=%s: %s; it stays on the spool", batch.id, error)
            self._spool.leases.revoke(batch.id)
            self._unpublished(batch.id, error)

    def _mark_dead(self, command: MarkDead) -> None:
        record: dict[str, Any] = {
            "reason": command.reason,
            "status": command.status,
            "attempts": command.attempts,
            "at": time.time(),
        }
        try:
            reach("burial.begun")
            self._spool.mark_dead(command.instance, command.destination, record)
            reach("burial.marked")
        except FileNotFoundError:
            return  # the instance is gone: there is nothing to mark
        except OSError as error:  # a full disk: it is pending on the spool, and is decided again at a start
            log.warning("NotMarkedDead instance=%s: %s", command.instance, error.strerror or error)
            return
        log.warning(
            "Dead instance=%s uid=%s destination=%s: %s",
            command.instance,
            command.sop_instance_uid,
            command.destination,
            command.reason,
        )
