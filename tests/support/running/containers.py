"""The composition of docker-compose.yml, run by a real engine beside whatever else runs there."""

import base64
import json
import os
import shutil
import subprocess
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from tests.support.running.services import missing

ROOT = Path(__file__).parents[3]
_PASSWORD = uuid.uuid4().hex

# What this machine needs and another may not stays out of docker-compose.yml: a build that reaches the
# package index by the host's own network.
_OVERRIDE = f"services:\n  check-config: {{build: {{context: '{ROOT}', network: host}}}}\n"


def compose_command() -> list[str]:
    """`docker compose`, else docker-compose 1.29; the test is given up where no engine answers."""
    if not shutil.which("docker") or _quiet("docker", "info"):
        missing("no Docker engine answers; set DOCKER_HOST")
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and not _quiet(*command, "version"):
            return command
    return missing("neither docker compose nor docker-compose is here")


def _quiet(*command: str) -> int:
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


class Composition:
    """One project with ports, configuration and spool of its own."""

    def __init__(self, folder: Path, port: int, flower_port: int) -> None:
        self.port, self.flower_port = port, flower_port
        override = folder / "override.yml"
        override.write_text(_OVERRIDE)
        self._project = f"ferrytest{uuid.uuid4().hex[:8]}"
        files = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(override))
        self._compose = [*compose_command(), "-p", self._project, *files]
        self._environment = os.environ | {
            "FERRY_CONFIG": str(folder),
            "FERRY_PORT": str(port),
            "FERRY_FLOWER_PORT": str(flower_port),
            "DICOMFERRY_FLOWER__PASSWORD": _PASSWORD,
        }

    def compose(self, *arguments: str, seconds: float = 120) -> str:
        """Run a compose command; its output. Fails with that output where the command does."""
        ran = subprocess.run(
            [*self._compose, *arguments],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=seconds,
        )
        assert ran.returncode == 0, f"compose {' '.join(arguments)} failed:\n{ran.stdout[-4000:]}"
        return ran.stdout

    def containers(self, service: str = "") -> dict[str, dict[str, Any]]:
        """What the engine says of each container (of one service), stopped ones too, by id."""
        wanted = ["--filter", f"label=com.docker.compose.project={self._project}"]
        if service:
            wanted += ["--filter", f"label=com.docker.compose.service={service}"]
        ids = docker("ps", "--all", "--quiet", "--no-trunc", *wanted).split()
        return {found["Id"]: found for found in json.loads(docker("inspect", *ids))} if ids else {}

    def unhealthy(self) -> dict[str, str]:
        """The containers that are not healthy (yet), and what the last check of each said."""
        return {
            container["Name"]: _last_word(container)
            for container in self.containers().values()
            if container["State"].get("Health", {}).get("Status") != "healthy" and not _is_done(container)
        }

    def flower(self, path: str, *, password: bool = True) -> bytes:
        """A page of Flower's.

        Raises:
            urllib.error.HTTPError: it refuses.
        """
        request = urllib.request.Request(f"http://127.0.0.1:{self.flower_port}{path}")
        if password:
            credentials = base64.b64encode(f"dicomferry:{_PASSWORD}".encode()).decode()
            request.add_header("Authorization", f"Basic {credentials}")
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310  http
            page: bytes = answer.read()
        return page

    def remove(self) -> None:
        """Stop and delete everything but the image."""
        self.compose("down", "--volumes", "--timeout", "20")


def docker(*arguments: str) -> str:
    """Run a docker command; its output."""
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def _is_done(container: dict[str, Any]) -> bool:
    """Whether it had one thing to do, and has done it."""
    state = container["State"]
    return "Health" not in state and state["Status"] == "exited" and state["ExitCode"] == 0


def _last_word(container: dict[str, Any]) -> str:
    state = container["State"]
    checks = state.get("Health", {}).get("Log") or []
    return f"{state['Status']}: {checks[-1]['Output'].strip()[-300:] if checks else 'not checked yet'}"
