"""docker-compose.yml on a real engine: pytest -m containers, with DOCKER_HOST where it is not the default."""

import json
import urllib.error
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.images.files import fresh_copies, gdcm_pixels, native_pixels, syntax_of, uid_of
from tests.support.peers import dcmtk
from tests.support.running.containers import Composition, docker
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.running.site import progress

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]

SAMPLES = ("693_J2KR.dcm", "MR2_J2KR.dcm", "RG3_J2KR.dcm", "US1_J2KR.dcm")
EACH = 15
WORKERS = 3

CONFIGURATION = """
[[ae]]
title = "FERRY"

[[destination]]
name = "reading-room"
title = "WS1"
host = "host.docker.internal"
port = {port}
transfer_syntaxes = ["uncompressed"]

[[route]]
to = ["reading-room"]
"""


@pytest.fixture(scope="module")
def workstation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dcmtk.Workstation]:
    with dcmtk.Workstation(tmp_path_factory.mktemp("workstation") / "arrived", free_port()) as scp:
        yield scp


@pytest.fixture(scope="module")
def composition(
    workstation: dcmtk.Workstation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Composition]:
    folder = tmp_path_factory.mktemp("configuration")
    (folder / "dicomferry.toml").write_text(CONFIGURATION.format(port=workstation.port))
    # The containers run under a uid of their own, and pytest's folders are its user's alone.
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    composed = Composition(folder, free_port(), free_port())
    try:
        composed.compose("up", "--detach", "--build", "--scale", f"worker={WORKERS}", seconds=900)
        wait_until(lambda: not composed.unhealthy(), "every service to be healthy", seconds=300)
        yield composed
    finally:
        print(composed.unhealthy(), composed.compose("logs", "--no-color", "--tail", "200"))
        composed.remove()


def test_every_service_runs_and_the_worker_three_times(composition: Composition) -> None:
    services = ("redis", "ingest", "dispatcher", "worker", "forwarder", "flower")
    running = {service: len(composition.containers(service)) for service in services}
    assert running == dict.fromkeys(services, 1) | {"worker": WORKERS}
    assert not composition.unhealthy()


def test_a_wrong_configuration_is_said_once_and_nothing_else_starts(
    composition: Composition, tmp_path_factory: pytest.TempPathFactory
) -> None:
    del composition  # it has built the image
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "dicomferry.toml").write_text(CONFIGURATION.format(port=104).replace("title", "titel", 1))
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    wrong = Composition(folder, free_port(), free_port())
    try:
        with pytest.raises(AssertionError, match="failed"):
            wrong.compose("up", "--detach", seconds=300)
        assert "did you mean 'title'?" in wrong.compose("logs", "--no-color", "check-config")
        assert not [c for c in wrong.containers("ingest").values() if c["State"]["Running"]]
        assert not [c for c in wrong.containers("dispatcher").values() if c["State"]["Running"]]
    finally:
        wrong.remove()


def test_no_container_runs_as_root_or_may_write_to_its_image(composition: Composition) -> None:
    for container in composition.containers().values():
        assert container["HostConfig"]["ReadonlyRootfs"], container["Name"]
        assert container["Config"]["User"].partition(":")[0] not in {"", "0", "root"}, container["Name"]


def test_flower_asks_for_a_password(composition: Composition) -> None:
    for path in ("/", "/workers", "/api/tasks"):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            composition.flower(path, password=False)
        assert refusal.value.code == 401, path
        assert composition.flower(path)


def test_a_worker_killed_in_the_middle_costs_nothing_and_the_others_share_the_work(
    composition: Composition, workstation: dcmtk.Workstation, tmp_path: Path
) -> None:
    sources = {
        uid_of(path): path
        for sample in SAMPLES
        for path in fresh_copies(sample, EACH, tmp_path / "sources", StudyInstanceUID="2.25.60")
    }
    victim, *others = composition.containers("worker")

    sent = dcmtk.send(composition.port, list(sources.values()))
    assert sent.returncode == 0, sent.stdout + sent.stderr
    progress(lambda: len(workstation.files()), 5)
    docker("kill", "--signal", "KILL", victim)
    seen_before = len(workstation.files())
    progress(lambda: len(workstation.files()), len(sources))
    wait_until(lambda: not instances(composition), "an empty spool", seconds=60)

    assert seen_before < len(sources), "killed too late to prove anything"
    arrived = workstation.by_uid()
    assert Counter(map(uid_of, workstation.files())) == Counter(dict.fromkeys(sources, 1))
    assert {syntax_of(path) for path in arrived.values()} <= {"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"}
    for uid in list(sources)[::5]:
        assert native_pixels(arrived[uid]) == gdcm_pixels(sources[uid], tmp_path), sources[uid].name
    worked = hosts_that_transcoded(composition)
    assert {other[:12] for other in others} <= worked, worked


def instances(composition: Composition) -> str:
    """What stands on the spool."""
    (dispatcher,) = composition.containers("dispatcher")
    return docker("exec", dispatcher, "find", "/var/lib/dicomferry/instances", "-name", "*.dcm")


def hosts_that_transcoded(composition: Composition) -> set[str]:
    """Names of the containers (the first 12 digits of their ids) whose batches Flower saw succeed."""
    tasks = json.loads(composition.flower("/api/tasks?taskname=dicomferry.transcode&limit=1000"))
    nodes = {task["worker"] for task in tasks.values() if task["state"] == "SUCCESS"}
    return {node.partition("@")[2].partition("-")[0] for node in nodes}
