"""Health checks: only work is health. A part that exists but is stuck is unwell, and so is another's."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages import broker
from dicomferry.messages.events import EVENTS_KEY
from dicomferry.settings import Settings
from gateway.local import health
from tests.support.peers.scps import black_hole, pynetdicom_scp
from tests.support.running.configuration import configured, destination
from tests.support.running.ports import free_port
from tests.support.running.processes import DICOMFERRY, wait_until
from tests.support.running.redis import private_redis
from tests.support.stages.ingesting import an_ingest, associated
from tests.support.stages.spools import a_spool

PATIENCE = 1.0

# A node with a name as the parts give it, and nothing else of them.
NODE = """
import sys
from celery import Celery
Celery(broker=sys.argv[1]).Worker(pool="solo", hostname=sys.argv[2], quiet=True).start()
"""


def settings(broker_url: str | None = None, *, port: int = 11112, **tables: Any) -> Settings:
    return Settings(
        **{
            "broker": broker_url,
            "ingest": {"port": port},
            "ae": [{"title": "FERRY"}],
            "destination": [{"name": "ws", "title": "WS", "host": "127.0.0.1", "port": 104}],
            "route": [{"to": ["ws"]}],
        }
        | tables
    )


@contextmanager
def node(url: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
    running = subprocess.Popen([sys.executable, "-c", NODE, url, name], stderr=subprocess.DEVNULL)
    app = broker.celery_app(settings(url))
    try:
        wait_until(lambda: app.control.inspect([name], timeout=0.5).ping(), name, seconds=30)
        yield running
    finally:
        app.close()
        running.kill()
        running.wait()


def test_an_scp_that_answers_is_well_and_one_that_only_takes_connections_is_not() -> None:
    with pynetdicom_scp() as scp:
        health.check("ingest", settings(port=scp.port))
    with black_hole() as port, pytest.raises(health.Unhealthy, match="does not answer"):
        health.check("ingest", settings(port=port), PATIENCE)
    with pytest.raises(health.Unhealthy, match="does not answer"):
        health.check("ingest", settings(port=free_port()), PATIENCE)


def test_an_scp_that_ends_the_association_before_the_echo_is_unwell(monkeypatch: pytest.MonkeyPatch) -> None:
    echo = Association.send_c_echo
    acceptors: list[Association] = []

    def late(association: Association) -> Any:
        acceptors[0].abort()
        wait_until(lambda: not association.is_established, "the abort")
        return echo(association)

    monkeypatch.setattr(Association, "send_c_echo", late)
    with (
        pynetdicom_scp(requested=lambda event: acceptors.append(event.assoc)) as scp,
        pytest.raises(health.Unhealthy, match="does not answer a C-ECHO"),
    ):
        health.check("ingest", settings(port=scp.port))


def test_an_scp_that_answers_only_to_named_callers_is_called_by_such_a_name() -> None:
    entities = [{"title": "FERRY", "callers": [{"title": "PACS"}]}]
    with pynetdicom_scp(require_calling_aet=["PACS"]) as scp:
        health.check("ingest", settings(port=scp.port, ae=entities))
        assert scp.callers == ["PACS"]


def restricted(*callers: dict[str, str]) -> list[dict[str, Any]]:
    return [{"title": "FERRY", "callers": list(callers)}]


@pytest.mark.parametrize(
    "ae",
    [[{"title": "FERRY"}], restricted({"title": "PACS"}), restricted({"title": "PACS", "host": "10.0.0.5"})],
    ids=["open", "named", "rejected"],
)
def test_a_check_of_ingest_that_is_well_is_not_logged_and_a_sender_is(
    tmp_path: Path, ae: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with private_redis() as url, an_ingest(tmp_path, ae=ae, broker=url) as ingest:
        caplog.clear()
        for _ in range(3):
            health.check("ingest", ingest.settings)
        wait_until(lambda: not ingest.listener.connections(), "the checks to end")
        assert not [record.getMessage() for record in caplog.records if record.name.startswith("ingest")]
        assert not broker.client_for(url).llen(EVENTS_KEY)
        with associated(ingest.port, (str(CTImageStorage), [EXPLICIT_LE])):
            pass
        wait_until(lambda: "PACS at 127.0.0.1" in caplog.text, "the line of a sender")


@pytest.mark.parametrize("part", ["dispatcher", "worker", "forwarder", "flower"])
def test_a_check_of_a_part_that_is_well_leaves_no_line_in_its_log(tmp_path: Path, part: str) -> None:
    with private_redis() as url:
        config = configured(tmp_path, destination("ws", 1), broker=url, flower={"port": free_port()})
        log = tmp_path / "log"
        with log.open("wb") as output:
            running = subprocess.Popen(
                [*DICOMFERRY, part, "--config", str(config)], stdout=output, stderr=output
            )

        def check() -> "subprocess.CompletedProcess[str]":
            command = [*DICOMFERRY, "health", part, "--config", str(config)]
            return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)

        try:
            wait_until(lambda: check().returncode == 0, part, seconds=100)
            before = log.read_text()
            for _ in range(2):
                checked = check()
                assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
            running.terminate()
            assert running.wait(timeout=60) == 0
        finally:
            running.kill()
            running.wait()
        said = [line for line in log.read_text().removeprefix(before).splitlines() if f" {part} " in line]
        # Of its own accord, Flower asks for workers, of which there are none.
        assert [line for line in said if "Stop" not in line and "Inspect method" not in line] == []


def test_a_dispatcher_is_well_while_its_status_on_the_spool_is_fresh_and_redis_answers_it(
    tmp_path: Path,
) -> None:
    spool = a_spool(tmp_path / "spool")
    now = time.time()
    cases = [
        (None, "not said anything"),
        ({"at": now - 60, "redis": True}, r"said nothing for 6\d s"),
        ({"at": now, "redis": False}, "Redis does not answer"),
    ]
    for status, complaint in cases:
        if status is not None:
            spool.write_status(status)
        with pytest.raises(health.Unhealthy, match=complaint):
            health.check("dispatcher", settings(spool=spool.root))
    spool.write_status({"at": now, "redis": True})
    health.check("dispatcher", settings(spool=spool.root))
    spool.forget_status()
    with pytest.raises(health.Unhealthy, match="not said anything"):
        health.check("dispatcher", settings(spool=spool.root))


def test_a_worker_answers_for_itself_and_a_frozen_one_does_not() -> None:
    here = socket.gethostname()
    with private_redis() as url, node(url, f"worker@{here}-1a2b3c") as worker:
        health.check("worker", settings(url))
        with pytest.raises(health.Unhealthy, match="forwarder"):
            health.check("forwarder", settings(url), PATIENCE)
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(health.Unhealthy, match="answers a ping"):
            health.check("worker", settings(url), PATIENCE)


def test_the_worker_of_another_container_does_not_answer_for_this_one() -> None:
    with (
        private_redis() as url,
        node(url, "worker@another-host-1a2b3c"),
        pytest.raises(health.Unhealthy, match="answers a ping"),
    ):
        health.check("worker", settings(url), PATIENCE)


def test_without_redis_every_part_that_needs_it_is_unwell(tmp_path: Path) -> None:
    for part in ("worker", "forwarder"):
        with pytest.raises(health.Unhealthy, match="Redis does not answer"):
            health.check(part, settings(f"redis+socket://{tmp_path}/none?virtual_host=0"), PATIENCE)


def test_a_page_that_is_not_served_is_unwell() -> None:
    with pytest.raises(health.Unhealthy, match="does not serve"):
        health.check("flower", settings(flower={"port": free_port()}), PATIENCE)
