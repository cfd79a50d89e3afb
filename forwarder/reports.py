"""Reports what became of a batch: on the spool, to the dispatcher by an event, and in the log.

Each fact is on the spool before its event is sent.
"""

import logging
import threading
import time
from collections.abc import Collection

from dicomferry.crashpoints import reach
from dicomferry.dicom.syntaxes import label
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, Parcel, ProbeBatch
from dicomferry.settings import Destination
from dicomferry.spool.spool import Spool
from forwarder.dimse.proposal import Context, Proposal, learned
from forwarder.outcome import Disposition, Outcome

log = logging.getLogger(__name__)


class Reports:
    """Reports of all batches, from any thread."""

    def __init__(self, spool: Spool, sender: events.EventSender) -> None:
        self._spool = spool
        self._sender = sender
        self._learning = threading.Lock()

    def started(self, batch: DeliverBatch | ProbeBatch) -> None:
        """The batch holds its lease."""
        self._sender.send(events.Started(batch.id))

    def finished(self, batch: DeliverBatch | ProbeBatch) -> None:
        """The batch has ended and its lease is gone."""
        self._sender.send(events.Finished(batch.id))

    def delivered(
        self,
        batch: DeliverBatch,
        parcel: Parcel,
        transfer_syntax_uid: str,
        status: int,
        result: Outcome,
        *,
        note: str = "",
    ) -> None:
        """The destination has the object: mark it delivered. `note`: what was sent other than the file."""
        record = {
            "status": status,
            "transfer_syntax_uid": transfer_syntax_uid,
            "at": time.time(),
            "why": parcel.why,
            "key": parcel.key,
        } | ({"note": note} if note else {})
        reach("delivery.answered")
        self._spool.mark_delivered(parcel.instance, batch.destination, record)
        reach("delivery.marked")
        self._sender.send(
            events.Delivered(batch.id, batch.destination, parcel.instance, parcel.key, status, note)
        )
        reach("delivery.told")
        log.info(
            "Delivered instance=%s destination=%s syntax=%s: %s",
            parcel.instance, batch.destination, label(transfer_syntax_uid),
            f"{result.words}; {note}" if note else result.words,
        )  # fmt: skip

    def delivered_before(self, batch: DeliverBatch, parcel: Parcel) -> bool:
        """Whether the object is marked delivered; its event is then sent again."""
        marker = self._spool.marker(parcel.instance, "delivered", batch.destination)
        if marker is None:
            return False
        key, status = marker.get("key"), marker["status"]
        note = marker.get("note", "")
        self._sender.send(events.Delivered(batch.id, batch.destination, parcel.instance, key, status, note))
        return True

    def refused(self, batch: DeliverBatch, parcel: Parcel, status: int | None, result: Outcome) -> None:
        """The destination has refused the object: count the attempt."""
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

    def unreachable(
        self,
        batch: DeliverBatch | ProbeBatch,
        reason: str,
        instance: str | None = None,
        broke_off: bool = False,
    ) -> None:
        """The batch has ended early for `reason`; `instance` and `broke_off` as in the event."""
        self._sender.send(events.Unreachable(batch.id, batch.destination, reason, instance, broke_off))
        log.warning("Unreachable destination=%s batch=%s: %s", batch.destination, batch.id, reason)

    def learn(
        self, destination: Destination, proposal: Proposal, accepted: Collection[Context]
    ) -> dict[str, list[str]]:
        """Remember on the spool what the destination accepts; transfer syntaxes by SOP class."""
        with self._learning:
            known = self._spool.learned(destination.name)
            answer = learned(proposal, accepted, destination.shown_syntaxes, known)
            if known | answer != known:
                self._spool.learn(destination.name, known | answer)
        return answer

    def learned(self, batch: DeliverBatch | ProbeBatch, answer: dict[str, list[str]], *, probe: bool) -> None:
        """Send what the destination accepts; `probe` says that a whole probe succeeded."""
        self._sender.send(events.Learned(batch.id, batch.destination, answer, probe=probe))
