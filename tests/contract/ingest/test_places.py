"""Who gets one of ingest's places for associations, over real connections from several addresses."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ingest import admission
from tests.support.peers.raw import (
    ABORT,
    AC,
    HERE,
    RJ,
    From,
    data_set,
    p_data,
    store_request,
)
from tests.support.running.processes import wait_until
from tests.support.stages.ingesting import Ingest, an_ingest

LOCAL_LIMIT_EXCEEDED = (RJ, b"\0\2\3\2")  # transient, service provider (presentation): PS3.8 9.3.4
THERE = "127.0.0.2"
QUICKLY = 0.3  # seconds after which a silent association may have to give way here


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "SILENT_LONG", 3600.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "SILENT_LONG", QUICKLY)


@contextmanager
def serving(folder: Path, **tables: Any) -> Iterator[tuple[Ingest, ExitStack]]:
    with an_ingest(folder, **tables) as ingest, ExitStack() as stack:
        yield ingest, stack


@pytest.mark.usefixtures("patient")
def test_one_address_gets_its_share_and_others_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"max_associations": 4, "max_associations_per_host": 2}
    with serving(tmp_path, ingest=limits) as (ingest, stack):
        peers = [stack.enter_context(From(ingest.port)) for _ in range(3)]
        assert [peer.ask() for peer in peers] == [(AC, b""), (AC, b""), LOCAL_LIMIT_EXCEEDED]
        line = next(r.getMessage() for r in caplog.records if r.getMessage().startswith("Rejected"))
        assert f"at {HERE}" in line
        assert "ingest.max_associations_per_host" in line
        assert [stack.enter_context(From(ingest.port, THERE)).ask() for _ in range(2)] == [(AC, b"")] * 2
        assert stack.enter_context(From(ingest.port, "127.0.0.3")).ask() == LOCAL_LIMIT_EXCEEDED
        assert "4 associations stand already (ingest.max_associations)" in caplog.text
        peers[0].sock.close()
        wait_until(lambda: len(ingest.listener.connections()) < 5, "the place to be free")
        assert stack.enter_context(From(ingest.port)).ask() == (AC, b"")


@pytest.mark.usefixtures("patient")
def test_by_default_one_address_holds_a_quarter_of_the_places(tmp_path: Path) -> None:
    with serving(tmp_path) as (ingest, stack):
        answers = [stack.enter_context(From(ingest.port)).ask() for _ in range(26)]
        assert answers == [(AC, b"")] * 25 + [LOCAL_LIMIT_EXCEEDED]


@pytest.mark.usefixtures("impatient")
def test_who_was_silent_longest_gives_way_and_who_sends_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with serving(tmp_path, ingest={"max_associations": 3}) as (ingest, stack):
        sender, eldest, younger = (stack.enter_context(From(ingest.port)) for _ in range(3))
        for peer in (sender, eldest, younger):
            assert peer.ask()[0] == AC
        content = data_set(b"1.2.3", pixels=100_000)
        sender.send(p_data(1, 3, store_request(b"1.2.3")), p_data(1, 0, content[:50_000]))
        time.sleep(QUICKLY / 2)
        assert younger.echo() == 0x0000
        wait_until(lambda: stack.enter_context(From(ingest.port, THERE)).ask()[0] == AC, "a place")
        assert eldest.read()[0] == ABORT
        wait_until(lambda: "silent longest" in caplog.text, "the log")
        time.sleep(QUICKLY)
        assert stack.enter_context(From(ingest.port, THERE)).ask()[0] == AC
        assert younger.read()[0] == ABORT
        sender.send(p_data(1, 2, content[50_000:]))
        assert sender.status() == 0x0000
    assert len(ingest.instances()) == 1


@pytest.mark.usefixtures("patient")
def test_strangers_leave_places_for_those_that_the_configuration_names(tmp_path: Path) -> None:
    titles = [{"title": "FERRY"}, {"title": "CLOSED", "callers": [{"title": "PACS", "host": HERE}]}]
    with serving(tmp_path, ingest={"max_associations": 4}, ae=titles) as (ingest, stack):
        strangers = [stack.enter_context(From(ingest.port, THERE)).ask() for _ in range(4)]
        assert strangers == [(AC, b"")] * 3 + [LOCAL_LIMIT_EXCEEDED]
        assert stack.enter_context(From(ingest.port, THERE)).ask(b"PACS") == LOCAL_LIMIT_EXCEEDED
        assert stack.enter_context(From(ingest.port)).ask(b"PACS", b"CLOSED") == (AC, b"")


@pytest.mark.usefixtures("impatient")
def test_a_caller_that_holds_every_place_with_an_echo_now_and_then_keeps_nobody_out(tmp_path: Path) -> None:
    with serving(tmp_path, ingest={"max_associations": 5, "max_associations_per_host": 5}) as (ingest, stack):
        holders = [stack.enter_context(From(ingest.port)) for _ in range(5)]
        assert [peer.ask()[0] for peer in holders] == [AC] * 5
        time.sleep(2 * QUICKLY)
        assert [peer.echo() for peer in holders] == [0x0000] * 5
        time.sleep(QUICKLY)
        peer = stack.enter_context(From(ingest.port, THERE))
        assert peer.ask()[0] == AC
        assert peer.store(b"1.2.3") == 0x0000
