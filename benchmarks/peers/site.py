"""dicomferry itself, started as operators start it: all parts by `up`, or one by one."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.machine.programs import Programs, Sessions, free_port, wait_until
from benchmarks.machine.usage import children
from dicomferry.errors import FerryError
from dicomferry.settings import Settings, load
from dicomferry.spool.spool import SHARDS, Spool
from gateway.local import private_redis
from gateway.local.health import CHECKS, check

OURS = (sys.executable, "-P", "-m", "gateway.cli")
_CONFIGURATION = """\
spool = "spool"

[ingest]
port = {port}
{crowd}

[worker]
concurrency = {workers}

[flower]
port = {flower}

[[ae]]
title = "FERRY"

[[destination]]
name = "sink"
title = "SINK"
host = "127.0.0.1"
port = {sink}
transfer_syntaxes = {shown}

[[route]]
to = ["sink"]
"""


class Site:
    """A dicomferry with one destination: its configuration and its spool."""

    def __init__(
        self, folder: Path, sink: int, shown: list[str], workers: int = 1, program: Sequence[str] = OURS
    ) -> None:
        """`sink` is the destination's port, `shown` lists the transfer syntaxes that it shows.

        `program` is the command line of another dicomferry, which may be an older one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self._folder, self._program = folder, program
        self._config = folder / "dicomferry.toml"
        self._config.write_text(
            _CONFIGURATION.format(
                port=self.port,
                crowd="max_associations_per_host = 100"
                if program is OURS
                else "",  # an older one has no such key
                workers=workers,
                flower=free_port(),
                sink=sink,
                shown=str(shown).replace("'", '"'),
            )
        )

    def is_empty(self) -> bool:
        """Whether the spool holds no instance."""
        return not self.instances()

    @property
    def spool(self) -> Spool:
        """The spool of its parts."""
        return Spool(self._folder / "spool")

    def instances(self) -> list[str]:
        """The ids of all instances on the spool."""
        return [instance for shard in SHARDS for instance in self.spool.ids(shard)]

    def settings(self, broker: str) -> Settings:
        """The settings of its parts."""
        return load(self._config).model_copy(update={"broker": broker})

    @contextmanager
    def up(self, programs: Programs) -> Iterator[Sessions]:
        """`dicomferry up`, once it has said ``ready``; the sessions of its parts."""
        log = self._folder / "up.log"
        with programs.running(self._command("up"), log) as program:
            wait_until(
                lambda: "ready" in log.read_text().splitlines() or program.poll() is not None,
                "`up` to say ready",
            )
            sessions = {"up": program.pid}
            for pid, words in children(program.pid).items():
                name = next((word for word in words if word in CHECKS), "redis")
                if not any(word.endswith("warden") for word in words):
                    sessions[name] = pid
            yield sessions

    @contextmanager
    def redis(self, programs: Programs) -> Iterator[str]:
        """A private Redis; yields its URL."""
        private = private_redis.prepare()
        try:
            with programs.running(private.command, self._folder / "redis.log"):
                yield private.url
        finally:
            shutil.rmtree(private.folder)

    @contextmanager
    def part(self, programs: Programs, name: str, broker: str, *options: str) -> Iterator[int]:
        """One part, just started; yields its session."""
        command, environment = [*self._command(name), *options], {"DICOMFERRY_BROKER": broker}
        with programs.running(command, self._folder / f"{name}.log", environment) as program:
            yield program.pid

    def wait_for(self, name: str, broker: str) -> None:
        """Wait until a part's health check passes. Raises Failure."""
        settings = self.settings(broker)

        def answers() -> bool:
            try:
                check(name, settings, 1.0)
            except FerryError:
                return False
            return True

        wait_until(answers, f"{name} to answer")

    def _command(self, name: str) -> list[str]:
        return [*self._program, name, "--config", str(self._config)]
