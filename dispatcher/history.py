"""History for people: what happened to each instance, in SQLite.

The dispatcher alone writes it. It is never the truth and may be deleted at any time.
"""

import sqlite3
from collections.abc import Iterable
from pathlib import Path

_TABLE = """
CREATE TABLE IF NOT EXISTS history (
    at REAL, instance TEXT, sop_instance_uid TEXT, what TEXT, destination TEXT, words TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS received_once ON history (instance) WHERE what = 'received';
CREATE INDEX IF NOT EXISTS by_sop_instance_uid ON history (sop_instance_uid);
CREATE INDEX IF NOT EXISTS by_what ON history (what, destination);
"""

Row = tuple[float, str, str, str, str, str]  # as the columns above; `at` in seconds since the epoch


class History:
    """The one writer."""

    def __init__(self, path: Path) -> None:
        """Open or make the file at `path`; one that is damaged is set aside."""
        try:
            self._database = self._open(path)
        except sqlite3.DatabaseError:
            path.replace(path.with_suffix(".damaged"))
            self._database = self._open(path)

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path)
        # Readers never block us, and a power cut may cost the last lines: they are for people.
        database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;" + _TABLE)
        return database

    def write(self, rows: Iterable[Row]) -> None:
        """Append lines, all in one transaction; "received" counts once an instance, whoever restarts."""
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO history VALUES (?, ?, ?, ?, ?, ?)", rows)

    def delivered_counts(self) -> dict[str, int]:
        """How many deliveries each destination has on record."""
        query = "SELECT destination, count(*) FROM history WHERE what = 'delivered' GROUP BY destination"
        return dict(self._database.execute(query))

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def lines_of(path: Path, sop_instance_uid: str) -> list[Row]:
    """What the history at `path` says of a SOP instance, oldest first; nothing where there is no history."""
    if not path.exists():
        return []
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        query = "SELECT * FROM history WHERE sop_instance_uid = ? ORDER BY rowid"
        return list(database.execute(query, (sop_instance_uid,)))
    except sqlite3.OperationalError:  # made this instant, no table yet
        return []
    finally:
        database.close()
