"""The history on a disk that is full: nothing is forgotten, and the log says so once."""

import sqlite3
from pathlib import Path

import pytest

from dispatcher.bookkeeping import Bookkeeping
from dispatcher.commands import Note
from dispatcher.history import History, lines_of
from tests.support.stages.spools import a_spool


def test_a_full_disk_is_told_once_and_its_lines_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    spool = a_spool(tmp_path)
    books = Bookkeeping(spool, 90 * 86_400.0)

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as context:
        context.setattr(History, "write", full)
        for number in range(5):
            books.note(Note("f" * 48, f"1.2.{number}", "planned", "ws", "as received"))
            assert not books.write()
    assert [record.getMessage() for record in caplog.records] == [
        "HistoryNotWritten n=1: database or disk is full; tried again until it is"
    ]
    assert books.write()
    assert caplog.records[-1].getMessage() == "HistoryWritten n=5"
    books.close()
    assert all(lines_of(spool.history, f"1.2.{number}") for number in range(5))
