"""More connections, associations and bytes than ingest takes at once: it stays small and serves on."""

import re
import resource
import select
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dicomferry.spool.spool import Spool
from tests.support.peers.dcmtk import serves
from tests.support.peers.raw import (
    AC,
    CT,
    RELEASE_RP,
    RELEASE_RQ,
    RJ,
    RQ,
    Raw,
    association_request,
    data_set,
    p_data,
    pdu,
    store_request,
)
from tests.support.running.processes import wait_until
from tests.support.stages.ingesting import IngestProcess, leftovers

J2K = "1.2.840.10008.1.2.4.90"


def threads(part: IngestProcess) -> int:
    return status_of(part, "Threads")


def status_of(part: IngestProcess, key: str) -> int:
    text = Path(f"/proc/{part.process.pid}/status").read_text()
    found = re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


@pytest.fixture
def part(tmp_path: Path) -> Iterator[IngestProcess]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    running = IngestProcess(tmp_path / "part", ingest={"max_associations_per_host": 100})
    yield running
    running.stop()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_of_500_associations_at_once_as_many_as_allowed_are_served_and_the_others_told(
    part: IngestProcess, tmp_path: Path
) -> None:
    serves(part.port, tmp_path / "before")
    memory = status_of(part, "VmHWM")
    with ExitStack() as stack:
        peers = [stack.enter_context(Raw(part.port)) for _ in range(500)]
        for peer in peers:
            peer.send(pdu(RQ, association_request()))
        answers = [peer.read() for peer in peers]
        accepted = [peer for peer, (kind, _) in zip(peers, answers, strict=True) if kind == AC]
        told = [content for kind, content in answers if kind == RJ]
        assert len(accepted) == 100  # the default of max_associations
        assert told == [b"\0\2\3\2"] * 400
        for number, peer in enumerate(accepted):
            uid = f"1.2.500.{number}".encode()
            assert peer.store(uid, data_set(uid, pixels=100_000)) == 0x0000
        for peer in accepted:
            peer.send(pdu(RELEASE_RQ, bytes(4)))
            assert peer.read() == (RELEASE_RP, bytes(4))
    wait_until(lambda: threads(part) < 10, "the threads to end")
    assert status_of(part, "VmHWM") - memory < 150_000
    for number in range(3):
        serves(part.port, tmp_path / f"after-{number}")
    assert leftovers(Spool(tmp_path / "part/spool")) == []


def test_a_flood_of_silent_connections_keeps_nobody_out(part: IngestProcess, tmp_path: Path) -> None:
    with ExitStack() as stack:
        flood = [stack.enter_context(Raw(part.port)) for _ in range(700)]
        serves(part.port, tmp_path / "meanwhile")
        wait_until(lambda: threads(part) <= 520, "the oldest to be closed")
        ended, _, _ = select.select([peer.sock for peer in flood[:100]], [], [], 10)
        assert ended  # those that have waited longest
        assert not select.select([peer.sock for peer in flood[-100:]], [], [], 0)[0]
    wait_until(lambda: threads(part) < 10, "the threads to end")
    serves(part.port, tmp_path / "after")


@pytest.mark.large
def test_an_object_of_10_gb_is_received_in_bounded_memory(part: IngestProcess, tmp_path: Path) -> None:
    """One of 300 MB is in tests/contract/ingest/dimse/test_association.py."""
    serves(part.port, tmp_path / "before")
    memory = status_of(part, "VmHWM")
    uid, piece, pieces = b"1.2.10000", 1 << 30, 10
    head = data_set(uid, pixels=0)[:-12] + struct.pack("<HH2sxxI", 0x7FE0, 0x0010, b"OB", 0xFFFFFFFF)
    tag = struct.Struct("<HHI").pack
    block = bytes(120_000)
    with Raw.associated(part.port, (1, CT, J2K)) as peer:
        peer.send(p_data(1, 3, store_request(uid)), p_data(1, 0, head + tag(0xFFFE, 0xE000, 0)))
        for _ in range(pieces):
            peer.send(p_data(1, 0, tag(0xFFFE, 0xE000, piece)))
            for at in range(0, piece, len(block)):
                peer.send(p_data(1, 0, block[: piece - at]))
        peer.send(p_data(1, 2, tag(0xFFFE, 0xE0DD, 0)))
        peer.sock.settimeout(250)
        assert peer.status() == 0x0000
    assert status_of(part, "VmHWM") - memory < 40_000
    received = max((tmp_path / "part/spool/instances").glob("*/*.dcm"), key=lambda p: p.stat().st_size)
    assert received.stat().st_size > piece * pieces
    received.unlink()
