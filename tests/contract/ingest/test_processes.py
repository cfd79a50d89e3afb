"""One ingest in several processes: seen from outside it is one, whichever of them is killed."""

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from dicomferry.spool.spool import Spool
from ingest.dimse.acceptor import _usual_processes
from tests.support.images.files import fresh_copies, uid_of
from tests.support.peers.dcmtk import send
from tests.support.peers.raw import ABORT, AC, HERE, RJ, From, Raw, data_set, p_data, store_request
from tests.support.running.ports import free_port
from tests.support.running.processes import alive, children, open_files, wait_until
from tests.support.stages.ingesting import IngestProcess, data_set_of, leftovers
from tests.support.stages.spools import instances_of

LOCAL_LIMIT_EXCEEDED = (RJ, b"\0\2\3\2")  # transient, service provider (presentation): PS3.8 9.3.4
THERE = "127.0.0.2"


@contextmanager
def running(folder: Path, processes: int = 3, **tables: Any) -> Iterator[tuple[IngestProcess, ExitStack]]:
    ingest = {"processes": processes} | tables.pop("ingest", {})
    part = IngestProcess(folder, ingest=ingest, **tables)
    try:
        wait_until(lambda: len(children(part.process.pid)) == processes, "its processes")
        with ExitStack() as stack:
            yield part, stack
        assert part.stop() == 0
    finally:
        part.process.kill()
        part.process.wait()


def served_by(part: IngestProcess, peer: Raw) -> int:
    """The process that has accepted the peer's connection; 0: none has yet."""
    theirs, ours = peer.sock.getsockname()[1], part.port
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = {(row[1].split(":")[1], row[2].split(":")[1]): row[9] for row in rows}
    socket = f"socket:[{ends[f'{ours:04X}', f'{theirs:04X}']}]"
    return next((pid for pid in children(part.process.pid) if socket in open_files(pid)), 0)


def received(folder: Path) -> set[str]:
    return {found.sop_instance_uid for found in instances_of(Spool(folder / "spool"))}


@pytest.mark.parametrize(
    ("cores", "processes"), [(1, 1), (2, 1), (3, 1), (4, 2), (6, 3), (8, 4), (9, 4), (128, 4)]
)
def test_there_is_a_process_for_two_cores_up_to_four(cores: int, processes: int) -> None:
    assert _usual_processes(cores) == processes


def test_associations_that_come_together_are_spread_evenly(tmp_path: Path) -> None:
    with running(tmp_path) as (part, stack):
        with ThreadPoolExecutor(12) as pool:
            peers = list(pool.map(lambda _: Raw.associated(part.port), range(12)))
        for peer in peers:
            stack.enter_context(peer)
        held = Counter(served_by(part, peer) for peer in peers)
        assert min(held[pid] for pid in children(part.process.pid)) >= 3, held
        assert [peer.store(f"1.2.{n}".encode()) for n, peer in enumerate(peers)] == [0x0000] * 12
    assert received(tmp_path) == {f"1.2.{n}" for n in range(12)}
    assert leftovers(Spool(tmp_path / "spool")) == []


def test_a_process_whose_associations_have_ended_gets_the_next(tmp_path: Path) -> None:
    with running(tmp_path, processes=2) as (part, stack):
        peers = [stack.enter_context(Raw.associated(part.port)) for _ in range(12)]
        servers = [served_by(part, peer) for peer in peers]
        freed = [peer for peer, server in zip(peers, servers, strict=True) if server == servers[0]]
        for peer in freed:
            peer.sock.close()
        wait_until(lambda: part.log.read_text().count(" is gone") == len(freed), "their end")
        later = [stack.enter_context(Raw.associated(part.port)) for _ in freed]
        assert [served_by(part, peer) for peer in later].count(servers[0]) >= len(freed) - 1


def test_the_limits_count_the_associations_of_all_processes(tmp_path: Path) -> None:
    titles = [{"title": "FERRY"}, {"title": "CLOSED", "callers": [{"title": "PACS", "host": HERE}]}]
    limits = {"max_associations": 8, "max_associations_per_host": 4}
    with running(tmp_path, ingest=limits, ae=titles) as (part, stack):

        def ask(address: str, *names: bytes) -> tuple[int, bytes]:
            return stack.enter_context(From(part.port, address)).ask(*names)

        assert [ask(THERE) for _ in range(5)] == [(AC, b"")] * 4 + [LOCAL_LIMIT_EXCEEDED]
        assert "127.0.0.2 has 4 associations already" in part.log.read_text()
        # Two of the eight places are kept for those that the configuration names.
        assert [ask("127.0.0.3") for _ in range(3)] == [(AC, b"")] * 2 + [LOCAL_LIMIT_EXCEEDED]
        assert [ask(HERE, b"PACS", b"CLOSED") for _ in range(3)] == [(AC, b"")] * 2 + [LOCAL_LIMIT_EXCEEDED]
        assert "8 associations stand already (ingest.max_associations)" in part.log.read_text()


