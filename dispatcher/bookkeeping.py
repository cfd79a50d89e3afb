"""Keeps the books: writes what happened to the history, and removes instances whose history is written.

Both are done together, some of it at a time, so that no lane waits for its next batch.
"""

import errno
import logging
import math
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterable

from dicomferry.crashpoints import reach
from dicomferry.dicom.syntaxes import label
from dicomferry.spool import durable
from dicomferry.spool.departures import Departure
from dicomferry.spool.instance import Instance, State
from dicomferry.spool.spool import Spool
from dicomferry.text import shown
from dispatcher.commands import Note, received
from dispatcher.history import History, Row

log = logging.getLogger(__name__)

MAX_UNWRITTEN = 20_000  # lines of history that wait for room on the disk
MAX_UNREMOVED = 2000  # instances: beyond them removal has no time limit, so that a slow disk does not fill


class Bookkeeping:
    """What has ended and is not yet recorded or removed."""

    def __init__(self, spool: Spool, keep_history: float) -> None:
        self._spool = spool
        self._history = History(spool.history, keep_history)
        self._rows: list[Row] = []
        self._failing = False  # the history could not be written last time
        self._unrecorded: dict[str, None] = {}  # ids of retired instances whose history is not written
        self._unremoved: OrderedDict[str, None] = OrderedDict()

    def delivered_counts(self) -> dict[str, int]:
        """How many deliveries each destination has had."""
        return self._history.delivered_counts()

    def last_received_at(self) -> float | None:
        """When an instance came last, seconds since the epoch; None where the history does not tell."""
        return self._history.last_received_at()

    def note(self, note: Note) -> None:
        """Have a line written to the history."""
        self._rows.append(
            Row(
                note.at or time.time(),
                note.instance,
                note.sop_instance_uid,
                note.what,
                note.destination,
                shown(note.words),
                note.study,
                note.series,
            )
        )

    def recover(self, state: State) -> None:
        """Have the deliveries that markers tell of written to the history, where it lacks them.

        Their events were lost with a dispatcher that was killed. What is too old to be kept was written once.
        """
        found, now = state.instance, time.time()
        for name in sorted(state.delivered):
            marker = self._spool.marker(found.id, "delivered", name) or {}
            at = marker.get("at", 0.0)
            if self._history.keeps(at, now):
                words = f"as its marker says: {marker.get('why', '')}"
                self.note(Note(found.id, found.sop_instance_uid, "delivered", name, words, at))

    def recover_departed(self, found: Instance | None, departure: Departure) -> None:
        """The same for an instance that left the spool with its last delivery; it may be removed then."""
        if found is not None and self._history.keeps(departure.at, time.time()):
            uid = departure.key.rpartition("-")[0] if departure.key else found.transfer_syntax_uid
            words = f"{label(uid)}, status 0x{departure.status:04X}: as the name of its file said"
            self.note(received(found))
            name = departure.destination
            self.note(Note(found.id, found.sop_instance_uid, "delivered", name, words, departure.at))
        self.retire(departure.instance)

    def retire(self, instance: str) -> None:
        """Have an instance removed that every destination has."""
        self._unrecorded[instance] = None

    def __contains__(self, instance: object) -> bool:
        """Whether the instance waits to be removed."""
        return instance in self._unrecorded or instance in self._unremoved

    def write(self) -> bool:
        """Write the lines that wait, if any; where the disk is full the last of them go on waiting."""
        rows, self._rows = self._rows, []
        if rows:
            try:
                self._require_room()
                self._history.write(rows)
            except (sqlite3.Error, OSError) as error:
                self._rows = rows[-MAX_UNWRITTEN:]
                if not self._failing:  # once: it is tried again a few times a second
                    log.warning("HistoryNotWritten n=%d: %s; tried again until it is", len(rows), error)
                self._failing = True
                return False
            if self._failing:
                log.info("HistoryWritten n=%d", len(rows))
            self._failing = False
            reach("history.written")
        return bool(rows)

    def _require_room(self) -> None:
        """Raise OSError where the history would take the last of the disk, which markers need."""
        found = durable.free_room(self._spool.root)
        if found.bytes < durable.working_bytes(found.all_bytes) // 4:
            raise OSError(errno.ENOSPC, "the spool's disk is full")

    def record(self, now: float) -> bool:
        """Write the lines that wait, delete a few old ones; what was retired before may then be removed.

        Whether any line was written.
        """
        written = self.write()
        try:
            if not self._failing:
                self._history.prune(now)
        except sqlite3.Error as error:  # a full disk, say: old lines may stay
            log.warning("HistoryNotPruned: %s", error)
        self._unremoved |= self._unrecorded
        self._unrecorded = {}
        return written

    def remove(self, until: float = math.inf) -> Iterable[str]:
        """Remove recorded instances until then (monotonic); ids of those that are not done after all."""
        while self._unremoved and (time.monotonic() < until or len(self._unremoved) > MAX_UNREMOVED):
            instance, _ = self._unremoved.popitem(last=False)
            if not self._spool.retire(instance):
                yield instance

    def close(self) -> None:
        """Close the history."""
        self._history.close()
