import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from dispatcher.history import History, Row, lines_of

DAY = 86_400.0
NOW = 1_800_000_000.0
LONG_AGO = NOW - 100 * DAY

# The tables of 0.1.0.
TABLES_OF_0_1_0 = """
CREATE TABLE history (
    at REAL, instance TEXT, sop_instance_uid TEXT, what TEXT, destination TEXT, words TEXT
);
CREATE UNIQUE INDEX received_once ON history (instance) WHERE what = 'received';
CREATE INDEX by_sop_instance_uid ON history (sop_instance_uid);
CREATE INDEX by_what ON history (what, destination);
"""


def row(number: int, what: str = "delivered", at: float = NOW, destination: str = "ws1") -> Row:
    return Row(at, f"id{number}", f"1.2.{number}", what, destination, "as received")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


def test_totals_outlive_the_lines_that_they_count_and_a_restart(path: Path) -> None:
    history = History(path, keep=DAY)
    history.write([row(1, at=LONG_AGO), row(2, at=LONG_AGO), row(3, destination="ws2")])
    history.prune(NOW)
    history.close()
    assert lines_of(path, "1.2.1") == []
    assert History(path, keep=DAY).delivered_counts() == {"ws1": 2, "ws2": 1}


def test_a_delivery_that_is_told_once_more_counts_once_and_one_that_is_repeated_counts_again(
    path: Path,
) -> None:
    history = History(path, keep=DAY)
    history.write([row(1, at=NOW), row(1, at=NOW), row(1, at=NOW, destination="ws2")])
    history.write([row(1, at=NOW - 1)])  # its marker, where its line has the time of the event
    assert history.delivered_counts() == {"ws1": 1, "ws2": 1}
    history.write([row(1, at=NOW + 60), row(2)])  # resent
    assert history.delivered_counts() == {"ws1": 3, "ws2": 1}


def test_lines_are_kept_for_so_long_and_no_longer(path: Path) -> None:
    history = History(path, keep=90 * DAY)
    history.write([row(1, at=NOW - 91 * DAY), row(2, at=NOW - 89 * DAY)])
    history.prune(NOW)
    assert lines_of(path, "1.2.1") == []
    assert lines_of(path, "1.2.2") == [row(2, at=NOW - 89 * DAY)]


def test_a_step_deletes_few_lines_and_steps_delete_all(path: Path) -> None:
    history = History(path, keep=DAY)
    history.write([row(5000), *(row(number, at=LONG_AGO) for number in range(5000))])
    history.prune(NOW)
    left = lines(path)
    assert 4000 < left < 5000
    for _ in range(10):
        history.prune(NOW)
    assert lines(path) == 1


def test_what_was_written_lately_of_long_ago_does_not_take_newer_lines_along(path: Path) -> None:
    # An instance that was received long ago and is pending is noted again where the file had been deleted.
    history = History(path, keep=DAY)
    history.write([row(1), row(2, "received", at=LONG_AGO), row(3)])
    history.prune(NOW)
    assert [len(lines_of(path, f"1.2.{number}")) for number in (1, 2, 3)] == [1, 0, 1]


def test_a_clock_that_is_wrong_deletes_nothing(path: Path) -> None:
    history = History(path, keep=DAY)
    history.write([row(1, at=NOW - 10), row(2, at=NOW)])
    for wrong in (0.0, NOW - 400 * DAY, NOW + 4000 * DAY):
        history.prune(wrong)
        assert lines(path) == 2, wrong


def test_lines_of_a_clock_that_was_far_ahead_stay_and_keep_no_others(path: Path) -> None:
    history = History(path, keep=DAY)
    history.write([row(1, at=NOW + 3650 * DAY), *(row(n, at=LONG_AGO) for n in range(2, 1000)), row(1000)])
    for step in range(4):
        history.prune(NOW + 61 * step)
    assert lines(path) == 2


def test_what_0_1_0_appends_after_a_downgrade_is_counted_too(path: Path) -> None:
    history = History(path, keep=DAY)
    history.write([row(1, at=LONG_AGO), row(2)])
    history.prune(NOW)
    history.close()
    with sqlite3.connect(path) as database:
        database.execute(
            "INSERT INTO history (at, instance, sop_instance_uid, what, destination, words)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            row(3)[:6],
        )
    database.close()
    for _ in "twice":
        history = History(path, keep=DAY)
        assert history.delivered_counts() == {"ws1": 3}
        history.close()


def test_received_is_noted_once_an_instance(path: Path) -> None:
    history = History(path, keep=DAY)
    history.write([row(1, "received")])
    history.write([row(1, "received"), row(1)])
    assert [line[3] for line in lines_of(path, "1.2.1")] == ["received", "delivered"]


def test_a_start_costs_the_same_however_long_the_history_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cost(path: Path, count: int) -> int:
        """Steps of SQLite's virtual machine that a start takes with so many lines."""
        history = History(path, keep=DAY)
        history.write([row(number) for number in range(count)])
        history.close()
        steps = Steps(monkeypatch)
        history = History(path, keep=DAY)
        history.delivered_counts()
        history.prune(NOW)
        history.close()
        return steps.taken

    few, many = cost(tmp_path / "few.sqlite", 1000), cost(tmp_path / "many.sqlite", 100_000)
    assert 0 < many < 2 * few


def test_a_history_of_0_1_0_is_read_and_counted(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.executescript(TABLES_OF_0_1_0)
        rows = [row(1, "received"), row(1), row(2), row(2, destination="ws2"), row(3, "dead")]
        database.executemany("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?)", [r[:6] for r in rows])
    database.close()
    for _ in "twice":
        history = History(path, keep=DAY)
        assert history.delivered_counts() == {"ws1": 2, "ws2": 1}
        history.close()
    assert lines_of(path, "1.2.1") == [row(1, "received"), row(1)]
    history = History(path, keep=DAY)
    history.write([row(4)])
    assert history.delivered_counts()["ws1"] == 3


def test_a_damaged_history_is_set_aside(path: Path) -> None:
    path.write_bytes(b"no database, but long enough to look like one" * 100)
    history = History(path, keep=DAY)
    history.write([row(1)])
    assert lines_of(path, "1.2.1") == [row(1)]
    assert path.with_suffix(".damaged").exists()


class Steps:
    """Counts what SQLite does on connections that are opened from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken = 0
        monkeypatch.undo()
        connect: Callable[..., sqlite3.Connection] = sqlite3.connect

        def counted(*args: object, **others: object) -> sqlite3.Connection:
            database = connect(*args, **others)
            database.set_progress_handler(self._count, 10)
            return database

        monkeypatch.setattr(sqlite3, "connect", counted)

    def _count(self) -> int:
        self.taken += 1
        return 0


def lines(path: Path) -> int:
    with sqlite3.connect(path) as database:
        return int(database.execute("SELECT count(*) FROM history").fetchone()[0])
