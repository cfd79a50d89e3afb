"""Reports what became of a batch: on the spool, to the dispatcher by an event, and in the log.

Each fact is on the spool before its event is sent.
"""

import errno
import logging
import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from dicomferry.crashpoints import reach
from dicomferry.dicom.syntaxes import label
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, Parcel, ProbeBatch
from dicomferry.settings import Destination
from dicomferry.spool.departures import Departure, in_ms
from dicomferry.spool.spool import Spool
from forwarder.dimse.proposal import Context, Proposal, learned
from forwarder.outcome import Disposition, Outcome

log = logging.getLogger(__name__)

MARK_WITHIN = 20.0  # seconds that an object which is delivered may wait for the room of its marker


@dataclass(slots=True)
class BatchResult:
    """What became of one batch."""

    delivered: int = 0
    before: int = 0  # delivered by an earlier batch
    refused: Counter[str] = field(default_factory=Counter)  # by status
    ended_by: str = ""  # why it ended early
    accepted: str = ""  # what a probe heard

    @property
    def did_nothing(self) -> bool:
        """Whether it tried, and the destination took nothing."""
        return bool(self.refused or self.ended_by) and not self.delivered

    @property
    def words(self) -> str:
        """For people: "2 delivered, 1 refused: 0xC001"."""
        if self.accepted:
            return self.accepted
        if self.ended_by and not (self.delivered or self.before or self.refused):
            return self.ended_by
        parts = [f"{self.delivered} delivered"]
        parts += [f"{self.before} delivered before"] if self.before else []
        if self.refused:
            parts.append(f"{self.refused.total()} refused: {', '.join(sorted(self.refused))}")
        return ", ".join(parts) + (f", then {self.ended_by}" if self.ended_by else "")


class Reports:
    """Reports of all batches, from any thread."""

    def __init__(self, spool: Spool, sender: events.EventSender) -> None:
        self._spool = spool
        self._sender = sender
        self._learning = threading.Lock()
        self._results: dict[str, BatchResult] = {}  # of the batches that run

    def started(self, batch: DeliverBatch | ProbeBatch) -> None:
        """The batch holds its lease: that tells enough, and the dispatcher is not woken for it."""
        self._results[batch.id] = BatchResult()

    def finished(self, batch: DeliverBatch | ProbeBatch) -> BatchResult:
        """The batch has ended and its lease is gone; what became of it."""
        self._sender.send(events.Finished(batch.id))
        return self._results.pop(batch.id)

    def delivered(
        self,
        batch: DeliverBatch,
        parcel: Parcel,
        status: int,
        result: Outcome,
        *,
        note: str = "",
    ) -> None:
        """The destination has the object: mark it delivered.

        `note` says what was sent other than the file.
        """
        at = in_ms(time.time())
        reach("delivery.answered")
        self._mark(batch, parcel, status, note, at)
        reach("delivery.marked")
        self._results[batch.id].delivered += 1
        self._sender.send(
            events.Delivered(batch.id, batch.destination, parcel.instance, parcel.key, status, note, at)
        )
        reach("delivery.told")
        log.info(
            "Delivered instance=%s uid=%s destination=%s syntax=%s: %s",
            parcel.instance, parcel.sop_instance_uid, batch.destination, label(parcel.transfer_syntax_uid),
            f"{result.words}; {note}" if note else result.words,
        )  # fmt: skip

    def _mark(self, batch: DeliverBatch, parcel: Parcel, status: int, note: str, at: float) -> None:
        """Mark it delivered; where the disk is full, wait for room: without the mark it is sent again."""
        until = time.monotonic() + MARK_WITHIN
        told = False
        while True:
            try:
                self._mark_once(batch, parcel, status, note, at)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT} or time.monotonic() >= until:
                    raise
                if not told:
                    log.warning(
                        "NotMarked instance=%s destination=%s: %s; it is delivered, and marked if there is "
                        "room within %g s, else sent again",
                        parcel.instance, batch.destination, error.strerror, MARK_WITHIN,
                    )  # fmt: skip
                told = True
                time.sleep(0.05)
            else:
                return

    def _mark_once(self, batch: DeliverBatch, parcel: Parcel, status: int, note: str, at: float) -> None:
        departure = Departure(parcel.instance, batch.destination, status, parcel.key, at)
        if parcel.last and self._spool.depart(departure):
            return
        record = {
            "status": status,
            "transfer_syntax_uid": parcel.transfer_syntax_uid,
            "at": at,
            "why": parcel.why,
            "key": parcel.key,
        } | ({"note": note} if note else {})
        self._spool.mark_delivered(parcel.instance, batch.destination, record)

    def delivered_before(self, batch: DeliverBatch, parcel: Parcel) -> bool:
        """Whether the object is marked delivered; its event is then sent again."""
        marker = self._spool.marker(parcel.instance, "delivered", batch.destination)
        if marker is None:
            return False
        key, status = marker.get("key"), marker["status"]
        note, at = marker.get("note", ""), marker.get("at")
        self._results[batch.id].before += 1
        self._sender.send(
            events.Delivered(batch.id, batch.destination, parcel.instance, key, status, note, at)
        )
        return True

    def refused(self, batch: DeliverBatch, parcel: Parcel, status: int | None, result: Outcome) -> None:
        """The destination has refused the object: count the attempt."""
        attempts = self._spool.add_attempt(parcel.instance, batch.destination)
        final = result.disposition is Disposition.REFUSED
        short = f"0x{status:04X}" if status is not None else result.words.partition(":")[0]
        self._results[batch.id].refused[short] += 1
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
            "Refused instance=%s uid=%s destination=%s attempts=%d: %s",
            parcel.instance, parcel.sop_instance_uid, batch.destination, attempts, result.words,
        )  # fmt: skip

    def unreachable(
        self,
        batch: DeliverBatch | ProbeBatch,
        reason: str,
        instance: str | None = None,
        broke_off: bool = False,
        status: int | None = None,
    ) -> None:
        """The batch has ended early for `reason`; all others as in the event."""
        self._results[batch.id].ended_by = f"unreachable: {reason}"
        self._sender.send(
            events.Unreachable(batch.id, batch.destination, reason, instance, broke_off, status)
        )
        over = f" instance={instance}" if instance else ""
        log.warning("Unreachable destination=%s batch=%s%s: %s", batch.destination, batch.id, over, reason)

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
        if probe:
            taken = sum(map(len, answer.values()))
            words = f"answers; accepts {taken} transfer syntaxes of {len(answer)} SOP classes"
            self._results[batch.id].accepted = words
        self._sender.send(events.Learned(batch.id, batch.destination, answer, probe=probe))
