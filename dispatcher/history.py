"""History for people: what happened to each instance, in SQLite, for so long as it is kept.

The dispatcher alone writes it. It is never the truth and may be deleted at any time. It grows by some lines
for each instance, and no step takes longer the more there are: totals have a table of their own, and what is
too old is deleted a few lines at a time.
"""

import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

log = logging.getLogger(__name__)

_PRUNED_AT_ONCE = 500  # lines: some milliseconds
_PRUNE_EVERY = 60.0  # seconds between looks for old lines, where the last look found no more
_WRONG_CLOCK = 400 * 86_400.0  # seconds after the latest line: then the clock is wrong, and nothing expires
_VERSION = 1  # of the tables, as PRAGMA user_version; 0: nothing yet, or the tables of 0.1.0
_TABLES = """
CREATE TABLE IF NOT EXISTS history (
    at REAL, instance TEXT, sop_instance_uid TEXT, what TEXT, destination TEXT, words TEXT
);
ALTER TABLE history ADD COLUMN study TEXT;
ALTER TABLE history ADD COLUMN series TEXT;
CREATE UNIQUE INDEX IF NOT EXISTS received_once ON history (instance) WHERE what = 'received';
CREATE INDEX IF NOT EXISTS by_sop_instance_uid ON history (sop_instance_uid);
CREATE INDEX by_time ON history (at);
CREATE INDEX by_study ON history (study) WHERE what = 'received';
CREATE INDEX by_series ON history (series) WHERE what = 'received';
CREATE INDEX of_lanes ON history (destination, at) WHERE instance = '';
CREATE TABLE totals (destination TEXT PRIMARY KEY, delivered INTEGER NOT NULL);
CREATE TABLE counted (last INTEGER NOT NULL);
INSERT INTO counted VALUES (0);
DROP INDEX IF EXISTS by_what;
"""
# Of lines that are not counted yet: those of 0.1.0, which knows no totals.
_COUNT = """
INSERT INTO totals
    SELECT destination, count(*) FROM history
    WHERE rowid > (SELECT last FROM counted) AND what = 'delivered' GROUP BY destination
    ON CONFLICT DO UPDATE SET delivered = delivered + excluded.delivered;
UPDATE counted SET last = max(last, (SELECT coalesce(max(rowid), 0) FROM history));
"""
# A delivery that is told once more has the time of its marker, which is not later than the line's.
_INSERT = """
INSERT OR IGNORE INTO history SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
WHERE ?4 != 'delivered' OR NOT EXISTS (
    SELECT 1 FROM history
    WHERE sop_instance_uid = ?3 AND instance = ?2 AND destination = ?5 AND what = 'delivered' AND at >= ?1
)
"""
_COLUMNS = "at, instance, sop_instance_uid, what, destination, words"


class Row(NamedTuple):
    """A line: what happened to an instance, or to a lane, where `instance` is empty."""

    at: float  # seconds since the epoch
    instance: str
    sop_instance_uid: str
    what: str
    destination: str
    words: str
    study: str | None = None  # Study and Series Instance UID, of "received" alone
    series: str | None = None


class History:
    """The one writer."""

    def __init__(self, path: Path, keep: float) -> None:
        """Open or make the file at `path`; a damaged one is set aside. Lines are kept for `keep` seconds."""
        self._keep = keep
        self._pruned_at = float("-inf")  # when a look found no more
        try:
            self._database = _opened(path)
        except sqlite3.DatabaseError:
            path.replace(path.with_suffix(".damaged"))
            self._database = _opened(path)

    def write(self, rows: Sequence[Row]) -> None:
        """Append lines, all in one transaction.

        A second "received" of an instance is ignored, and so is a "delivered" that is there already: an event
        and a marker may both tell of it.
        """
        with self._database:
            self._database.executemany(_INSERT, rows)
            for statement in _COUNT.split(";"):
                self._database.execute(statement)

    def keeps(self, at: float, now: float) -> bool:
        """Whether lines of that age are kept at `now`; both in seconds since the epoch."""
        return at >= now - self._keep

    def prune(self, now: float) -> None:
        """Delete a few of the lines that have been kept long enough at `now`, seconds since the epoch."""
        if 0 <= now - self._pruned_at < _PRUNE_EVERY:
            return
        latest = self._database.execute("SELECT max(at) FROM history").fetchone()[0] or now
        expired = "SELECT rowid FROM history WHERE at < ? ORDER BY at LIMIT ?"
        with self._database:
            deleted = self._database.execute(
                f"DELETE FROM history WHERE rowid IN ({expired})",  # noqa: S608
                (now - self._keep if now - latest < _WRONG_CLOCK else 0.0, _PRUNED_AT_ONCE),
            )
        if deleted.rowcount < _PRUNED_AT_ONCE:
            self._pruned_at = now

    def delivered_counts(self) -> dict[str, int]:
        """How many deliveries each destination has had since this file was made."""
        return dict(self._database.execute("SELECT destination, delivered FROM totals"))

    def last_received_at(self) -> float | None:
        """When an instance came last, seconds since the epoch; None if the latest lines do not tell."""
        latest = "SELECT at, what FROM history ORDER BY rowid DESC LIMIT 1000"
        query = f"SELECT max(at) FROM ({latest}) WHERE what = 'received'"  # noqa: S608
        at: float | None = self._database.execute(query).fetchone()[0]
        return at

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def _opened(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    # Readers never block us, and a power cut may cost the last lines: they are for people.
    database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;")
    if database.execute("PRAGMA user_version").fetchone()[0] < _VERSION:
        database.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={_VERSION}; COMMIT;")
    database.executescript(f"BEGIN; {_COUNT} COMMIT;")
    return database


def lines_of(path: Path, sop_instance_uid: str) -> list[Row]:
    """What the history at `path` says of a SOP instance, oldest first; nothing where there is no history."""
    return _rows(path, "sop_instance_uid = ? ORDER BY rowid", sop_instance_uid)


def received_in(path: Path, level: Literal["study", "series"], uid: str, most: int) -> list[Row]:
    """The "received" lines of a study or a series, oldest first, `most` at the most."""
    return _rows(path, f"what = 'received' AND {level} = ? ORDER BY rowid LIMIT ?", uid, most)


def received_as(path: Path, prefix: str, most: int) -> list[Row]:
    """The "received" lines of instances whose id begins with `prefix`, `most` at the most."""
    condition = "what = 'received' AND instance >= ? AND instance < ? ORDER BY instance LIMIT ?"
    return _rows(path, condition, prefix, prefix + "g", most)  # ids are hexadecimal


def lines_of_lane(path: Path, destination: str, since: float, until: float, most: int) -> list[Row]:
    """When a destination stopped answering and answered again in that time; the latest, oldest first."""
    condition = "instance = '' AND destination = ? AND at BETWEEN ? AND ? ORDER BY at DESC LIMIT ?"
    return _rows(path, condition, destination, since, until, most)[::-1]


def _rows(path: Path, condition: str, *values: object) -> list[Row]:
    if not path.exists():
        return []
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = f"SELECT {_COLUMNS} FROM history WHERE {condition}"  # noqa: S608  the conditions are ours
        return [Row(*row) for row in database.execute(query, values)]
    except sqlite3.OperationalError:  # made this instant, no table yet; or 0.1.0 wrote it
        return []
    finally:
        database.close()
