"""What the dispatcher reads from the spool: everything at start, and a few shards at a time ever after."""

import logging
import time
from collections.abc import Callable, Iterator

from dicomferry.spool.instance import State
from dicomferry.spool.leases import LeaseContent
from dicomferry.spool.spool import SHARDS, Spool

log = logging.getLogger(__name__)


class SpoolReader:
    """Reads instances that the queue manager does not know.

    Instances in batches of an earlier dispatcher that still run are left out until those have ended, so
    that nothing is sent twice.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._shard = 0
        self._running_before: dict[str, LeaseContent] = {}  # by batch of an earlier dispatcher

    def take_over(self) -> None:
        """Cancel what an earlier dispatcher published and nobody runs; remember what somebody does."""
        for batch in self._spool.leases.batches():
            if not self._spool.leases.revoke(batch):
                self._running_before[batch] = self._spool.leases.read(batch)
        if self._running_before:
            log.info("StillRunning batches=%d of an earlier dispatcher", len(self._running_before))

    def ended(self) -> bool:
        """Whether a batch of an earlier dispatcher has ended since the last call."""
        over = [b for b in self._running_before if self._spool.leases.revoke(b)]
        for batch in over:
            del self._running_before[batch]
        return bool(over)

    def sending(self) -> frozenset[str]:
        """Destinations to which batches of an earlier dispatcher still send."""
        claims = self._running_before.values()
        return frozenset(claim.destination for claim in claims if claim.destination is not None)

    def everything(self, known: Callable[[str], bool]) -> Iterator[State]:
        """All instances that are not `known`."""
        started, count = time.monotonic(), 0
        for shard in SHARDS:
            for state in self._read(shard, known):
                count += 1
                yield state
        log.info("SpoolRead instances=%d seconds=%.2f", count, time.monotonic() - started)

    def next_shards(self, known: Callable[[str], bool], seconds: float) -> Iterator[State]:
        """Instances of the next shards, in turn, that are not `known`: those whose event was lost.

        At least one shard, and as many as `seconds` allow: all of a small spool.
        """
        enough = time.monotonic() + seconds
        for _ in SHARDS:
            shard = SHARDS[self._shard]
            self._shard = (self._shard + 1) % len(SHARDS)
            yield from self._read(shard, known)
            if time.monotonic() > enough:
                return

    def _read(self, shard: str, known: Callable[[str], bool]) -> Iterator[State]:
        busy = {instance for claim in self._running_before.values() for instance in claim.instances}
        for instance in self._spool.ids(shard):
            if instance in busy or known(instance):
                continue
            state = self._spool.state(instance)
            if state is not None:
                yield state

    def is_busy(self, instance: str) -> bool:
        """Whether a batch of an earlier dispatcher still has it."""
        return any(instance in claim.instances for claim in self._running_before.values())
