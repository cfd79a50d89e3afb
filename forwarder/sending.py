"""Sends the objects of deliver batches, over as few associations as they need."""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from pydicom.uid import UID

from dicomferry.crashpoints import reach
from dicomferry.dicom.part10 import Meta, meta_of
from dicomferry.dicom.syntaxes import label
from dicomferry.errors import Permanent
from dicomferry.messages.batches import DeliverBatch, Parcel
from dicomferry.settings import Destination, Settings
from dicomferry.spool import durable
from dicomferry.spool.spool import Spool
from forwarder import outcome
from forwarder.dimse.associations import AssociationPool, PooledAssociation
from forwarder.dimse.connection import AssociationOver, PeerFailure
from forwarder.dimse.proposal import MAX_CONTEXTS, Context, Proposal, calling_title, for_parcels
from forwarder.dimse.scu import Association
from forwarder.outcome import Disposition, Outcome
from forwarder.reports import Reports

log = logging.getLogger(__name__)

# Seconds, the last first, before a peer is asked again that closed and gives no association.
_REOPEN_PAUSES = (0.5, 0.1)
_PROMPT = 1.0  # seconds within which it said so; who lets us wait is not asked again
_FULL = "the spool is full: what was sent now could not be marked as delivered, and would come twice"


@dataclass(frozen=True, slots=True)
class Shipment:
    """A parcel, which says what it is, with its file."""

    parcel: Parcel
    path: Path

    @property
    def context(self) -> Context:
        """The presentation context that it needs."""
        return self.parcel.sop_class_uid, self.parcel.transfer_syntax_uid

    def meta(self, file: BinaryIO) -> Meta:
        """Where its data set is in the open file.

        Raises:
            Permanent: the file is damaged.
        """
        meta = meta_of(file.fileno(), self.path.name)
        size, stood = os.fstat(file.fileno()).st_size - meta.offset, self.parcel.size
        if stood and size != stood:
            raise Permanent(f"its file on the spool is damaged: it has {size} bytes of the {stood} received")
        # A received file says what the presentation context was; the data set may be in another syntax.
        return replace(
            meta,
            sop_class_uid=self.parcel.sop_class_uid,
            transfer_syntax_uid=self.parcel.transfer_syntax_uid,
        )


class NotTaken(PeerFailure):
    """The destination answered that it cannot take an object; the association stands."""

    def __init__(self, reason: str, status: int | None) -> None:
        super().__init__(reason)
        self.status = status


