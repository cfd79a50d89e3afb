"""Which outstanding batches run, have ended, or were lost: read from their leases, no deadline guessed."""

from collections.abc import Callable

from dicomferry.messages import events
from dicomferry.spool.spool import Spool
from dispatcher.commands import Lost

Verdict = events.Started | events.Finished | Lost


class LeaseWatch:
    """Looks at the leases of outstanding batches, time and again.

    Locked means running, however long it takes. Gone means finished. Neither locked nor queued means lost.
    Each of the latter two counts when it is seen twice in a row: a message is on its way between queue and
    lock for a moment, and the events of a finished batch are read before it is called silent.
    """

    def __init__(self, spool: Spool, queued: Callable[[], set[str]]) -> None:
        self._spool = spool
        self._queued = queued
        self._suspects: dict[str, str] = {}  # batch -> what was seen the last time
        self._seen_running: set[str] = set()

    def look(self, outstanding: list[str]) -> list[Verdict]:
        """What can be said of these batches now. Raises RedisError where the queue cannot be read."""
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
