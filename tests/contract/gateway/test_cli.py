"""The command line: exit codes and refusals, as scripts and operators meet them."""

import fcntl
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomferry import __version__
from dicomferry.messages.broker import celery_app
from dicomferry.settings import load
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port
from tests.support.running.processes import DICOMFERRY, command_lines, wait_until
from tests.support.running.redis import redis_of_up
from tests.support.running.site import Site
from tests.support.stages.spools import a_spool


def ferry(*words: object, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*DICOMFERRY, *map(str, words)],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site", destination("ws", free_port()))


def test_a_right_configuration_is_said_to_be_right(site: Site, tmp_path: Path) -> None:
    checked = ferry("check-config", "--config", site.config, folder=tmp_path)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "1 destination," in checked.stdout
    assert not site.spool.exists(), "checking starts nothing"


def test_a_right_configuration_with_something_odd_is_right_and_says_what(site: Site, tmp_path: Path) -> None:
    checked = ferry("check-config", "--config", site.config, folder=tmp_path, DICOMFERRY_BROKR="1")
    assert checked.returncode == 0
    assert f"{site.config}: warning: DICOMFERRY_BROKR in the environment sets nothing" in checked.stdout
    assert f"{site.config}: 1 warning; " in checked.stdout


@pytest.mark.parametrize("words", [("status",), ("explain", "1.2.3"), ("health", "dispatcher")])
def test_a_spool_that_cannot_be_read_is_named_in_a_sentence(
    site: Site, tmp_path: Path, words: tuple[str, ...]
) -> None:
    site.spool.write_text("no folder")
    said = ferry(*words, "--config", site.config, folder=tmp_path)
    assert said.returncode == 1
    assert said.stderr == f"dicomferry: {site.spool / 'status.json'}: Not a directory\n"


def test_status_check_ends_with_1_where_something_needs_a_person(site: Site, tmp_path: Path) -> None:
    site.spool.mkdir()
    spool = a_spool(site.spool)
    lane = dict.fromkeys(("pending", "rendering", "ready", "sending", "delivered", "dead"), 0)
    lane |= {"destination": "ws", "title": "WS1", "circuit": "closed", "since": None, "probe_at": None}
    counts = dict.fromkeys(("instances", "parked", "quarantined", "batches", "orders"), 0)
    far = time.time() + 3600  # as fresh when a slow machine reads it
    for dead, code in ((0, 0), (4, 1)):
        spool.write_status(
            {"at": far, "read_at": far, "redis": True, "lanes": [lane | {"dead": dead}]} | counts
        )
        checked = ferry("status", "--check", "--config", site.config, folder=tmp_path)
        assert (checked.returncode, bool(checked.stdout)) == (code, code == 1), checked.stderr
    assert checked.stdout.startswith("4 dead deliveries: ")
    shown = ferry("status", "--config", site.config, folder=tmp_path).stdout
    assert "4 dead deliveries" in shown
    assert "parked" not in shown


