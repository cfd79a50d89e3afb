"""One object that its destination cannot take: all others are delivered soon, and it is dead in the end."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicomferry.spool.spool import Spool
from tests.support.images.files import fresh_copies, uid_of
from tests.support.peers.dcmtk import send
from tests.support.peers.scps import orthanc, pynetdicom_scp
from tests.support.running.configuration import destination
from tests.support.running.processes import wait_until
from tests.support.running.site import Site

SILENCE = 5.0  # seconds: a stall of this machine, or of the others' peer, should not pass for it


def answers_a700(_: Any) -> int:
    return 0xA700


def is_silent(_: Any) -> int:
    time.sleep(2 * SILENCE)
    return 0x0000


def closes(event: Any) -> int:
    event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    return 0x0000


def aborts(event: Any) -> int:
    event.assoc.abort()
    return 0x0000


@pytest.mark.parametrize("fails", [answers_a700, is_silent, closes, aborts], ids=lambda f: f.__name__)
def test_an_object_that_its_destination_cannot_take_holds_up_nothing_and_is_dead_in_the_end(
    tmp_path: Path, fails: Callable[[Any], int]
) -> None:
    files = fresh_copies("CT_small.dcm", 11, tmp_path / "pacs")
    bad = uid_of(files[0])
    taken: list[str] = []
    tried: list[float] = []

    def answer(event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid == bad:
            tried.append(time.monotonic())
            return fails(event)
        taken.append(uid)
        return 0x0000

    with pynetdicom_scp(answer=answer) as peer:
        timeout = SILENCE if fails is is_silent else 60
        ws = destination("ws1", peer.port, timeout=timeout, max_attempts=3, retry_after=1)
        with Site(tmp_path / "site", ws) as site:
            assert send(site.port, files).returncode == 0
            wait_until(lambda: len(set(taken)) == 10, "the others", seconds=SILENCE + 30)
            wait_until(lambda: site.lane("ws1")["dead"] == 1, "the bad one to be dead", seconds=60)
            assert 3 <= len(tried) <= 6  # over an association that was kept, it may be tried twice
            assert sorted(taken) == sorted(map(uid_of, files[1:]))
            (instance,) = site.instances()
            assert Spool(site.spool).attempts(instance, "ws1") == 3
            told = site.command("explain", bad).stdout
            (dead,) = json.loads(site.command("dead", "list", "--json").stdout)
    words = {answers_a700: "out of resources (0xA700)", is_silent: "no answer (timeout)"}
    assert dead["reason"].startswith(words.get(fails, ""))
    assert "3 times; others are delivered" in dead["reason"]
    assert told.count("failed") >= 3


def test_orthanc_gets_all_but_the_object_that_it_cannot_store(tmp_path: Path) -> None:
    """It answers 0xA700 for an object without Study Instance UID."""
    files = fresh_copies("CT_small.dcm", 11, tmp_path / "pacs")
    bad = dcmread(files[0])
    del bad.StudyInstanceUID
    bad.save_as(files[0])
    with orthanc(tmp_path / "orthanc", "WS1") as (port, _):
        ws = destination("ws1", port, max_attempts=2, retry_after=1)
        with Site(tmp_path / "site", ws) as site:
            assert send(site.port, files).returncode == 0
            wait_until(lambda: site.lane("ws1")["delivered"] == 10, "the others", seconds=30)
            wait_until(lambda: site.lane("ws1")["dead"] == 1, "the bad one to be dead", seconds=30)
            (dead,) = json.loads(site.command("dead", "list", "--json").stdout)
    assert (dead["sop_instance_uid"], dead["status"]) == (uid_of(files[0]), 0xA700)
