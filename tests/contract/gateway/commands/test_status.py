"""`status` fits its terminal, speaks in plain words, and says what needs a person."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dicomferry.messages.events import CallerRejected
from dicomferry.settings import Ingest, Settings
from dicomferry.spool.spool import Spool
from dispatcher.arrivals import Arrivals
from gateway.commands import words
from gateway.commands.dead_list import print_dead_list
from gateway.commands.selection import Filter, dead
from gateway.commands.status import check_status, print_status
from tests.support.images.files import shipped
from tests.support.stages.spools import a_spool, put

NAME = "radiology-reading-room-third-floor"
REASON = "connection refused by the destination, at the address that the configuration has for it"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        spool=tmp_path,
        ae=[{"title": "FERRY"}],
        destination=[{"name": n, "title": "WS", "host": "127.0.0.1", "port": 104} for n in ("a", NAME)],
        route=[{"to": ["a", NAME]}],
    )


@pytest.fixture
def spool(settings: Settings) -> Spool:
    return a_spool(settings.spool)


def lane(name: str, **keys: Any) -> dict[str, Any]:
    usual = {"title": "WS", "address": "127.0.0.1:104", "circuit": "closed", "reason": "", "since": None}
    counts = dict.fromkeys(("pending", "rendering", "ready", "sending", "delivered", "dead"), 0)
    return {"destination": name, "probe_at": None} | usual | counts | keys


def show(spool: Spool, *lanes: dict[str, Any], **keys: Any) -> None:
    """Have the dispatcher's snapshot say so."""
    counts = dict.fromkeys(("instances", "parked", "quarantined", "batches", "orders"), 0)
    now = time.time()
    spool.write_status({"at": now, "read_at": now, "redis": True, "lanes": lanes} | counts | keys)


def away(name: str, seconds: float) -> dict[str, Any]:
    now = time.time()
    return lane(name, circuit="open", reason=REASON, since=now - seconds, probe_at=now + 40, pending=10)


def test_it_says_which_destination_answers_and_since_when_another_does_not(
    settings: Settings, spool: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    show(spool, lane("a", delivered=1203), away(NAME, 7400))
    print_status(settings, as_json=False)
    said = capsys.readouterr().out.splitlines()
    (first,) = (line for line in said if line.startswith("a "))
    (second,) = (line for line in said if line.startswith(NAME) and "10" in line.split())
    assert first.split() == ["a", "0", "1203", "0", "answering"]
    assert "not answering since" in second
    assert "(2 h 3 min)" in second
    assert f"{REASON}; asks again in" in second, "a pipe gets whole lines"


def test_at_80_columns_no_name_is_broken_and_no_line_is_longer(
    settings: Settings, spool: Spool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("status", "dead_list"):
        monkeypatch.setattr(f"gateway.commands.{module}.width", lambda: 80)
    show(spool, lane("a", dead=1), away(NAME, 7400), quarantined=3)
    print_status(settings, as_json=False)
    instance = put(spool, shipped("MR_small.dcm"), NAME)
    spool.mark_dead(instance.id, NAME, {"reason": REASON * 2, "status": 0xC000, "attempts": 5, "at": 1.0})
    print_dead_list(dead(spool, Filter(), time.time()), as_json=False)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert said.count(NAME) >= 2
    assert instance.sop_instance_uid in said
    assert instance.study_instance_uid in said


@pytest.mark.parametrize(
    ("lanes", "keys", "concern"),
    [
        ([lane("a")], {}, None),
        ([20], {}, None),
        ([1000], {}, "a is not answering since"),
        ([lane("a", dead=2)], {}, "2 dead deliveries"),
        ([lane("a")], {"quarantined": 1}, "1 in quarantine"),
        ([lane("a")], {"redis": False}, "Redis does not answer"),
        ([lane("a")], {"orders": 1}, "1 order not carried out"),
        ([lane("gone", title="(not in the configuration)", pending=4)], {}, "no such destination"),
        ([lane("a")], {"at": 1.0}, "No dispatcher runs"),
    ],
)
def test_check_names_what_needs_a_person_and_nothing_else(  # noqa: PLR0917
    settings: Settings,
    spool: Spool,
    capsys: pytest.CaptureFixture[str],
    lanes: list[Any],
    keys: dict[str, Any],
    concern: str | None,
) -> None:
    # A number: so many seconds away, counted from now.
    show(spool, *(away("a", lane) if isinstance(lane, int) else lane for lane in lanes), **keys)
    well = check_status(settings)
    said = capsys.readouterr().out
    if concern is None:
        assert (well, said) == (True, "")
    else:
        assert not well
        assert len(said.splitlines()) == 1
        assert concern in said


def test_check_says_that_the_disk_is_too_full_to_receive(
    settings: Settings, spool: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    show(spool, lane("a"))
    full = settings.model_copy(update={"ingest": Ingest(min_free_mb=1_000_000_000)})
    assert not check_status(full)
    (said,) = capsys.readouterr().out.splitlines()
    assert "MB left, wants 1000000000 (ingest.min_free_mb): until there is room, senders are rejected" in said
    assert check_status(settings)


def test_the_last_arrival_and_rejected_callers_are_shown(
    settings: Settings, spool: Spool, capsys: pytest.CaptureFixture[str]
) -> None:
    arrivals, now = Arrivals(), time.time()
    arrivals.received(now - 65)
    arrivals.received(now - 300)
    for number in range(9):
        event = CallerRejected(f"CT{number}", "FERRY", "10.0.0.9", "is not one of callers")
        arrivals.rejected(event, now - 20)
    show(spool, lane("a"), **arrivals.snapshot(now))
    print_status(settings, as_json=False)
    said = capsys.readouterr().out
    assert "last received: 1 min 5 s ago" in said
    assert "CT8 at 10.0.0.9 calling FERRY: is not one of callers" in said
    assert "CT0 " not in said, "the latest alone"
    print_status(settings, as_json=True)
    assert len(json.loads(capsys.readouterr().out)["rejected"]) == 5


def test_times_and_plurals_read_well() -> None:
    assert words.counted(2, "batch") == "2 batches"
    assert words.counted(2, "dead delivery") == "2 dead deliveries"
    assert words.lasting(7400) == "2 h 3 min"
    rows = [("a", "b c d e f"), ("aaa", "x")]
    assert words.aligned(rows, None) == ["a    b c d e f", "aaa  x"]
    assert words.aligned(rows, 13) == ["a", "    b c d e f", "aaa  x"]
    assert words.wrapped(f"see {NAME} there", 30).split("\n") == ["see", NAME, "there"], "never broken"
    assert words.aligned([("a", "word " * 8)], 36) == ["a  word word word word word word", "   word word"]
