"""Reads the spool for the dispatcher: everything at start, then a few shards at a time."""

import logging
import time
from collections.abc import Callable, Iterator

from dicomferry.spool.instance import State
from dicomferry.spool.leases import LeaseContent
from dicomferry.spool.spool import SHARDS, Spool

log = logging.getLogger(__name__)


class SpoolReader:
    """Reads instances that the queue manager does not track yet.

    It leaves out the instances of an earlier dispatcher's batches while these run, so that nothing is sent
    twice.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._shard = 0
        self._running_before: dict[str, LeaseContent] = {}  # by batch of an earlier dispatcher
        self.damaged: dict[str, str] = {}  # instances that cannot be read, and why

    def take_over(self) -> None:
        """Cancel the batches of an earlier dispatcher that nobody runs; remember those that run."""
        for batch in self._spool.leases.batches():
            if not self._spool.leases.revoke(batch):
                self._running_before[batch] = self._spool.leases.read(batch)
        if self._running_before:
            log.info("StillRunning batches=%d of an earlier dispatcher", len(self._running_before))

    def forget_ended(self) -> bool:
        """Forget batches of an earlier dispatcher that have ended; whether there were any."""
        over = [b for b in self._running_before if self._spool.leases.revoke(b)]
        for batch in over:
            del self._running_before[batch]
        return bool(over)

    def busy_destinations(self) -> frozenset[str]:
        """Destinations to which batches of an earlier dispatcher still send."""
        claims = self._running_before.values()
        return frozenset(claim.destination for claim in claims if claim.destination is not None)

    def read_all(self, tracked: Callable[[str], bool]) -> Iterator[State]:
        """All instances that are not `tracked`."""
        started, count = time.monotonic(), 0
        for shard in SHARDS:
            for state in self._read(shard, tracked):
                count += 1
                yield state
        log.info("SpoolRead instances=%d seconds=%.2f", count, time.monotonic() - started)

    def read_next_shards(self, tracked: Callable[[str], bool], seconds: float) -> Iterator[State]:
        """Instances of the next shards that are not `tracked`: those whose event was lost.

        Reads at least one shard, and as many as `seconds` allow: all of a small spool.
        """
        deadline = time.monotonic() + seconds
        for _ in SHARDS:
            shard = SHARDS[self._shard]
            self._shard = (self._shard + 1) % len(SHARDS)
            yield from self._read(shard, tracked)
            if time.monotonic() > deadline:
                return

    def _read(self, shard: str, tracked: Callable[[str], bool]) -> Iterator[State]:
        busy = {instance for claim in self._running_before.values() for instance in claim.instances}
        for instance in self._spool.ids(shard):
            if instance in busy or tracked(instance):
                continue
            state = self._spool.state(instance)
            if state is not None:
                self.damaged.pop(instance, None)
                yield state
            elif damage := self._spool.damage(instance):
                self._note_damage(instance, damage)
            else:
                self.damaged.pop(instance, None)
                self._spool.remove_rest(instance)

    def _note_damage(self, instance: str, damage: str) -> None:
        if instance not in self.damaged:
            log.error("Damaged instance=%s %s; restore the file, or move it away", instance, damage)
        self.damaged[instance] = damage

    def is_busy(self, instance: str) -> bool:
        """Whether a batch of an earlier dispatcher still has it."""
        return any(instance in claim.instances for claim in self._running_before.values())