def test_the_place_of_who_was_silent_longest_is_taken_in_whichever_process(tmp_path: Path) -> None:
    with running(tmp_path, ingest={"max_associations": 3}) as (part, stack):
        eldest, middle, sender = (stack.enter_context(From(part.port)) for _ in range(3))
        for peer in (eldest, middle, sender):
            assert peer.ask() == (AC, b"")
        content = data_set(b"1.2.3", pixels=100_000)
        sender.send(p_data(1, 3, store_request(b"1.2.3")), p_data(1, 0, content[:50_000]))
        time.sleep(2.5)
        assert middle.echo() == 0x0000
        time.sleep(2.6)
        while True:  # until another process has the newcomer
            newcomer = stack.enter_context(From(part.port, THERE))
            wait_until(lambda peer=newcomer: served_by(part, peer), "its connection")
            if served_by(part, newcomer) != served_by(part, eldest):
                break
        assert newcomer.ask() == (AC, b"")
        assert eldest.read()[0] == ABORT
        assert stack.enter_context(From(part.port, THERE)).ask() == LOCAL_LIMIT_EXCEEDED
        sender.send(p_data(1, 2, content[50_000:]))
        assert sender.status() == 0x0000
        assert middle.echo() == 0x0000
        assert "silent longest" in part.log.read_text()


def test_a_killed_process_costs_its_own_associations_alone_and_frees_their_places(tmp_path: Path) -> None:
    with running(tmp_path, ingest={"max_associations": 6}) as (part, stack):
        peers = [stack.enter_context(From(part.port)) for _ in range(6)]
        assert [peer.ask() for peer in peers] == [(AC, b"")] * 6
        content = data_set(b"1.2.3", pixels=100_000)
        for peer in peers:
            peer.send(p_data(1, 3, store_request(b"1.2.3")), p_data(1, 0, content[:50_000]))
        assert stack.enter_context(From(part.port, THERE)).ask() == LOCAL_LIMIT_EXCEEDED
        victim = children(part.process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: "ProcessEnded" in part.log.read_text(), "the log")
        assert re.search(r"ProcessEnded \d of 3 was killed by SIGKILL.*at once", part.log.read_text())

        def finished(peer: From) -> bool:
            try:
                peer.send(p_data(1, 2, content[50_000:]))
                return peer.status() == 0x0000
            except (OSError, AssertionError):
                return False

        went_on = [peer for peer in peers if finished(peer)]
        assert len(went_on) == 4
        again = [stack.enter_context(From(part.port, THERE)).ask() for _ in range(3)]
        assert again == [(AC, b"")] * 2 + [LOCAL_LIMIT_EXCEEDED]
        wait_until(lambda: len(children(part.process.pid)) == 3, "another process")
        wait_until(lambda: not leftovers(Spool(tmp_path / "spool")), "the unfinished objects to be swept")
    assert received(tmp_path) == {"1.2.3"}


def test_nothing_acknowledged_is_lost_while_processes_are_killed(tmp_path: Path) -> None:
    """Six senders, of which two are dcmsend's, and a process is killed now and then."""
    acknowledged: set[str] = set()
    over = threading.Event()
    files = fresh_copies("CT_small.dcm", 40, tmp_path / "sent")

    def store_all(sender: int) -> None:
        number = 0
        while not over.is_set():
            with suppress(OSError, AssertionError), Raw.associated(part.port) as peer:
                while not over.is_set():
                    number += 1
                    uid = f"1.2.{sender}.{number}"
                    if peer.store(uid.encode(), data_set(uid.encode(), pixels=20_000)) == 0x0000:
                        acknowledged.add(uid)

    def send_until_all_are_taken() -> None:
        deadline = time.monotonic() + 120
        while send(part.port, files).returncode:
            assert time.monotonic() < deadline

    with running(tmp_path, ingest={"max_associations": 6}) as (part, _):
        with ThreadPoolExecutor(6) as pool:
            senders = [pool.submit(store_all, number) for number in range(4)]
            senders += [pool.submit(send_until_all_are_taken) for _ in range(2)]
            for turn in range(8):
                time.sleep(0.4)
                found = children(part.process.pid)
                if found:
                    os.kill(found[turn % len(found)], signal.SIGKILL)
            over.set()
            for sender in senders:
                sender.result(180)
        assert part.log.read_text().count("ProcessEnded") >= 6
        wait_until(lambda: len(children(part.process.pid)) == 3, "all processes", 20)
        with ExitStack() as stack:  # no place was lost
            for _ in range(6):
                wait_until(lambda: stack.enter_context(From(part.port)).ask()[0] == AC, "a place")
            assert stack.enter_context(From(part.port)).ask() == LOCAL_LIMIT_EXCEEDED
    assert len(acknowledged) > 20
    assert received(tmp_path) >= acknowledged | {uid_of(path) for path in files}
    spool = Spool(tmp_path / "spool")
    for instance in instances_of(spool):
        if instance.sop_instance_uid in acknowledged:
            content = data_set(instance.sop_instance_uid.encode(), pixels=20_000)
            assert data_set_of(spool.received(instance.id)) == content
    assert leftovers(spool) == []


