"""How a Celery worker of ours ends, as its supervisor sees it: 0 where it was told to, else 1."""

import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from dicomferry.messages.batches import DELIVER_QUEUE, PROBE, TRANSCODE_QUEUE, ProbeBatch, new_batch_id
from dicomferry.messages.broker import celery_app, client_for
from dicomferry.settings import load
from dicomferry.spool.spool import Spool
from tests.support.peers.scps import raw_peer
from tests.support.running.configuration import configured, destination
from tests.support.running.processes import DICOMFERRY, wait_until
from tests.support.running.redis import private_redis, redis_at

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


def test_a_forwarder_whose_redis_dies_while_it_holds_a_message_does_what_the_next_redis_has(
    tmp_path: Path,
) -> None:
    given_up = threading.Event()
    with (
        raw_peer(lambda _: given_up.wait(600)) as silent,
        tempfile.TemporaryDirectory(prefix="rds") as folder,
        redis_at(Path(folder) / "s") as broker,
        running("forwarder", tmp_path, broker, silent) as process,
    ):
        settings = load(tmp_path / "dicomferry.toml")
        leases = Spool(settings.spool).leases
        first, second = (ProbeBatch(new_batch_id(), "ws", ()) for _ in range(2))

        def publish(probe: ProbeBatch) -> None:
            leases.create(probe.id)
            celery_app(settings).send_task(PROBE, kwargs=probe.to_message(), queue=DELIVER_QUEUE)

        publish(first)
        wait_until(lambda: leases.state(first.id) == "running", "the probe")
        client_for(broker).shutdown(nosave=True)
        given_up.set()
        wait_until(lambda: not leases.exists(first.id), "the probe to end", 60)
        with redis_at(Path(folder) / "s"):
            publish(second)
            wait_until(lambda: not leases.exists(second.id), "the next probe", 60)
            assert process.poll() is None


def test_what_a_stopped_worker_holds_goes_back_into_its_queue(tmp_path: Path) -> None:
    app_folder = tmp_path / "held"
    app_folder.mkdir()
    with private_redis() as broker:
        app = celery_app(load(configured(app_folder, destination("ws", 1), broker=broker)))
        redis = client_for(broker)
        app.send_task(PROBE, kwargs={}, queue=DELIVER_QUEUE)
        with app.connection_for_read() as connection, connection.channel() as channel:
            channel.queue_declare(DELIVER_QUEUE)
            assert channel.basic_get(DELIVER_QUEUE) is not None
            assert not redis.llen(DELIVER_QUEUE)
        assert redis.llen(DELIVER_QUEUE) == 1
        assert redis.keys("unacked*") == []


def test_flower_is_told_how_each_task_went_though_not_at_once(tmp_path: Path) -> None:
    with private_redis() as broker, running("forwarder", tmp_path, broker):
        app = celery_app(load(tmp_path / "dicomferry.toml"))
        told: list[tuple[str, str]] = []
        with app.connection_for_read() as connection:
            receiver = app.events.Receiver(
                connection, handlers={"*": lambda event: told.append((event["type"], event.get("uuid")))}
            )
            probes = [ProbeBatch(new_batch_id(), "ws", ()) for _ in range(3)]
            with receiver.consumer_context() as (heard, _, _):
                for probe in probes:  # without a lease each is dropped
                    app.send_task(PROBE, kwargs=probe.to_message(), task_id=probe.id, queue=DELIVER_QUEUE)

                def are_all_told() -> bool:
                    with suppress(TimeoutError):
                        heard.drain_events(timeout=0.2)
                    return {("task-succeeded", probe.id) for probe in probes} <= set(told)

                wait_until(are_all_told, "the events of three tasks", 30)
        order = [what for what, task in told if task == probes[0].id]
        assert order == ["task-received", "task-started", "task-succeeded"]
