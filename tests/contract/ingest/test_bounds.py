"""What ingest keeps of objects that are too large, or that cannot be read: bounded, answered, told."""

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from gateway.commands import quarantine
from gateway.commands.selection import Filter
from gateway.commands.status import print_status
from ingest.dimse import commands
from tests.support.peers.raw import P_DATA, Raw, data_set, p_data, store_request
from tests.support.stages.ingesting import Ingest, an_ingest

MB = 1_000_000


def damaged(number: int, size: int = 1000) -> tuple[bytes, bytes]:
    """A UID, and a data set of that name that ends early."""
    uid = f"1.2.{number}".encode()
    return uid, data_set(uid, pixels=size)[:-10]


def comment(peer: Raw) -> tuple[int, str]:
    """Status and Error Comment of the response that comes next."""
    kind, content = peer.read()
    assert kind == P_DATA
    found: dict[int, bytes] = {}
    at = 6
    while at < len(content):
        element, length = int.from_bytes(content[at + 2 : at + 4], "little"), content[at + 4]
        found[element] = content[at + 8 : at + 8 + length]
        at += 8 + length
    return int.from_bytes(found[0x0900], "little"), found.get(0x0902, b"").decode()


def told(ingest: Ingest) -> str:
    with redirect_stdout(StringIO()) as text:
        print_status(ingest.settings, as_json=False)
    return text.getvalue()


def test_a_full_quarantine_refuses_the_next_for_now_and_takes_it_when_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        an_ingest(tmp_path, ingest={"quarantine_max_count": 2}) as ingest,
        Raw.associated(ingest.port) as peer,
    ):
        assert [peer.store(*damaged(number)) for number in range(2)] == [0xC000, 0xC000]
        uid, content = damaged(3)
        peer.send(p_data(1, 3, store_request(uid)), p_data(1, 2, content))
        assert comment(peer) == (0xA700, "not kept: ingest.quarantine_max_count is reached")
        assert ingest.leftovers() == []
        assert len(list(ingest.spool.quarantine.iterdir())) == 2
        line = next(r.getMessage() for r in caplog.records if "QuarantineFull" in r.getMessage())
        assert "1.2.3" in line
        assert "ends early" in line
        assert "ingest.quarantine_max_count" in line
        assert "the quarantine holds 2 of 2 ([ingest] quarantine_max_count)" in told(ingest)
        assert peer.store(b"1.2.9", data_set(b"1.2.9")) == 0x0000  # what can be read is taken
        first, _ = quarantine.select(ingest.settings, Filter(), "")
        quarantine.discard(ingest.settings, [first], yes=True)
        assert [peer.store(*damaged(number)) for number in (4, 5)] == [0xC000, 0xA700]


def test_the_quarantine_is_bounded_in_bytes_too_with_what_an_earlier_run_kept(tmp_path: Path) -> None:
    bounds = {"quarantine_max_mb": 1}
    with an_ingest(tmp_path, ingest=bounds) as ingest, Raw.associated(ingest.port) as peer:
        assert [peer.store(*damaged(number, 400_000)) for number in range(3)] == [0xC000, 0xC000, 0xA700]
    with an_ingest(tmp_path, ingest=bounds) as ingest, Raw.associated(ingest.port) as peer:
        assert peer.store(*damaged(4, 400_000)) == 0xA700
        assert peer.store(*damaged(5, 100_000)) == 0xC000
        assert "([ingest] quarantine_max_mb)" in told(ingest)
        assert "3 objects (0.9 MB) in quarantine" in told(ingest)


def test_senders_at_once_do_not_pass_the_bound_together(tmp_path: Path) -> None:
    def send(number: int) -> list[int]:
        with Raw.associated(ingest.port) as peer:
            return [peer.store(*damaged(100 * number + turn)) for turn in range(5)]

    with an_ingest(tmp_path, ingest={"quarantine_max_count": 7}) as ingest:
        with ThreadPoolExecutor(4) as senders:
            statuses = [status for some in senders.map(send, range(4)) for status in some]
        assert sorted(statuses) == [0xA700] * 13 + [0xC000] * 7
        assert len(list(ingest.spool.quarantine.iterdir())) == 7


@pytest.mark.parametrize("readable", [True, False])
def test_an_object_that_grows_too_large_is_dropped_and_the_association_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, readable: bool
) -> None:
    caplog.set_level(logging.INFO)
    with an_ingest(tmp_path, ingest={"max_object_mb": 1}) as ingest, Raw.associated(ingest.port) as peer:
        content = data_set(b"1.2.3", pixels=3 * MB) if readable else bytes(3 * MB)
        peer.send(p_data(1, 3, store_request(b"1.2.3")))
        pieces = [content[at : at + 100_000] for at in range(0, len(content), 100_000)]
        for number, piece in enumerate(pieces, 1):
            peer.send(p_data(1, 2 if number == len(pieces) else 0, piece))
        status, words = comment(peer)
        assert status == 0xC002
        assert "ingest.max_object_mb" in words
        assert len(words) < commands._LONGEST_COMMENT
        assert ingest.leftovers() == []
        assert list(ingest.spool.quarantine.iterdir()) == []
        assert "Refused 1.2.3 0xC002" in caplog.text
        assert peer.store(b"1.2.4", data_set(b"1.2.4", pixels=MB - 1000)) == 0x0000
    assert len(ingest.instances()) == 1


def test_without_a_limit_an_object_may_have_any_size(tmp_path: Path) -> None:
    with an_ingest(tmp_path) as ingest, Raw.associated(ingest.port) as peer:
        assert peer.store(b"1.2.4", data_set(b"1.2.4", pixels=30_000)) == 0x0000
        assert ingest.settings.ingest.max_object_mb == 0
