"""Reads from their leases which outstanding batches run, have ended or were lost; no deadline is guessed."""

from collections.abc import Callable

from dicomferry.messages import events
from dicomferry.spool.spool import Spool
from dispatcher.commands import Lost

Verdict = events.Started | events.Finished | Lost


class LeaseWatch:
    """Checks the leases of outstanding batches at regular intervals.

    Locked means running, however long it takes. Gone means finished. Neither locked nor queued means lost.
    The latter two count only when two checks in a row see them: between queue and lock a message is nowhere
    for a moment, and the events of a finished batch must be read before its lease counts.
    """

    def __init__(self, spool: Spool, queued: Callable[[], set[str]]) -> None:
        self._spool = spool
        self._queued = queued
        self._suspects: dict[str, str] = {}  # by batch: its state at the last check
        self._seen_running: set[str] = set()

    def check(self, outstanding: list[str]) -> list[Verdict]:
        """What has changed for these batches. Raises RedisError where the queue cannot be read."""
        states = {batch: self._spool.leases.state(batch) for batch in outstanding}
        running = {batch for batch, state in states.items() if state == "running"}
        verdicts: list[Verdict] = [events.Started(batch) for batch in running - self._seen_running]
        self._seen_running = (self._seen_running | running) & set(outstanding)
        doubtful = {batch: state for batch, state in states.items() if state in {"idle", "gone"}}
        if any(state == "idle" for state in doubtful.values()):
            queued = self._queued()
            doubtful = {b: state for b, state in doubtful.items() if state == "gone" or b not in queued}
        for batch, state in doubtful.items():
            if self._suspects.get(batch) != state:
                continue
            if state == "gone":
                verdicts.append(events.Finished(batch))
            elif self._spool.leases.revoke(batch):
                verdicts.append(Lost(batch, died=batch in self._seen_running))
        self._suspects = doubtful
        return verdicts
