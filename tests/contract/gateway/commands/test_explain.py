"""`explain` answers to every name that an operator has of an instance, and tells why it waits or waited."""

import time
from pathlib import Path
from typing import Any

import pytest

from dicomferry.settings import Settings
from dicomferry.spool.instance import Instance
from dicomferry.spool.spool import Spool
from dispatcher.history import History, Row
from gateway.commands.explain import explain
from gateway.commands.words import local_time
from tests.support.images.files import shipped
from tests.support.stages.spools import a_spool, put

DAY = 86_400.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        spool=tmp_path,
        ae=[{"title": "FERRY"}],
        destination=[{"name": "ws", "title": "WS1", "host": "127.0.0.1", "port": 104}],
        route=[{"to": ["ws"]}],
    )


@pytest.fixture
def spool(settings: Settings) -> Spool:
    return a_spool(settings.spool)


@pytest.fixture
def instance(spool: Spool) -> Instance:
    return put(spool, shipped("MR_small.dcm"), "ws")


def row(instance: Instance, at: float, what: str, destination: str = "", words: str = "") -> Row:
    of_received = (instance.study_instance_uid, instance.series_instance_uid) if what == "received" else ()
    return Row(at, instance.id, instance.sop_instance_uid, what, destination, words, *of_received)


def told(settings: Settings, what: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert explain(settings, what)
    return capsys.readouterr().out


@pytest.mark.parametrize("around", ["{}", " {}  ", "{}\n", "uid={},", "'{}'", "{}\0"])
def test_a_uid_is_found_however_it_was_copied(
    settings: Settings, instance: Instance, capsys: pytest.CaptureFixture[str], around: str
) -> None:
    said = told(settings, around.format(instance.sop_instance_uid), capsys)
    assert f"instance {instance.id} on the spool" in said


@pytest.mark.parametrize("digits", [8, 48])
def test_an_id_from_a_line_of_the_log_is_found(
    settings: Settings, instance: Instance, capsys: pytest.CaptureFixture[str], digits: int
) -> None:
    assert instance.sop_instance_uid in told(settings, instance.id[:digits], capsys)
    assert instance.sop_instance_uid in told(settings, f"instance={instance.id[:digits]}", capsys)


@pytest.mark.parametrize("level", ["study_instance_uid", "series_instance_uid"])
def test_a_study_or_a_series_lists_its_instances(
    settings: Settings, spool: Spool, instance: Instance, capsys: pytest.CaptureFixture[str], level: str
) -> None:
    other = put(spool, shipped("MR_small.dcm"), "ws")
    spool.mark_delivered(other.id, "ws", {"status": 0})
    lines = [line.split() for line in told(settings, getattr(instance, level), capsys).splitlines()]
    assert [instance.sop_instance_uid, "ws", "pending"] in lines
    assert [other.sop_instance_uid, "ws", "delivered"] in lines


def test_after_delivery_the_history_still_tells_of_sender_study_and_how_long_each_step_took(
    settings: Settings, spool: Spool, instance: Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    at = time.time() - DAY
    history = History(spool.history, 90 * DAY)
    history.write(
        [
            row(instance, at, "received", words="J2K, 1234 bytes, from PACS (10.0.0.5) to FERRY"),
            row(instance, at + 1.25, "delivered", "ws", "as received"),
        ]
    )
    spool.mark_delivered(instance.id, "ws", {"status": 0})
    assert spool.retire(instance.id)
    for what in (instance.sop_instance_uid, instance.id[:10]):
        said = told(settings, what, capsys)
        assert "from PACS (10.0.0.5) to FERRY" in said
        assert "1.250 s" in said
    for uid in (instance.study_instance_uid, instance.series_instance_uid):
        assert f"{instance.sop_instance_uid}  ws delivered" in told(settings, uid, capsys)


def test_it_tells_that_a_destination_did_not_answer_while_the_instance_waited(
    settings: Settings, spool: Spool, instance: Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    at = time.time() - 100
    history = History(spool.history, 90 * DAY)
    history.write(
        [
            Row(at - 5000, "", "", "not answering", "ws", "long ago, and over"),
            Row(at - 4000, "", "", "answering again", "ws", ""),
            Row(at - 50, "", "", "not answering", "ws", "connection refused"),
            row(instance, at, "received"),
            Row(at + 40, "", "", "answering again", "ws", ""),
            Row(at + 45, "", "", "not answering", "other", "not this one's"),
            row(instance, at + 41, "delivered", "ws"),
        ]
    )
    said = told(settings, instance.sop_instance_uid, capsys)
    assert "connection refused" in said
    assert "answering again" in said
    assert "long ago" not in said
    assert "not this one's" not in said


@pytest.mark.parametrize(
    ("lane", "why"),
    [
        (None, "ws: pending; no dispatcher runs"),
        ({"circuit": "closed", "pending": 3}, "ws: pending; WS1 is answering, 3 wait for it"),
        (
            {"circuit": "open", "reason": "connection refused", "pending": 3},
            "ws: pending; WS1 is not answering: connection refused; asks again in ",
        ),
        (
            {"circuit": "trial", "reason": "out of resources (0xA700)", "pending": 3},
            "ws: pending; WS1 is answering; it failed over an object, and one at a time is tried: out of",
        ),
    ],
)
def test_it_tells_why_something_waits(  # noqa: PLR0917
    settings: Settings,
    spool: Spool,
    instance: Instance,
    capsys: pytest.CaptureFixture[str],
    lane: dict[str, Any] | None,
    why: str,
) -> None:
    if lane is not None:
        # As fresh when a slow machine reads it.
        spool.write_status(
            {"at": time.time() + 3600, "lanes": [{"destination": "ws", "title": "WS1"} | lane]}
        )
    assert why in told(settings, instance.sop_instance_uid, capsys)
    spool.add_attempt(instance.id, "ws")
    assert "ws: pending, 1 failed attempt; " in told(settings, instance.sop_instance_uid, capsys)


def test_it_tells_what_a_pending_instance_waits_for_until_it_is_rendered(
    settings: Settings, spool: Spool, instance: Instance, capsys: pytest.CaptureFixture[str]
) -> None:
    history, at = History(spool.history, 90 * DAY), time.time() - 3600
    why = "waits for room on the spool's disk: no room for 50 MB"
    history.write([row(instance, at - 1, "received"), row(instance, at, "postponed", "ws", why)])
    assert f"ws: pending; no dispatcher runs; since {local_time(at)} it {why}" in told(
        settings, instance.sop_instance_uid, capsys
    )
    history.write([row(instance, at + 60, "rendered")])
    (line,) = [
        line for line in told(settings, instance.sop_instance_uid, capsys).splitlines() if "pending" in line
    ]
    assert line == "  ws: pending; no dispatcher runs"


@pytest.mark.parametrize("nothing", ["", "  ", "\n", "''", "uid=", "\0"])
def test_nothing_is_no_name_that_objects_without_a_uid_have(
    settings: Settings, spool: Spool, nothing: str
) -> None:
    History(spool.history, 90 * DAY).write([Row(1.0, "", "", "not answering", "ws", "off")])
    assert not explain(settings, nothing)


def test_what_is_asked_for_reaches_no_terminal_raw(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not explain(settings, "1.2\n2026-01-01 ERROR \x9b2J")
    said = capsys.readouterr().out
    assert said.removesuffix("\n").isprintable()


@pytest.mark.parametrize("what", ["1.2.3.4", "deadbeef", "", "no such thing", "[/b]"])
def test_what_is_not_known_is_said_to_be_unknown_and_where_it_was_looked_for(
    settings: Settings, spool: Spool, instance: Instance, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    del spool, instance
    assert not explain(settings, what)
    assert "not in the history, which is kept for 90 d (keep_history)" in capsys.readouterr().out
