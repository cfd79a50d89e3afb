"""Runs deliver and probe batches: lease, failures, stop.

A batch may come twice, or SIGKILL may end it anywhere: the delivered marker makes sending again a no-op.
"""

import logging
import threading
from collections.abc import Callable

from dicomferry.crashpoints import reach
from dicomferry.messages.batches import DeliverBatch, ProbeBatch
from dicomferry.messages.events import EventSender
from dicomferry.settings import Destination, Settings
from dicomferry.spool.spool import Spool
from forwarder import outcome
from forwarder.dimse.associations import AssociationPool
from forwarder.dimse.connection import PeerClosed, PeerFailure
from forwarder.dimse.proposal import ECHO, calling_title, for_probe
from forwarder.reports import BatchResult, Reports
from forwarder.sending import BatchSender

log = logging.getLogger(__name__)


class Forwarder:
    """Delivers and probes, from any number of threads."""

    def __init__(self, settings: Settings, sender: EventSender) -> None:
        self._settings = settings
        self._spool = Spool(settings.spool)
        self._sender = sender
        self._reports = Reports(self._spool, sender)
        self._associations = AssociationPool()
        self._stopping = threading.Event()
        self._sending = BatchSender(settings, self._spool, self._reports, self._associations, self._stopping)

    def deliver(self, batch: DeliverBatch) -> BatchResult | None:
        """Send the batch's objects, as far as the destination takes them; the rest stays pending.

        None: nothing was to be done, since the batch's lease is gone or held.
        """
        return self._run(batch, lambda destination: self._sending.send(batch, destination))

    def probe(self, batch: ProbeBatch) -> BatchResult | None:
        """Ask the destination whether it answers and what it accepts; None as for `deliver`."""
        return self._run(batch, lambda destination: self._probe(batch, destination))

    def stop(self, grace: float, store_grace: float) -> None:
        """Begin nothing more; an object being sent has `store_grace` seconds, everything else `grace`.

        Returns when the idle associations are released.
        """
        self._stopping.set()
        log.info("Stopping")
        for seconds, storing in ((grace, False), (store_grace, True)):
            timer = threading.Timer(seconds, self._associations.disconnect, kwargs={"storing": storing})
            timer.daemon = True
            timer.start()
        self._associations.close()

    def close(self) -> None:
        """Release every association and send the last events; no batch may run any more."""
        self._associations.close()
        self._sender.close()

    def _run(
        self, batch: DeliverBatch | ProbeBatch, work: Callable[[Destination], str | None]
    ) -> BatchResult | None:
        """Do `work` under the batch's lease; nothing if the lease is gone or held.

        `work` returns None, or why the destination takes nothing more now.
        """
        with self._spool.leases.acquire(batch.id) as held:
            if not held:
                return None
            self._reports.started(batch)
            reach("delivery.leased")
            destination = self._settings.destination_named(batch.destination)
            if destination is None:
                log.error(
                    "UnknownDestination batch=%s destination=%s: left pending", batch.id, batch.destination
                )
            else:
                self._run_safely(batch, lambda: work(destination))
        reach("delivery.finished")
        return self._reports.finished(batch)

    def _run_safely(self, batch: DeliverBatch | ProbeBatch, work: Callable[[], str | None]) -> None:
        """Do `work` and report every failure; a failure holds the lane for a while and counts no attempt.

        A fault of our own (a full disk, a bug) is reported like one of the destination: the circuit's
        backoff keeps us from repeating it in a hot loop, and the reason says where to look.
        """
        try:
            reason = work()
            if reason is not None:
                self._unreachable(batch, reason)
        except PeerFailure as failure:
            if not self._stopping.is_set():
                closed = isinstance(failure, PeerClosed)
                self._unreachable(batch, str(failure), failure.instance, closed, failure.status)
        except Exception as error:  # noqa: BLE001  the edge: an exception must not escape with its batch
            where = type(error).__name__
            if isinstance(error, OSError) and error.strerror:
                where += f": {error.strerror}"
            # Not the exception's text, which might quote the data set.
            self._unreachable(batch, f"internal error: {where}")

    def _unreachable(
        self,
        batch: DeliverBatch | ProbeBatch,
        reason: str,
        instance: str | None = None,
        broke_off: bool = False,
        status: int | None = None,
    ) -> None:
        self._sending.note_failure(batch.id, reason)
        self._reports.unreachable(batch, reason, instance, broke_off, status)

    def _probe(self, batch: ProbeBatch, destination: Destination) -> str | None:
        """Propose every shown syntax and C-ECHO; why the destination takes nothing now, or None."""
        calling = calling_title(self._settings, destination)
        answer: dict[str, list[str]] = {}
        for proposal in for_probe(batch.sop_classes, destination.shown_syntaxes):
            pooled = self._associations.borrow(destination, calling, proposal, proposal.contexts)
            try:
                accepted = pooled.association.accepted
                reason = outcome.of_echo(pooled.association.echo()) if ECHO in accepted else None
            except BaseException:
                self._associations.abort(pooled)
                raise
            self._associations.give_back(pooled, keep=False)
            if reason is not None:
                return reason
            answer |= self._reports.learn(destination, proposal, accepted)
        self._reports.learned(batch, answer, probe=True)
        return None
