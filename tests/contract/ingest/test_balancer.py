"""Several ingests of one spool behind a real TCP balancer, configured as docs/scaling.md says."""

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dicomferry.spool.spool import Spool
from tests.support.images.files import fresh_copies, uid_of
from tests.support.peers.dcmtk import send
from tests.support.running.ports import free_port, is_listening
from tests.support.running.processes import wait_until
from tests.support.running.services import program
from tests.support.stages.ingesting import IngestProcess
from tests.support.stages.spools import a_spool, instances_of

SCALING = Path(__file__).parents[3] / "docs" / "scaling.md"


@contextmanager
def balancer(folder: Path, ports: list[int]) -> Iterator[int]:
    """haproxy with the configuration that the documentation shows; only addresses are ours."""
    shown = re.search(r"```\n(defaults\n.*?)```", SCALING.read_text(), re.DOTALL)
    assert shown is not None
    front = free_port()
    text = shown[1].replace("bind :11112", f"bind 127.0.0.1:{front}")
    for number, port in enumerate(ports, 1):
        text = text.replace(f"10.0.0.{number}:11112", f"127.0.0.1:{port}")
    config = folder / "haproxy.cfg"
    config.write_text(text)
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen([program("haproxy"), "-db", "-f", str(config)], stdout=log, stderr=log)
    try:
        wait_until(lambda: is_listening(front) or process.poll() is not None, "haproxy to listen")
        assert process.poll() is None, (folder / "haproxy.log").read_text()
        yield front
    finally:
        process.kill()
        process.wait()


@contextmanager
def ingest(folder: Path, spool: Path) -> Iterator[IngestProcess]:
    running = IngestProcess(folder, spool=str(spool))
    try:
        yield running
    finally:
        running.stop(60)


def received(spool: Spool) -> set[str]:
    return {found.sop_instance_uid for found in instances_of(spool)}


def test_ingests_behind_a_balancer_fill_one_spool_and_one_may_go(tmp_path: Path) -> None:
    spool = a_spool(tmp_path / "spool")
    studies = [fresh_copies("693_J2KR.dcm", 5, tmp_path / f"study{n}") for n in range(8)]
    last = fresh_copies("CT_small.dcm", 5, tmp_path / "last")
    with ingest(tmp_path / "one", spool.root) as one:
        with ingest(tmp_path / "two", spool.root) as two, balancer(tmp_path, [one.port, two.port]) as port:
            with ThreadPoolExecutor(len(studies)) as senders:
                sent = list(senders.map(lambda study: send(port, study), studies))
            assert [run.returncode for run in sent] == [0] * len(studies), [run.stdout for run in sent]
            assert received(spool) == {uid_of(path) for study in studies for path in study}
            counts = [each.log.read_text().count(" Received ") for each in (one, two)]
            assert sum(counts) == 40
            assert min(counts) >= 5, counts
        with balancer(tmp_path, [one.port, two.port]) as port:  # which finds one of them gone
            assert send(port, last).returncode == 0
    assert received(spool) >= {uid_of(path) for path in last}
    assert not list(spool.incoming.iterdir())