def test_processes_that_end_one_after_the_other_are_replaced_with_pauses(tmp_path: Path) -> None:
    with running(tmp_path, processes=2) as (part, stack):
        witness = children(part.process.pid)[1]
        for _ in range(3):
            wait_until(lambda: len(children(part.process.pid)) == 2, "another")
            os.kill(max(set(children(part.process.pid)) - {witness}), signal.SIGKILL)
            time.sleep(0.1)
        wait_until(lambda: part.log.read_text().count("ProcessEnded") == 3, "the log")
        pauses = re.findall(r"starting another (.*)", part.log.read_text())
        assert pauses == ["at once", "in 0.25 s", "in 0.5 s"]
        assert stack.enter_context(From(part.port)).ask() == (AC, b"")


@pytest.mark.parametrize("stopped", [False, True])
def test_the_processes_die_with_a_parent_that_is_killed(tmp_path: Path, *, stopped: bool) -> None:
    with suppress(AssertionError), running(tmp_path) as (part, stack):
        assert stack.enter_context(From(part.port)).ask() == (AC, b"")
        left = children(part.process.pid)
        if stopped:
            os.kill(left[0], signal.SIGSTOP)
        part.process.kill()
        part.process.wait()
    assert len(left) == 3
    wait_until(lambda: not any(map(alive, left)), "them to end", 2.0)
    with running(tmp_path / "again", spool=str(tmp_path / "spool")) as (part, _):
        assert send(part.port, fresh_copies("CT_small.dcm", 2, tmp_path / "sent")).returncode == 0


def test_the_end_lets_each_process_finish_its_objects(tmp_path: Path) -> None:
    with running(tmp_path) as (part, stack):
        peers = [stack.enter_context(From(part.port)) for _ in range(6)]
        assert [peer.ask() for peer in peers] == [(AC, b"")] * 6
        idle = stack.enter_context(From(part.port))
        contents = [data_set(f"1.2.{n}".encode(), pixels=100_000) for n in range(6)]
        for n, peer in enumerate(peers):
            peer.send(p_data(1, 3, store_request(f"1.2.{n}".encode())), p_data(1, 0, contents[n][:50_000]))
        left = children(part.process.pid)
        part.process.terminate()
        assert idle.read() == (0, b"")
        for n, peer in enumerate(peers):
            peer.send(p_data(1, 2, contents[n][50_000:]))
            assert peer.status() == 0x0000
            peer.sock.close()
        assert part.process.wait(60) == 0
        assert not any(map(alive, left))
        assert "ERROR" not in part.log.read_text()
        assert "Not accepted" not in part.log.read_text()
    assert received(tmp_path) == {f"1.2.{n}" for n in range(6)}


def test_one_process_that_is_told_to_end_from_outside_goes_on(tmp_path: Path) -> None:
    """An orderly end of one would close the socket that all of them share."""
    with running(tmp_path) as (part, stack):
        for pid in children(part.process.pid):
            os.kill(pid, signal.SIGTERM)
        assert [stack.enter_context(From(part.port)).ask() for _ in range(6)] == [(AC, b"")] * 6


def test_a_stopped_process_keeps_nobody_out(tmp_path: Path) -> None:
    with running(tmp_path) as (part, stack):
        victim = children(part.process.pid)[0]
        os.kill(victim, signal.SIGSTOP)
        try:
            peers = [stack.enter_context(From(part.port)) for _ in range(10)]
            assert [peer.ask() for peer in peers] == [(AC, b"")] * 10
            assert [peer.store(f"1.2.{n}".encode()) for n, peer in enumerate(peers)] == [0x0000] * 10
        finally:
            os.kill(victim, signal.SIGCONT)


def test_the_processes_do_not_pass_the_bound_of_the_quarantine_together(tmp_path: Path) -> None:
    def damaged(number: int) -> list[int]:
        with Raw.associated(part.port) as peer:
            uids = [f"1.2.{number}.{turn}".encode() for turn in range(5)]
            return [peer.store(uid, data_set(uid)[:-10]) for uid in uids]

    with running(tmp_path, ingest={"quarantine_max_count": 7}) as (part, _):
        with ThreadPoolExecutor(6) as senders:
            statuses = [status for some in senders.map(damaged, range(6)) for status in some]
        assert sorted(statuses) == [0xA700] * 23 + [0xC000] * 7
        assert len(list((tmp_path / "spool" / "quarantine").iterdir())) == 7


def test_two_ingests_of_several_processes_share_a_port(tmp_path: Path) -> None:
    port, spool = free_port(), str(tmp_path / "spool")
    shared = {"port": port, "shared_port": True}
    files = [fresh_copies("CT_small.dcm", 3, tmp_path / f"sent{n}") for n in range(12)]
    with ExitStack() as stack:
        for name in ("one", "two"):
            part = IngestProcess(tmp_path / name, spool=spool, ingest=shared | {"processes": 2})
            stack.callback(part.process.kill)
            wait_until(lambda part=part: len(children(part.process.pid)) == 2, "its processes")
        with ThreadPoolExecutor(4) as pool:
            assert [run.returncode for run in pool.map(lambda some: send(port, some), files)] == [0] * 12
    assert received(tmp_path) == {uid_of(path) for some in files for path in some}
