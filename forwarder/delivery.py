"""What the forwarder does with a batch: send its objects, note each on the spool, tell the dispatcher.

Each fact is on the spool before its event leaves. A batch may come twice, or be cut anywhere by SIGKILL:
the delivered marker makes the second sending a no-op.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from pydicom.uid import UID

from dicomferry.crashpoints import reach
from dicomferry.dicom.part10 import Meta, read_meta
from dicomferry.dicom.syntaxes import label
from dicomferry.errors import Permanent
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, Parcel, ProbeBatch
from dicomferry.settings import Destination, Settings
from dicomferry.spool import durable
from dicomferry.spool.instance import Instance
from dicomferry.spool.spool import Spool
from forwarder import outcome
from forwarder.dimse.associations import Associations, Loan
from forwarder.dimse.line import PeerClosed, PeerFailure
from forwarder.dimse.proposal import (
    ECHO,
    MOST_CONTEXTS,
    Context,
    Proposal,
    for_parcels,
    for_probe,
    learned,
)
from forwarder.dimse.scu import Association
from forwarder.outcome import Disposition, Outcome

log = logging.getLogger(__name__)

_MARKERS = 1 << 20  # bytes: room for the markers of all that is on its way
_FULL = "the spool is full: what was sent now could not be marked as delivered, and would come twice"


@dataclass(frozen=True, slots=True)
class Shipment:
    """A parcel with its file."""

    parcel: Parcel
    instance: Instance
    path: Path
    meta: Meta

    @property
    def context(self) -> Context:
        """The presentation context that it needs."""
        return self.meta.sop_class_uid, self.meta.transfer_syntax_uid


class Forwarder:
    """Delivers and probes, from any number of threads."""

    def __init__(self, settings: Settings, sender: events.EventSender) -> None:
        self._settings = settings
        self._spool = Spool(settings.spool)
        self._sender = sender
        self._associations = Associations()
        self._learning = threading.Lock()
        self._stopping = threading.Event()
        # Batches for whose end another one of this process waits, and the words of those that failed.
        self._followed: dict[str, str] = {}

    def deliver(self, batch: DeliverBatch) -> None:
        """Send what the batch names, as far as the destination takes it; the rest stays pending."""
        self._hold(batch, lambda destination: self._send_batch(batch, destination))

    def probe(self, batch: ProbeBatch) -> None:
        """Ask the destination whether it answers and what it takes."""
        self._hold(batch, lambda destination: self._ask(batch, destination))

    def _hold(self, batch: DeliverBatch | ProbeBatch, work: Callable[[Destination], None]) -> None:
        """Do `work` under the batch's lease; nothing where that is gone or held."""
        with self._spool.leases.acquire(batch.id) as held:
            if not held:
                return
            self._sender.send(events.Started(batch.id))
            reach("delivery.leased")
            destination = self._destination(batch)
            if destination is not None:
                self._guarded(batch, lambda: work(destination))
        reach("delivery.finished")
        self._sender.send(events.Finished(batch.id))

    def stop(self, grace: float, store_grace: float) -> None:
        """Begin nothing more; an object being sent has `store_grace` seconds, all else `grace`.

        Takes as long as it takes to release what is kept.
        """
        self._stopping.set()
        log.info("Stopping")
        for seconds, storing in ((grace, False), (store_grace, True)):
            timer = threading.Timer(seconds, self._associations.cut, kwargs={"storing": storing})
            timer.daemon = True
            timer.start()
        self._associations.close()

    def close(self) -> None:
        """Release every association and send the last events; no batch runs any more."""
        self._associations.close()
        self._sender.close()

    # Delivering

    def _send_batch(self, batch: DeliverBatch, destination: Destination) -> None:
        shipments = list(self._shipments(batch, destination))
        if batch.after is not None:  # and so far the wire was another's
            failed = self._wait_for(batch.after)
            if failed:
                self._unreachable(batch, failed)
                return
            shipments = [shipment for shipment in shipments if self._is_due(shipment, destination)]
        loads = list(_loads(shipments, lambda instance: calling_title(self._settings, destination, instance)))
        for calling, load in loads:
            keep = batch.more and load is loads[-1][1]
            words = self._send_load(batch, destination, calling, load, keep=keep)
            if words is not None:
                self._unreachable(batch, words)
                return

    def _wait_for(self, batch: str) -> str:
        """Wait for the end of the batch that one follows; why that failed, where it was here and did."""
        self._followed[batch] = ""
        began = time.monotonic()
        try:
            while self._spool.leases.exists(batch) and not self._stopping.is_set():
                # The longer it lasts, the less it matters to be there at once.
                time.sleep(min(0.002 + (time.monotonic() - began) / 20, 0.1))
        finally:
            failed = self._followed.pop(batch, "")
        return failed

    def _is_due(self, shipment: Shipment, destination: Destination) -> bool:
        """Whether it still is, after a wait in which an operator may have decided otherwise."""
        instance = shipment.instance.id
        return self._spool.folder(instance).exists() and not self._spool.is_delivered(
            instance, destination.name
        )

    def _shipments(self, batch: DeliverBatch, destination: Destination) -> Iterator[Shipment]:
        for parcel in batch.parcels:
            instance = self._spool.read(parcel.instance)
            if instance is None:
                continue  # Retired: it was delivered before.
            if (marker := self._spool.marker(parcel.instance, "delivered", destination.name)) is not None:
                self._sender.send(
                    events.Delivered(
                        batch.id, destination.name, parcel.instance, marker.get("key"), marker["status"]
                    )
                )
                continue
            if parcel.key is None:
                path = self._spool.received(parcel.instance)
            else:
                path = self._spool.rendition(batch.boot, parcel.instance, parcel.key)
            try:
                meta = read_meta(path)
            except FileNotFoundError:
                continue  # The dispatcher looks for it when the batch is finished.
            except Permanent as error:
                damage = Outcome(Disposition.REFUSED, f"not sent: {error}")
                self._refused(batch, parcel, None, damage)
                continue
            yield Shipment(parcel, instance, path, meta)

    def _send_load(
        self, batch: DeliverBatch, destination: Destination, calling: str, load: list[Shipment], *, keep: bool
    ) -> str | None:
        """Send objects that go in one association; why to send no more, in words, or None."""
        needs = dict.fromkeys(shipment.context for shipment in load)
        proposal = for_parcels(needs, destination.shown_syntaxes)
        while not self._stopping.is_set():
            loan = self._associate(batch, destination, calling, proposal, needs)
            reach("delivery.associated")
            responses = loan.association.responses
            try:
                words = self._send_through(batch, loan, load)
            except PeerClosed:
                self._associations.drop(loan)
                if loan.fresh or loan.association.responses != responses:
                    raise
                # Kept since an earlier batch, and closed just now: no sign that the peer is away.
                continue
            except BaseException:
                self._associations.drop(loan)
                raise
            keep = keep or batch.id in self._followed
            self._associations.give_back(loan, keep=keep and words is None)
            return words
        return None

    def _send_through(self, batch: DeliverBatch, loan: Loan, load: list[Shipment]) -> str | None:
        for shipment in load:
            if self._stopping.is_set():
                break
            if not durable.has_room(self._spool.root, _MARKERS):
                return _FULL
            try:
                status, result = _send(loan.association, shipment)
                if result.disposition is Disposition.UNABLE:
                    return result.words
                if result.disposition is Disposition.DELIVERED and status is not None:
                    self._delivered(batch, shipment, status, result)
                else:
                    self._refused(batch, shipment.parcel, status, result)
            except PeerFailure as failure:
                failure.instance = shipment.instance.id
                raise
            except FileNotFoundError:
                log.info("Gone instance=%s destination=%s", shipment.instance.id, batch.destination)
        return None

    def _delivered(self, batch: DeliverBatch, shipment: Shipment, status: int, result: Outcome) -> None:
        parcel = shipment.parcel
        record = {
            "status": status,
            "transfer_syntax_uid": shipment.meta.transfer_syntax_uid,
            "at": time.time(),
            "why": parcel.why,
            "key": parcel.key,
        }
        reach("delivery.answered")
        self._spool.mark_delivered(parcel.instance, batch.destination, record)
        reach("delivery.marked")
        self._sender.send(events.Delivered(batch.id, batch.destination, parcel.instance, parcel.key, status))
        reach("delivery.told")
        log.info(
            "Delivered instance=%s destination=%s syntax=%s: %s",
            parcel.instance, batch.destination, label(shipment.meta.transfer_syntax_uid), result.words,
        )  # fmt: skip

    def _refused(self, batch: DeliverBatch, parcel: Parcel, status: int | None, result: Outcome) -> None:
        attempts = self._spool.add_attempt(parcel.instance, batch.destination)
        final = result.disposition is Disposition.REFUSED
        self._sender.send(
            events.Refused(
                batch.id,
                batch.destination,
                parcel.instance,
                parcel.key,
                status,
                result.words,
                final,
                attempts,
            )
        )
        log.warning(
            "Refused instance=%s destination=%s attempts=%d: %s",
            parcel.instance, batch.destination, attempts, result.words,
        )  # fmt: skip

    def _associate(
        self,
        batch: DeliverBatch,
        destination: Destination,
        calling: str,
        proposal: Proposal,
        needs: Collection[Context],
    ) -> Loan:
        loan = self._associations.borrow(destination, calling, proposal, needs)
        if loan.fresh:
            try:
                answer = self._learn(destination, proposal, loan.association.accepted)
            except BaseException:
                self._associations.drop(loan)
                raise
            self._sender.send(events.Learned(batch.id, destination.name, answer, probe=False))
        return loan

    # Probing

    def _ask(self, batch: ProbeBatch, destination: Destination) -> None:
        calling = calling_title(self._settings, destination)
        answer: dict[str, list[str]] = {}
        for proposal in for_probe(batch.sop_classes, destination.shown_syntaxes):
            loan = self._associations.borrow(destination, calling, proposal, proposal.contexts)
            try:
                accepted = loan.association.accepted
                words = outcome.of_echo(loan.association.echo()) if ECHO in accepted else None
            except BaseException:
                self._associations.drop(loan)
                raise
            self._associations.give_back(loan, keep=False)
            if words is not None:
                self._unreachable(batch, words)
                return
            answer |= self._learn(destination, proposal, accepted)
        self._sender.send(events.Learned(batch.id, destination.name, answer, probe=True))

    def _learn(
        self, destination: Destination, proposal: Proposal, accepted: Collection[Context]
    ) -> dict[str, list[str]]:
        with self._learning:
            known = self._spool.learned(destination.name)
            answer = learned(proposal, accepted, destination.shown_syntaxes, known)
            if known | answer != known:
                self._spool.learn(destination.name, known | answer)
        return answer

    # Failing

    def _destination(self, batch: DeliverBatch | ProbeBatch) -> Destination | None:
        destination = self._settings.destination_named(batch.destination)
        if destination is None:
            log.error("UnknownDestination batch=%s destination=%s: left pending", batch.id, batch.destination)
        return destination

    def _guarded(self, batch: DeliverBatch | ProbeBatch, work: Callable[[], None]) -> None:
        """Do `work`; whatever goes wrong holds the lane for a while, and loses no object its attempts.

        A fault of our own (a full disk, a bug) is reported like one of the destination: its circuit's
        backoff is what keeps us from repeating it in a hot loop, and the words say where to look.
        """
        try:
            work()
        except PeerFailure as failure:
            if not self._stopping.is_set():
                self._unreachable(batch, str(failure), failure.instance, isinstance(failure, PeerClosed))
        except Exception as error:  # noqa: BLE001  the edge: nothing may escape and be lost with its batch
            where = type(error).__name__
            if isinstance(error, OSError) and error.strerror:
                where += f": {error.strerror}"
            # Not the exception's text, which might quote the data set.
            self._unreachable(batch, f"internal error: {where}")

    def _unreachable(
        self,
        batch: DeliverBatch | ProbeBatch,
        words: str,
        instance: str | None = None,
        broke_off: bool = False,
    ) -> None:
        if batch.id in self._followed:
            self._followed[batch.id] = words
        self._sender.send(events.Unreachable(batch.id, batch.destination, words, instance, broke_off))
        log.warning("Unreachable destination=%s batch=%s: %s", batch.destination, batch.id, words)