class BatchSender:
    """Sends batches, from any number of threads, until `stopping` is set."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        reports: Reports,
        associations: AssociationPool,
        stopping: threading.Event,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._reports = reports
        self._associations = associations
        self._stopping = stopping
        # The batches of this process that another one waits for, and why they failed, else "".
        self._followed: dict[str, str] = {}

    def send(self, batch: DeliverBatch, destination: Destination) -> str | None:
        """Send the batch's objects; why the destination takes no more now, or None.

        Raises:
            PeerFailure: the destination fails; the message gives the reason.
        """
        shipments = list(self._shipments(batch))
        if batch.after is not None:
            failed = self._wait_for(batch.after)
            if failed:
                return failed
            shipments = [shipment for shipment in shipments if self._is_due(shipment, destination)]
        groups = list(
            _by_association(shipments, lambda caller: calling_title(self._settings, destination, caller))
        )
        for calling, group in groups:
            last = group is groups[-1][1]
            reason = self._send_group(batch, destination, calling, group, last=last)
            if reason is not None:
                return reason
        return None

    def note_failure(self, batch: str, reason: str) -> None:
        """Tell the batch that waits for this one, if any, why this one failed."""
        if batch in self._followed:
            self._followed[batch] = reason

    def _wait_for(self, batch: str) -> str:
        """Wait until the batch has ended; why it failed, if it ran in this process, else an empty string."""
        self._followed[batch] = ""
        began = time.monotonic()
        try:
            while self._spool.leases.exists(batch) and not self._stopping.is_set():
                # The longer the wait, the less a late wake-up matters.
                time.sleep(min(0.002 + (time.monotonic() - began) / 20, 0.1))
        finally:
            failed = self._followed.pop(batch, "")
        return failed

    def _is_due(self, shipment: Shipment, destination: Destination) -> bool:
        """Whether it still is after a wait, in which an operator may have decided otherwise."""
        instance = shipment.parcel.instance
        return self._spool.exists(instance) and not self._spool.is_delivered(instance, destination.name)

    def _shipments(self, batch: DeliverBatch) -> Iterator[Shipment]:
        """What is still to be sent; what has no file the dispatcher looks for when the batch is finished."""
        for given in batch.parcels:
            try:
                parcel = given if given.sop_instance_uid else self._described(given)
            except OSError as error:
                raise _unreadable(given.instance, error) from error
            if parcel is None or self._reports.delivered_before(batch, parcel):
                continue
            if parcel.key is None:
                path = self._spool.received(parcel.instance)
            else:
                path = self._spool.rendition(batch.boot, parcel.instance, parcel.key)
            if path.exists():
                yield Shipment(parcel, path)

    def _described(self, parcel: Parcel) -> Parcel | None:
        """A parcel of an earlier version, with what it does not say; None where its instance is gone."""
        found = self._spool.read(parcel.instance)
        if found is None:
            return None
        sent_as = parcel.key.rpartition("-")[0] if parcel.key else found.transfer_syntax_uid
        return replace(
            parcel,
            sop_class_uid=found.sop_class_uid,
            sop_instance_uid=found.sop_instance_uid,
            transfer_syntax_uid=sent_as,
            caller=found.calling_ae_title,
            size=0 if parcel.key else found.size,
        )

    def _send_group(
        self,
        batch: DeliverBatch,
        destination: Destination,
        calling: str,
        group: list[Shipment],
        *,
        last: bool,
    ) -> str | None:
        """Send what one association can carry; why to send no more, or None.

        Some peers close after each object, or after some, or are muddled from then on. That is no failure,
        and the next object goes over a new association. So each of these has answered for an object, and who
        closes or is muddled over the first one fails.
        """
        needs = dict.fromkeys(shipment.context for shipment in group)
        proposal = for_parcels(needs, destination.shown_syntaxes)
        remaining = deque(group)
        closed = False
        while remaining and not self._stopping.is_set():
            pooled = self._associate(batch, destination, calling, proposal, needs, again=closed)
            reach("delivery.associated")
            responses = pooled.association.responses
            try:
                reason = self._send_over(pooled.association, batch, remaining)
            except AssociationOver as failure:
                self._associations.abort(pooled)
                if pooled.fresh and pooled.association.responses == responses:
                    raise
                closed = True
                log.info("Reconnecting destination=%s batch=%s: %s", destination.name, batch.id, failure)
                continue
            except NotTaken:  # an answer: the association is as good as before
                self._associations.give_back(pooled, keep=last, more=batch.more)
                raise
            except BaseException:
                self._associations.abort(pooled)
                raise
            more = batch.more or batch.id in self._followed
            self._associations.give_back(pooled, keep=last and reason is None, more=more)
            return reason
        return None

    def _associate(
        self,
        batch: DeliverBatch,
        destination: Destination,
        calling: str,
        proposal: Proposal,
        needs: Collection[Context],
        *,
        again: bool,
    ) -> PooledAssociation:
        """Borrow an association; `again`, after the peer closed one, it may need a moment."""
        pauses = list(_REOPEN_PAUSES if again else ())
        while True:
            began = time.monotonic()
            try:
                pooled = self._associations.borrow(destination, calling, proposal, needs)
                break
            except PeerFailure:
                if not pauses or time.monotonic() - began > _PROMPT or self._stopping.wait(pauses.pop()):
                    raise
        if pooled.fresh:
            try:
                answer = self._reports.learn(destination, proposal, pooled.association.accepted)
            except BaseException:
                self._associations.abort(pooled)
                raise
            self._reports.learned(batch, answer, probe=False)
        return pooled

    def _send_over(
        self, association: Association, batch: DeliverBatch, remaining: deque[Shipment]
    ) -> str | None:
        """Send what remains, and remove what is answered; why to send no more, or None."""
        while remaining and not self._stopping.is_set():
            shipment = remaining[0]
            if not durable.has_room(self._spool.root):
                return _FULL
            try:
                status, result = _send(association, shipment)
                if result.disposition is Disposition.UNABLE:
                    raise NotTaken(result.words, status)
                if result.disposition is Disposition.DELIVERED and status is not None:
                    self._reports.delivered(batch, shipment.parcel, status, result, note=association.changed)
                else:
                    self._reports.refused(batch, shipment.parcel, status, result)
            except PeerFailure as failure:
                failure.instance = shipment.parcel.instance
                raise
            except FileNotFoundError:
                log.info("Gone instance=%s destination=%s", shipment.parcel.instance, batch.destination)
            remaining.popleft()
        return None


def _send(association: Association, shipment: Shipment) -> tuple[int | None, Outcome]:
    if shipment.context not in association.accepted:
        sop_class, syntax = shipment.context
        return None, outcome.no_context(UID(sop_class).name, label(syntax))
    try:
        with shipment.path.open("rb") as file:
            status = association.store(file, shipment.meta(file))
    except FileNotFoundError:
        raise
    except Permanent as error:
        return None, Outcome(Disposition.REFUSED, f"not sent: {error}")
    except OSError as error:
        raise _unreadable(shipment.parcel.instance, error) from error
    return status, outcome.of_status(status)


def _unreadable(instance: str, error: OSError) -> PeerFailure:
    """A failure of ours over this object, which goes the way of one of the peer's."""
    failure = PeerFailure(f"internal error: {type(error).__name__}: {error.strerror or 'its file'}")
    failure.instance = instance
    return failure


def _by_association(
    shipments: Iterable[Shipment], calling: Callable[[str], str]
) -> Iterator[tuple[str, list[Shipment]]]:
    """Split into what one association can carry: one calling AE title, at most 128 presentation contexts."""
    for title, same_title in groupby(shipments, lambda shipment: calling(shipment.parcel.caller)):
        group: list[Shipment] = []
        contexts: set[Context] = set()
        for shipment in same_title:
            if len(contexts | {shipment.context}) > MAX_CONTEXTS:
                yield title, group
                group, contexts = [], set()
            group.append(shipment)
            contexts.add(shipment.context)
        yield title, group
