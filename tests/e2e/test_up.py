"""`dicomferry up`: everything on one machine, kept running, and gone when it is stopped."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, Verification

from dicomferry.spool.spool import Spool
from gateway.demo.samples import Sample, make
from tests.support.peers.scps import Seen, pynetdicom_scp
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port, is_listening
from tests.support.running.processes import DICOMFERRY, alive, command_lines, parent, wait_until
from tests.support.running.redis import private_redis
from tests.support.running.site import Site

PARTS = ("ingest", "dispatcher", "worker", "forwarder", "flower")


@pytest.fixture(scope="module")
def workstation() -> Iterator[Seen]:
    with pynetdicom_scp() as seen:
        yield seen


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, workstation: Seen) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("up") / "site", destination("ws", workstation.port)) as site:
        yield site


@pytest.fixture
def site(tmp_path: Path, workstation: Seen) -> Iterator[Site]:
    site = Site(tmp_path / "site", destination("ws", workstation.port))
    try:
        yield site
    finally:
        site.stop()


def processes(site: Site) -> dict[int, str]:
    """All of this site: parts and pools by their configuration, Redis and the warden by its folder."""
    marks = (str(site.config), str(site.runtime_folder))
    lines = command_lines()
    return {pid: line for pid, line in lines.items() if any(mark in line for mark in marks) and alive(pid)}


def test_checking_the_health_of_what_is_well_leaves_no_line_in_any_log(
    tmp_path: Path, workstation: Seen
) -> None:
    callers = 'callers = [{title = "PACS", host = "192.0.2.1"}]'  # the check is rejected then
    with private_redis() as url:
        site = Site(tmp_path / "site", destination("ws", workstation.port), broker=url)
        site.config.write_text(site.config.read_text().replace("[[ae]]", f"[[ae]]\n{callers}", 1))
        with site:
            for part in PARTS:  # all of them are up, and have said all that they say at a start
                wait_until(lambda part=part: site.command("health", part).returncode == 0, part, 30)
            before = said_at_a_start(site)
            for _ in range(2):
                for part in PARTS:
                    assert site.command("health", part).returncode == 0, part
                socket.create_connection(("127.0.0.1", site.port), 5).close()
            entity = AE("CT9")
            entity.add_requested_context(Verification)
            assert entity.associate("127.0.0.1", site.port, ae_title="FERRY").is_rejected
            wait_until(lambda: Spool(site.spool).status()["rejected"], "the rejection to be told", 30)
            (line,) = site.log.read_text().removeprefix(before).splitlines()
            assert "Rejected CT9" in line
            assert [told["calling"] for told in Spool(site.spool).status()["rejected"]] == ["CT9"]


def said_at_a_start(site: Site) -> str:
    """The log, once it has not grown for a while."""
    looks = [""]

    def is_quiet() -> bool:
        looks.append(site.log.read_text())
        return len(looks) > 100 and len(set(looks[-100:])) == 1

    wait_until(is_quiet, "the parts to have said all", 60)
    return looks[-1]


def send(site: Site, samples: list[Sample]) -> None:
    entity = AE("PACS")
    entity.add_requested_context(Verification)
    entity.add_requested_context(CTImageStorage)
    for sample in samples:
        entity.add_requested_context(str(sample.dataset.SOPClassUID), sample.syntax)
    association = entity.associate("127.0.0.1", site.port, ae_title="FERRY")
    assert association.is_established
    for sample in samples:
        assert association.send_c_store(sample.dataset).Status == 0x0000
    association.release()


def arrive(seen: Seen, samples: list[Sample]) -> None:
    wanted = {sample.uid for sample in samples}
    wait_until(lambda: wanted <= {str(uid) for uid, _, _ in seen.datasets}, "all to arrive", seconds=60)


def test_ready_is_said_after_where_everything_is(running: Site) -> None:
    lines = running.log.read_text().splitlines()
    where = lines[lines.index("ready") - 1]
    assert f"127.0.0.1:{running.port} as FERRY" in where
    assert f"http://127.0.0.1:{running.flower_port}/" in where


def test_the_brokers_password_stands_in_no_argument_and_no_log(running: Site) -> None:
    content = (running.runtime_folder / "redis.conf").read_text()
    password = next(line.split()[1] for line in content.splitlines() if line.startswith("requirepass"))
    assert not [line for line in command_lines().values() if password in line]
    assert password not in running.log.read_text()


def test_a_second_up_on_the_same_spool_is_refused_and_disturbs_nothing(
    running: Site, workstation: Seen, tmp_path: Path
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(
        running.config.read_text()
        .replace(f"port = {running.port}", f"port = {free_port()}")
        .replace(f"port = {running.flower_port}", f"port = {free_port()}")
    )
    second = subprocess.run(
        [*DICOMFERRY, "up", "--config", str(other)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2
    assert f"another `dicomferry up` works on the spool {running.spool}" in second.stderr
    assert "ready" not in second.stdout
    samples = make()[:1]
    send(running, samples)
    arrive(workstation, samples)


@pytest.mark.parametrize("part", ["redis", *PARTS])
def test_a_part_that_is_killed_comes_back_and_deliveries_go_on(
    running: Site, workstation: Seen, part: str
) -> None:
    before = processes(running)
    mark = "redis-server" if part == "redis" else f"gateway.cli {part} "
    victims = [pid for pid, line in before.items() if mark in line]
    # The first alone: what it has forked, Celery's pool, is for the supervisor to end.
    (first,) = (pid for pid in victims if parent(pid) not in victims)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: f"PartEnded part={part}" in running.log.read_text(), "its end to be noticed")
    wait_until(lambda: set(victims).isdisjoint(processes(running)), "all of it to end")
    wait_until(lambda: any(mark in line for line in processes(running).values()), "a new one", seconds=30)
    wait_until(lambda: is_listening(running.port), "ingest", seconds=30)
    samples = make()[:4]
    send(running, samples)
    arrive(workstation, samples)
    if part == "flower":
        wait_until(lambda: running.command("health", "flower").returncode == 0, "Flower", seconds=30)


@pytest.mark.alone
def test_a_stop_takes_less_than_ten_seconds_and_leaves_nothing(site: Site) -> None:
    site.start()
    left, folder = processes(site), site.runtime_folder
    assert len(left) >= len(PARTS) + 3, "up, Redis and the warden besides"
    assert folder.exists()
    began = time.monotonic()
    site.stop()
    assert time.monotonic() - began < 10, "a promise of `up`, not a measurement"
    assert "PartKilled" not in site.log.read_text()
    assert not [pid for pid in left if alive(pid)]
    assert not folder.exists()


def test_sigint_stops_it_as_sigterm_does(site: Site) -> None:
    site.start()
    os.kill(min(site.pids("up")), signal.SIGINT)
    wait_until(lambda: not processes(site), "everything to end", seconds=15)


def test_killed_with_9_it_takes_every_process_along_and_can_start_again(
    site: Site, workstation: Seen
) -> None:
    samples = make()[:3]
    site.start()
    running = processes(site)
    os.kill(min(site.pids("up")), signal.SIGKILL)
    wait_until(lambda: not any(alive(number) for number in running), "every process to end", seconds=10)
    # At once, on the same spool and ports.
    site.log.unlink()
    with site:
        send(site, samples)
        arrive(workstation, samples)


def test_with_a_broker_of_ones_own_no_redis_is_started(site: Site) -> None:
    with private_redis() as broker:
        site.config.write_text(f'broker = "{broker}"\n' + site.config.read_text())
        with site:
            assert "redis      |" not in site.log.read_text()
            for part in PARTS:
                assert site.command("health", part).returncode == 0, part
