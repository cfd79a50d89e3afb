"""How a Celery worker of ours ends, as its supervisor sees it: 0 where it was told to, else 1."""

import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicomferry.messages.batches import DELIVER_QUEUE, PROBE, TRANSCODE_QUEUE, ProbeBatch, new_batch_id
from dicomferry.messages.broker import celery_app, client_for
from dicomferry.settings import load
from dicomferry.spool.spool import Spool
from tests.support.peers.scps import raw_peer
from tests.support.running.configuration import configured, destination
from tests.support.running.processes import DICOMFERRY, wait_until
from tests.support.running.redis import private_redis

QUEUES = {"worker": TRANSCODE_QUEUE, "forwarder": DELIVER_QUEUE}


@contextmanager
def running(part: str, folder: Path, broker: str, port: int = 1) -> Iterator["subprocess.Popen[bytes]"]:
    config = configured(folder, destination("ws", port, timeout=600), broker=broker)
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [*DICOMFERRY, part, "--config", str(config)], stdout=log, stderr=log, start_new_session=True
    )
    app = celery_app(load(config))
    try:
        wait_until(lambda: app.control.ping(timeout=0.3) or process.poll() is not None, part, 40)
        yield process
    finally:
        log.close()
        app.close()
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("part", QUEUES)
def test_a_part_that_is_stopped_exits_0(tmp_path: Path, part: str, number: signal.Signals) -> None:
    with private_redis() as broker, running(part, tmp_path, broker) as process:
        process.send_signal(number)
        assert process.wait(timeout=120) == 0


@pytest.mark.parametrize("part", QUEUES)
def test_a_part_that_celery_gives_up_exits_1_and_says_so(tmp_path: Path, part: str) -> None:
    with private_redis() as broker, running(part, tmp_path, broker) as process:
        client_for(broker).set(QUEUES[part], "no list")  # an error of Redis that Celery does not recover from
        assert process.wait(timeout=240) == 1
    assert "dicomferry: Celery ended by an error" in (tmp_path / "log").read_text()


def test_a_forwarder_whose_redis_dies_while_it_holds_a_message_exits_1(tmp_path: Path) -> None:
    given_up = threading.Event()
    with (
        raw_peer(lambda _: given_up.wait(600)) as silent,
        private_redis() as broker,
        running("forwarder", tmp_path, broker, silent) as process,
    ):
        settings = load(tmp_path / "dicomferry.toml")
        leases = Spool(settings.spool).leases
        probe = ProbeBatch(new_batch_id(), "ws", ())
        leases.create(probe.id)
        celery_app(settings).send_task(PROBE, kwargs=probe.to_message(), queue=DELIVER_QUEUE)
        wait_until(lambda: leases.state(probe.id) == "running", "the probe")
        client_for(broker).shutdown(nosave=True)
        # Celery ends when its threads have.
        wait_until(lambda: "Unrecoverable error" in (tmp_path / "log").read_text(), "Celery to give up", 60)
        given_up.set()
        assert process.wait(timeout=120) == 1
