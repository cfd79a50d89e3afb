"""Ingest by itself, with nothing else alive, takes objects until the spool's low-water mark, no further."""

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from dicomferry.spool.spool import Spool
from tests.support.images.files import fresh_copies, shipped, uid_of
from tests.support.peers.dcmtk import send
from tests.support.peers.raw import (
    AC,
    RJ,
    RQ,
    Raw,
    association_request,
    data_set,
    p_data,
    pdu,
    store_request,
)
from tests.support.running.configuration import destination
from tests.support.running.mounts import small_file_system
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.running.services import program
from tests.support.stages.ingesting import IngestProcess, leftovers
from tests.support.stages.spools import instances_of

MB = 1_000_000
LOCAL_LIMIT_EXCEEDED = (RJ, b"\0\2\3\2")  # transient, service provider (presentation): PS3.8 9.3.4


class Alone(IngestProcess):
    """Ingest without Redis, dispatcher, worker and forwarder, on a file system of 32 MB."""

    def __init__(self, folder: Path, disk: Path, processes: int) -> None:
        self.spool = Spool(disk / "spool")
        self.filler = disk / "filler"
        nobody = free_port()
        super().__init__(
            folder,
            spool=str(self.spool.root),
            broker=f"redis://127.0.0.1:{nobody}/0",
            ingest={"min_free_mb": 10, "processes": processes},
            destination=[destination("ws1", nobody)],
        )

    def fill(self, left: int) -> None:
        """Leave so many bytes free."""
        self.filler.write_bytes(b"")
        self.filler.write_bytes(bytes(self.free() - left))

    def free(self) -> int:
        found = os.statvfs(self.spool.root)
        return found.f_bavail * found.f_frsize

    def answer(self) -> tuple[int, bytes]:
        """To a request for an association, which is dropped at once."""
        with Raw(self.port) as peer:
            peer.send(pdu(RQ, association_request()))
            return peer.read()

    def uids(self) -> list[str]:
        return [found.sop_instance_uid for found in instances_of(self.spool)]

    def leftovers(self) -> list[str]:
        return leftovers(self.spool)


@pytest.fixture(params=[1, 3], ids="{}-processes".format)
def alone(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Alone]:
    with small_file_system(tmp_path / "disk", 32 << 20) as disk:
        ingest = Alone(tmp_path, disk, request.param)
        yield ingest
        ingest.process.terminate()
        assert ingest.process.wait(80) == 0