@pytest.mark.parametrize("words", [("dead", "list"), ("dead", "retry"), ("reroute",), ("resend",)])
def test_a_filter_that_names_an_unknown_destination_is_refused(
    site: Site, tmp_path: Path, words: tuple[str, ...]
) -> None:
    refused = ferry(*words, "--destination", "nowhere", "--config", site.config, folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == "dicomferry: no destination is named 'nowhere'; there are ws\n"


def test_a_wrong_configuration_ends_with_2_and_says_what_would_be_right(site: Site, tmp_path: Path) -> None:
    site.config.write_text(site.config.read_text().replace('["ws"]', '["nowhere"]'))
    for command in ("check-config", "up", "ingest", "dispatcher", "worker", "forwarder", "flower"):
        refused = ferry(command, "--config", site.config, folder=tmp_path)
        assert refused.returncode == 2, command
        assert refused.stderr == (
            f"dicomferry: {site.config}: route.0.to: unknown destination 'nowhere'; there are ws\n"
        )


def test_without_a_configuration_the_default_is_named(tmp_path: Path) -> None:
    refused = ferry("check-config", folder=tmp_path)
    assert refused.returncode == 2
    assert "dicomferry.toml: no such file" in refused.stderr


def test_an_unknown_command_ends_with_2(tmp_path: Path) -> None:
    assert ferry("ferry", folder=tmp_path).returncode == 2


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert ferry("--version", folder=tmp_path).stdout == f"dicomferry {__version__}\n"


def test_a_part_that_runs_alone_without_a_broker_is_told_what_to_set(site: Site, tmp_path: Path) -> None:
    for part in ("dispatcher", "worker", "forwarder", "flower"):
        refused = ferry(part, "--config", site.config, folder=tmp_path)
        assert refused.returncode == 2, (part, refused.stderr)
        assert "DICOMFERRY_BROKER" in refused.stderr, part
        assert "Traceback" not in refused.stderr, part


def helps(*words: str, folder: Path) -> str:
    return ferry(*words, "--help", folder=folder, COLUMNS="80").stdout


def test_help_lists_each_command_with_a_whole_sentence(tmp_path: Path) -> None:
    lines = helps(folder=tmp_path).partition("Commands:\n")[2].splitlines()
    assert len(lines) > 15
    assert [line for line in lines if not line.endswith(".") or line.endswith("..")] == []


def test_help_names_no_type_that_says_nothing(tmp_path: Path) -> None:
    for command in (
        "demo",
        "up",
        "dispatcher",
        "transcode",
        "status",
        "dead",
        "quarantine",
        "reroute",
        "resend",
    ):
        said = helps(command, folder=tmp_path)
        assert "--help" in said
        assert "<bool>" not in said, command
        assert max(map(len, said.splitlines())) <= 80, command


def test_help_loads_no_stage_and_no_celery(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom gateway import cli\ntry: cli.app(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'celery', 'pynetdicom', 'numpy', 'ingest', 'dispatcher', 'workers', 'forwarder'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    shown = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert shown.stderr == "[]\n"


def test_health_of_a_part_that_is_not_there_ends_with_1(site: Site, tmp_path: Path) -> None:
    asked = ferry("health", "ingest", "--config", site.config, folder=tmp_path)
    assert asked.returncode == 1
    assert "does not answer" in asked.stderr


@pytest.mark.parametrize("section", ["ingest", "flower"])
def test_up_names_the_port_that_is_taken_and_starts_nothing(site: Site, tmp_path: Path, section: str) -> None:
    port = site.port if section == "ingest" else site.flower_port
    with socket.create_server(("127.0.0.1", port)):
        refused = ferry("up", "--config", site.config, folder=tmp_path)
    assert refused.returncode == 2
    assert f"{section}: cannot listen at 127.0.0.1:{port}: another program listens there" in refused.stderr
    assert not [line for line in command_lines().values() if str(site.config) in line]


def test_up_names_an_address_that_is_not_this_machines(site: Site, tmp_path: Path) -> None:
    refused = ferry("up", "--config", site.config, folder=tmp_path, DICOMFERRY_INGEST__HOST="192.0.2.1")
    assert refused.returncode == 2
    assert "ingest: cannot listen at 192.0.2.1" in refused.stderr


def test_up_names_a_spool_that_cannot_be_made(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = ferry("up", "--config", site.config, folder=tmp_path, DICOMFERRY_SPOOL=str(tmp_path / "file"))
    assert refused.returncode == 2
    assert f"spool {tmp_path / 'file'}: cannot be used" in refused.stderr


def test_up_stops_with_the_part_that_refuses_to_start(site: Site, tmp_path: Path) -> None:
    # A dispatcher holds the spool already: the second one is Misconfigured, which restarting does not cure.
    site.spool.mkdir()
    with (site.spool / "dispatcher.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = ferry("up", "--config", site.config, folder=tmp_path)
    assert refused.returncode == 2
    assert "another dispatcher works on the spool" in refused.stderr
    assert "dispatcher refuses to start" in refused.stderr
    assert not [line for line in command_lines().values() if str(site.config) in line]


# The worker's Celery, with a task that outlasts everybody's patience.
SLEEPER = """
import sys, time
from pathlib import Path
from gateway import cli
cli._configure_celery_signals()
from dicomferry.messages.broker import celery_app
from dicomferry.settings import load
app = celery_app(load(Path(sys.argv[1])))

@app.task(name="sleep")
def sleep():
    print("asleep", flush=True)
    time.sleep(1000)

app.Worker(pool="prefork", concurrency=1, queues=["transcode"], quiet=True).start()
"""


@pytest.fixture
def broker() -> Iterator[str]:
    with redis_of_up() as url:
        yield url


@pytest.mark.parametrize("part", ["worker", "forwarder"])
def test_celerys_parts_stop_by_sigterm(site: Site, tmp_path: Path, broker: str, part: str) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        program = subprocess.Popen(
            [*DICOMFERRY, part, "--config", str(site.config)],
            env={"DICOMFERRY_BROKER": broker},
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: " ready." in log.read_text(), f"the {part}", seconds=40)
        program.terminate()
        assert program.wait(timeout=80) == 0
    finally:
        program.kill()
        program.wait()


def test_a_worker_with_a_batch_that_does_not_end_stops_all_the_same(
    site: Site, tmp_path: Path, broker: str
) -> None:
    # What REMAP_SIGTERM is for: without it, the warm shutdown would wait for the batch.
    log = tmp_path / "log"
    with log.open("wb") as output:
        program = subprocess.Popen(
            [sys.executable, "-P", "-c", SLEEPER, str(site.config)],
            env={"DICOMFERRY_BROKER": broker},
            stdout=output,
            stderr=output,
        )
    try:
        app = celery_app(load(site.config).model_copy(update={"broker": broker}))
        app.send_task("sleep", queue="transcode")
        wait_until(lambda: "asleep" in log.read_text(), "the batch to run", seconds=40)
        # Celery waits for the end of a batch that its main process does not know to have begun.
        wait_until(lambda: any((app.control.inspect().active() or {}).values()), "Celery to know", seconds=40)
        program.terminate()
        program.wait(timeout=80)
        assert not [line for line in command_lines().values() if str(site.config) in line]
    finally:
        program.kill()
        program.wait()
