"""A whole dicomferry on this machine, in a folder of its own: what an operator starts with `up`."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from tests.support.running.configuration import configured
from tests.support.running.ports import free_port
from tests.support.running.processes import DICOMFERRY, alive, command_lines, wait_until

_START = 90.0  # seconds
_STOP = 30.0
_SOCKET = re.compile(r"@([^ @]*/dicomferry-[^/ ]+)/redis\.sock")


class Site:
    """`dicomferry up` with one called AE title, FERRY, that sends everything to all `destinations`."""

    def __init__(self, folder: Path, *destinations: dict[str, Any], **tables: Any) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.port = free_port()
        self.flower_port = free_port()
        self.log = folder / "up.log"
        content = {
            "spool": str(self.spool),
            "ingest": {"port": self.port, "min_free_mb": 1},
            "worker": {"concurrency": 2},
            "flower": {"port": self.flower_port},
            "route": [{"called": "FERRY", "to": [each["name"] for each in destinations]}],
        } | tables
        self.config = configured(folder, *destinations, **content)
        self._options: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None

    def with_options(self, *options: str) -> Self:
        """Give `up` these options when it starts."""
        self._options = options
        return self

    def start(self) -> Self:
        log = self.log.open("ab")
        self._process = subprocess.Popen(
            [
                *DICOMFERRY,
                "up",
                "--config",
                str(self.config),
                *self._options,
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        try:
            wait_until(lambda: self._ready() or self._process.poll() is not None, "`ready`", _START)
            assert self._process.poll() is None, "`up` gave up"
        except BaseException:
            print(self.log.read_text()[-8000:])
            self.stop()
            raise
        return self

    def _ready(self) -> bool:
        return "ready" in self.log.read_text().splitlines()

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            raise AssertionError(f"`up` did not stop:\n{self.log.read_text()[-3000:]}") from None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is not None:
            print(self.log.read_text()[-8000:])

    def pids(self, part: str) -> list[int]:
        """Processes of one part, its pool included."""
        mark = f"gateway.cli {part} --config {self.config}"
        return [pid for pid, line in command_lines().items() if mark in line and alive(pid)]

    @property
    def runtime_folder(self) -> Path:
        """Where the private Redis has its socket, as Celery's log tells."""
        found: list[str] = []

        def told() -> bool:
            found[:] = _SOCKET.findall(self.log.read_text(errors="replace"))
            return bool(found)

        # A part's lines reach the log a moment after they were written, perhaps after `ready`.
        wait_until(told, "a part to say that it has connected")
        return Path(found[0])

    def kill(self, part: str) -> None:
        """SIGKILL every process of a part, as the kernel does when memory runs out."""
        pids = self.pids(part)
        assert pids, f"no {part} runs"
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a dicomferry command with this site's configuration."""
        return subprocess.run(
            [*DICOMFERRY, *words, "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        """What `dicomferry status --json` says."""
        content: dict[str, Any] = json.loads(self.command("status", "--json").stdout)
        return content

    def lane(self, name: str) -> dict[str, Any]:
        """One lane of `status`."""
        lane: dict[str, Any] = next(lane for lane in self.status()["lanes"] if lane["destination"] == name)
        return lane

    def instances(self) -> list[str]:
        """Ids of the instances that stand on the spool."""
        return sorted({path.name.removesuffix(".dcm") for path in (self.spool / "instances").glob("*/*")})

    def wait_drained(self, seconds: float = 60.0) -> None:
        """Wait until every instance is delivered everywhere and retired."""
        wait_until(lambda: not self.instances(), "an empty spool", seconds)


def progress(count: "Any", wanted: int, idle: float = 200.0) -> None:
    """Wait for `count()` to reach `wanted`; fail when nothing has moved for `idle` seconds."""
    seen, moved = -1, time.monotonic()
    while seen < wanted:
        now = count()
        if now != seen:
            seen, moved = now, time.monotonic()
        assert time.monotonic() - moved < idle, f"stuck at {seen} of {wanted}"
        time.sleep(0.1)