def calling_title(settings: Settings, destination: Destination, instance: Instance | None = None) -> str:
    """The AE title to call with: where that is the instance's own, ours stands in for one that has none.

    A probe is about no instance; and what a requestor called itself may be no AE title (PS3.5 6.2).
    """
    if destination.calling != "original":
        return destination.calling
    title = instance.calling_ae_title.strip() if instance is not None else ""
    usable = title.isascii() and title.isprintable() and "\\" not in title
    return title if title and usable else settings.ae[0].title


def _send(association: Association, shipment: Shipment) -> tuple[int | None, Outcome]:
    if shipment.context not in association.accepted:
        sop_class, syntax = shipment.context
        return None, outcome.no_context(UID(sop_class).name, label(syntax))
    status = association.store(shipment.path, shipment.meta)
    return status, outcome.of_status(status)


def _loads(
    shipments: Iterable[Shipment], calling: Callable[[Instance], str]
) -> Iterator[tuple[str, list[Shipment]]]:
    """Split into what one association can carry: one calling AE title, at most 128 presentation contexts."""
    for title, group in groupby(shipments, lambda shipment: calling(shipment.instance)):
        load: list[Shipment] = []
        contexts: set[Context] = set()
        for shipment in group:
            if len(contexts | {shipment.context}) > MOST_CONTEXTS:
                yield title, load
                load, contexts = [], set()
            load.append(shipment)
            contexts.add(shipment.context)
        yield title, load
