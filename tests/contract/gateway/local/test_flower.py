"""Flower as we run it, on a real Redis: who may see what, and what nobody may."""

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from dicomferry.messages.batches import (
    DELIVER,
    DELIVER_QUEUE,
    PROBE,
    TRANSCODE,
    TRANSCODE_QUEUE,
    Batch,
    DeliverBatch,
    Parcel,
    ProbeBatch,
    TranscodeBatch,
    new_batch_id,
)
from dicomferry.messages.broker import celery_app
from dicomferry.settings import Settings, load
from dicomferry.spool.instance import RenditionSpec
from dicomferry.spool.spool import Spool
from gateway.local.flower import is_loopback
from tests.support.images.files import shipped
from tests.support.peers.scps import pynetdicom_scp
from tests.support.running.configuration import configured, destination
from tests.support.running.ports import free_port
from tests.support.running.processes import DICOMFERRY, command_lines, wait_until
from tests.support.running.redis import redis_of_up
from tests.support.stages.spools import put

J2K = "1.2.840.10008.1.2.4.90"

# A worker of ours, with the part of Celery's settings that it answers to Flower.
WORKER = """
import sys
from pathlib import Path
from dicomferry.messages.broker import celery_app
from dicomferry.settings import load
app = celery_app(load(Path(sys.argv[1])))
@app.task(name="dicomferry.transcode")
def transcode(**message):
    pass
app.Worker(pool="solo", queues=["transcode"], hostname="worker@test", quiet=True).start()
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with redis_of_up() as url:
        yield url


class Site:
    """A running Flower."""

    def __init__(self, folder: Path, broker: str, **flower: str) -> None:
        self.log = folder / "log"
        self.port = free_port()
        self.config = configured(folder, destination("ws", 1), flower={"port": self.port} | flower)
        self.environment = os.environ | {"DICOMFERRY_BROKER": broker}
        self.program: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> Settings:
        return load(self.config).model_copy(update={"broker": self.environment["DICOMFERRY_BROKER"]})

    def get(self, path: str, credentials: str = "", post: dict[str, str] | None = None) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        if post is not None:
            request.data = json.dumps(post).encode()
        if credentials:
            encoded = base64.b64encode(credentials.encode()).decode()
            request.add_header("Authorization", f"Basic {encoded}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310  http
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def serves(self) -> bool:
        assert self.program is not None
        assert self.program.poll() is None, self.log.read_text()
        try:
            return self.get("/healthcheck")[0] == 200
        except OSError:
            return False


@contextmanager
def flower(folder: Path, broker: str, host: str = "127.0.0.1", **more: str) -> Iterator[Site]:
    site = Site(folder, broker, host=host, **more)
    with site.log.open("wb") as log:
        site.program = subprocess.Popen(
            [*DICOMFERRY, "flower", "--config", str(site.config)],
            stderr=log,
            env=site.environment,
        )
    try:
        wait_until(site.serves, "Flower to serve", seconds=30)
        yield site
        site.program.send_signal(signal.SIGTERM)
        assert site.program.wait(timeout=60) == 0
    finally:
        site.program.kill()
        site.program.wait()


def test_on_loopback_it_is_open_to_look_at_and_shut_to_changes(tmp_path: Path, broker: str) -> None:
    with flower(tmp_path, broker) as site:
        assert site.get("/tasks")[0] == 200
        status, answer = site.get("/api/task/send-task/dicomferry.transcode", post={})
        assert status in (401, 403), answer


def test_anywhere_else_it_asks_for_a_password_that_it_makes_up_and_logs_once(
    tmp_path: Path, broker: str
) -> None:
    with flower(tmp_path, broker, host="0.0.0.0") as site:
        lines = [line for line in site.log.read_text().splitlines() if "FlowerPassword" in line]
        assert len(lines) == 1
        password = lines[0].partition("password=")[2].split()[0]
        assert len(password) >= 16
        for path in ("/", "/tasks", "/workers", "/broker", "/api/workers", "/api/tasks"):
            assert site.get(path)[0] == 401, path
            assert site.get(path, "dicomferry:wrong")[0] == 401, path
        assert site.get("/tasks", f"dicomferry:{password}")[0] == 200
        assert site.log.read_text().count(password) == 1


def test_with_a_password_even_loopback_asks_and_nothing_can_be_changed(tmp_path: Path, broker: str) -> None:
    with flower(tmp_path, broker, user="reader", password="s3cr3t-of-flower") as site:
        assert site.get("/tasks")[0] == 401
        assert site.get("/tasks", "reader:s3cr3t-of-flower")[0] == 200
        # What needs no password: counts, and that it is there. docs/architecture.md says so.
        assert site.get("/healthcheck") == (200, "OK")
        assert "patient" not in site.get("/metrics")[1].lower()
        status, answer = site.get(
            "/api/task/send-task/dicomferry.transcode", "reader:s3cr3t-of-flower", post={}
        )
        assert status == 403, answer
        assert "s3cr3t" not in site.log.read_text()


def test_batches_show_with_their_label_and_no_password_shows_anywhere(tmp_path: Path, broker: str) -> None:
    password = broker.partition("://:")[2].partition("@")[0]
    label = "WS1 study 1.2.3...843 CT n=16 J2K->ExplicitLE"
    with flower(tmp_path, broker) as site:
        worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(site.config)], env=site.environment, stderr=subprocess.DEVNULL
        )
        try:
            wait_until(lambda: "worker@test" in site.get("/workers?json=1")[1], "the worker", seconds=30)
            app = celery_app(site.settings)
            sent = app.send_task(
                "dicomferry.transcode",
                kwargs={"instances": ["an id"]},
                queue="transcode",
                argsrepr=label,
                kwargsrepr="{}",
            )
            wait_until(lambda: "SUCCESS" in site.get(f"/task/{sent.id}")[1], "the batch to end", seconds=30)
            page = site.get(f"/task/{sent.id}")[1]
            assert label in page.replace("&gt;", ">")
            assert "an id" not in page
            assert "Runtime" in page
            table = site.get("/tasks/datatable?draw=1&start=0&length=10&search[value]=&order[0][column]=0"
                             "&order[0][dir]=asc&columns[0][data]=name")[1]  # fmt: skip
            assert label in json.loads(table)["data"][0]["args"].replace("&gt;", ">")
            assert 'data-column="args"' in site.get("/tasks")[1]
            # It asks the worker when it is asked, and gives up after a second.
            wait_until(
                lambda: site.get("/worker/worker@test")[0] == 200 and "transcode" in site.get("/broker")[1],
                "the worker's answer to Flower",
                seconds=30,
            )
            for path in ("/workers", "/worker/worker@test", "/broker", "/tasks", "/metrics"):
                status, page = site.get(path)
                assert status == 200, (path, page)
                assert password not in page, path
            assert "transcode" in site.get("/broker")[1]  # its queue: Flower itself has the password
            assert password not in site.log.read_text()
            assert not [line for line in command_lines().values() if password in line]
        finally:
            worker.kill()
            worker.wait()


def publish(app: Celery, batch: Batch) -> None:
    name = {TranscodeBatch: TRANSCODE, DeliverBatch: DELIVER, ProbeBatch: PROBE}[type(batch)]
    queue = TRANSCODE_QUEUE if name == TRANSCODE else DELIVER_QUEUE
    app.send_task(name, kwargs=batch.to_message(), queue=queue, task_id=batch.id)


@contextmanager
def part(name: str, site: Site) -> Iterator[None]:
    with (site.config.parent / name).open("wb") as log:
        program = subprocess.Popen(
            [*DICOMFERRY, name, "--config", str(site.config)], env=site.environment, stderr=log
        )
    try:
        yield
    finally:
        program.kill()
        program.wait()


def test_a_batch_that_did_nothing_is_a_failed_one_and_each_says_what_it_did(
    tmp_path: Path, broker: str
) -> None:
    refused: list[str] = []

    def answer(event: Any) -> int:
        return 0xC001 if event.request.AffectedSOPInstanceUID in refused else 0x0000

    with (
        pynetdicom_scp(answer=answer) as peer,
        flower(tmp_path, broker, user="reader", password="s3cr3t") as site,
    ):
        configured(
            tmp_path,
            destination("ws", peer.port),
            destination("off", free_port()),
            flower={"port": site.port},
        )
        spool = Spool(site.settings.spool)
        spool.prepare()
        good, bad, damaged = (put(spool, shipped("CT_small.dcm"), "ws") for _ in range(3))
        refused.append(bad.sop_instance_uid)
        with spool.received(damaged.id).open("r+b") as file:
            file.truncate(3000)
        ids = [new_batch_id() for _ in range(6)]
        parcels = {one.id: Parcel(one.id, None, "as received") for one in (good, bad)}
        batches: list[Batch] = [
            DeliverBatch(ids[0], "boot", "ws", (parcels[good.id],)),
            DeliverBatch(ids[1], "boot", "ws", (parcels[bad.id],)),
            ProbeBatch(ids[2], "off", ()),
            ProbeBatch(ids[3], "ws", ()),
            TranscodeBatch(ids[4], "boot", RenditionSpec(J2K), (good.id, damaged.id)),
            TranscodeBatch(ids[5], "boot", RenditionSpec(J2K), (damaged.id,)),
        ]
        app = celery_app(site.settings)
        for batch in batches:
            spool.leases.create(batch.id)
            publish(app, batch)
        with part("forwarder", site), part("worker", site):
            ends: dict[str, dict[str, Any]] = {}

            def ended() -> bool:
                found = json.loads(site.get("/api/tasks", "reader:s3cr3t")[1]).values()
                ends.update({task["uuid"]: task for task in found if task["state"] in {"SUCCESS", "FAILURE"}})
                return len(ends) == len(batches)

            wait_until(ended, "all batches to end", seconds=60)
            states = [ends[number]["state"] for number in ids]
            assert states == ["SUCCESS", "FAILURE", "FAILURE", "SUCCESS", "SUCCESS", "FAILURE"]
            words = [str(ends[number]["result"] or ends[number]["exception"]) for number in ids]
            assert "1 delivered" in words[0]
            assert "0 delivered, 1 refused: 0xC001" in words[1]
            assert "unreachable: connection refused" in words[2]
            assert "answers" in words[3]
            assert "1 rendered, 1 failed" in words[4]
            assert "0 rendered, 1 failed: " in words[5]
            assert not any(ends[number]["traceback"] for number in ids)
            assert "Traceback" not in "".join(
                (tmp_path / name).read_text() for name in ("forwarder", "worker", "log")
            )
            page = site.get("/broker", "reader:s3cr3t")[1]
            assert "transcode" in page
            assert "deliver" in page
            assert "<td>celery</td>" not in page
            assert spool.leases.batches() == []


def test_a_port_that_is_taken_is_named(tmp_path: Path, broker: str) -> None:
    with flower(tmp_path, broker) as site:
        second = subprocess.run(
            [*DICOMFERRY, "flower", "--config", str(site.config)],
            env=site.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert second.returncode == 2
    assert f"flower: cannot listen at 127.0.0.1:{site.port}" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
        ("::", False), ("10.1.2.3", False), ("no.such.host.invalid", False),
    ],
)  # fmt: skip
def test_only_what_this_machine_alone_reaches_is_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