def dcmtk(tool: str, port: int, *files: Path) -> "subprocess.CompletedProcess[str]":
    command = [program(tool), "-v", "-aet", "PACS", "-aec", "FERRY", "127.0.0.1", str(port), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_ingest_alone_takes_objects_until_the_mark_then_says_so_then_goes_on(
    alone: Alone, tmp_path: Path
) -> None:
    alone.fill(left=13 * MB)
    taken = []
    with Raw.associated(alone.port) as peer:
        status = 0
        while status == 0:
            uid = f"1.2.3.{len(taken)}"
            status = peer.store(uid.encode(), data_set(uid.encode(), pixels=50_000))
            taken += [uid] if status == 0 else []
            assert len(taken) < 500, "the mark is not heeded"
        assert status == 0xA700
        assert taken
        assert alone.free() > 8 * MB  # folders and records are not counted, so it is passed a little
        alone.fill(left=8 * MB)
        wait_until(lambda: alone.answer() == LOCAL_LIMIT_EXCEEDED, "the mark to be noticed")
        assert peer.store(b"1.2.4") == 0xA700
        assert peer.echo() == 0x0000  # the association that stands goes on
        assert alone.leftovers() == []

        files = fresh_copies("CT_small.dcm", 2, tmp_path / "sent")
        for tool in ("storescu", "dcmsend", "echoscu"):
            refused = dcmtk(tool, alone.port, *([] if tool == "echoscu" else files))
            assert refused.returncode != 0
            said = refused.stdout + refused.stderr
            assert ("Rejected" if tool == "dcmsend" else "Local Limit Exceeded") in said, said
        assert sorted(alone.uids()) == sorted(taken)

        alone.fill(left=20 * MB)
        wait_until(lambda: alone.answer()[0] == AC, "associations to be accepted again")
        assert peer.store(b"1.2.5", data_set(b"1.2.5")) == 0x0000  # in the association of before
    assert send(alone.port, files).returncode == 0
    assert dcmtk("storescu", alone.port, shipped("MR_small_implicit.dcm")).returncode == 0
    assert len(alone.uids()) == len(taken) + 4
    assert {uid_of(path) for path in files} <= set(alone.uids())


def test_an_object_that_passes_the_mark_while_it_arrives_is_answered_out_of_resources(alone: Alone) -> None:
    alone.fill(left=12 * MB)
    with Raw.associated(alone.port) as peer:
        content = data_set(b"1.2.3", pixels=1_000_000)
        peer.send(p_data(1, 3, store_request(b"1.2.3")), p_data(1, 0, content[:500_000]))
        wait_until(alone.leftovers, "the object to begin to arrive")
        alone.fill(left=5 * MB)
        wait_until(lambda: alone.answer() == LOCAL_LIMIT_EXCEEDED, "the mark to be noticed")
        peer.send(p_data(1, 2, content[500_000:]))
        assert peer.status() == 0xA700
        assert alone.leftovers() == []
        assert alone.uids() == []
        alone.fill(left=20 * MB)
        wait_until(lambda: alone.answer()[0] == AC, "associations to be accepted again")
        assert peer.store(b"1.2.3", content) == 0x0000
    assert alone.uids() == ["1.2.3"]


def test_what_is_answered_success_as_the_spool_fills_is_whole(alone: Alone) -> None:
    """Eight senders at once: the mark is passed while all of them send."""
    alone.fill(left=13 * MB)

    def send_all(peer: Raw, sender: int) -> list[str]:
        uids = [f"1.2.{sender}.{number}" for number in range(40)]
        return [uid for uid in uids if peer.store(uid.encode(), data_set(uid.encode(), pixels=100_000)) == 0]

    with ExitStack() as stack:
        # All of them first: who comes when the mark is passed gets no association.
        peers = [stack.enter_context(Raw.associated(alone.port)) for _ in range(8)]
        with ThreadPoolExecutor(8) as senders:
            taken = [uid for uids in senders.map(send_all, peers, range(8)) for uid in uids]
    assert 0 < len(taken) < 320
    assert alone.free() > 8 * MB
    assert sorted(alone.uids()) == sorted(taken)
    for instance in instances_of(alone.spool):
        content = alone.spool.received(instance.id).read_bytes()
        assert content.endswith(data_set(instance.sop_instance_uid.encode(), pixels=100_000))
    assert alone.leftovers() == []


def test_the_same_object_from_many_at_once_is_one_instance_and_success_for_all(alone: Alone) -> None:
    def store(_: int) -> list[int]:
        with Raw.associated(alone.port) as peer:
            return [peer.store(b"1.2.3", data_set(pixels=50_000)) for _ in range(10)]

    with ThreadPoolExecutor(8) as senders:
        statuses = [status for some in senders.map(store, range(8)) for status in some]
    assert statuses == [0x0000] * 80
    assert alone.uids() == ["1.2.3"]
    (instance,) = instances_of(alone.spool)
    alone.spool.mark_delivered(instance.id, "ws1", {"status": 0})
    with Raw.associated(alone.port) as peer:
        assert [peer.store(b"1.2.3", data_set(pixels=50_000)) for _ in range(2)] == [0, 0]
        assert alone.uids() == ["1.2.3"] * 2  # what was delivered is delivered again, once
        assert peer.store(b"1.2.3", data_set(pixels=50_002)) == 0x0000
    assert alone.uids() == ["1.2.3"] * 3  # another content is another object
    assert alone.leftovers() == []
