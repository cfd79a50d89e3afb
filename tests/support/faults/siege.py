"""A whole dicomferry on this machine that is about to be mistreated, and everything that reaches into it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from dicomferry.spool.spool import Spool
from tests.support.faults.history import Left, Parked
from tests.support.running.processes import alive, command_lines, parent
from tests.support.running.site import Site

# The supervisor's backoff of up to half a minute would leave little to kill. Seconds:
_RESTART_WITHIN = 3.0
_UP = f"""
import sys
from gateway import cli
from gateway.local import supervisor, up
up.Patience = lambda: supervisor.Patience(longest={_RESTART_WITHIN})
sys.argv[0] = "dicomferry"
cli.main()
"""
# The wall clock of each process, as a file says; the monotonic one goes on, as it does in earnest.
_CLOCK = """
import os, time
_file, _real, _steady = os.environ["TEST_CLOCK"], time.time, time.monotonic
_seen = [0.0, 0.0]  # when it was last read, and by how many seconds the clock is wrong
def _now():
    if _steady() - _seen[0] > 0.2:
        try:
            with open(_file) as file:
                _seen[1] = float(file.read() or 0)
        except (OSError, ValueError):
            pass
        _seen[0] = _steady()
    return _real() + _seen[1]
time.time = _now
"""


class SiegedSite(Site):
    """`dicomferry up` whose parts can be found, stopped, starved and lied to."""

    def __init__(self, folder: Path, *destinations: dict[str, Any], **tables: Any) -> None:
        super().__init__(folder, *destinations, **tables)
        self.customs = folder / "customs"  # sitecustomize.py of every Python process
        self.customs.mkdir(exist_ok=True)
        self.clock = folder / "clock"
        self.clock.write_text("0")
        paths = os.pathsep.join(filter(None, (str(self.customs), os.environ.get("PYTHONPATH"))))
        self.environment = {"TEST_CLOCK": str(self.clock), "PYTHONPATH": paths}
        self.customize(_CLOCK)
        self._starts = 0

    def customize(self, source: str) -> None:
        """Let every process of the site run this first."""
        with (self.customs / "sitecustomize.py").open("a") as file:
            file.write(source)

    def start(self) -> Self:
        if self.log.exists():
            self._starts += 1
            self.log.rename(self.log.with_suffix(f".{self._starts}.log"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _UP, "up", "--config", str(self.config)],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | self.environment,
            )
        deadline = time.monotonic() + 90
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                words = self.log.read_text()[-8000:]
                self.stop()
                raise AssertionError(f"`up` is not ready:\n{words}")
            time.sleep(0.05)
        return self

    @property
    def up(self) -> int:
        """The process of `up` itself."""
        assert self._process is not None
        return self._process.pid

    def logs(self) -> str:
        """Everything that was logged, by all starts."""
        logs = sorted(self.folder.glob("up*.log"), key=lambda path: path.stat().st_mtime)
        return "".join(path.read_text(errors="replace") for path in logs)

    # Parts

    def processes(self, part: str) -> list[int]:
        """The processes of a part, the one that was started first."""
        if part == "redis":
            mark = str(self.runtime_folder)
            found = [p for p, line in command_lines().items() if "redis-server" in line and mark in line]
        else:
            mark = f"gateway.cli {part} --config {self.config}"
            found = [p for p, line in command_lines().items() if mark in line and "/bin/sh" not in line]
        found = [pid for pid in found if alive(pid)]
        return sorted(found, key=lambda pid: parent(pid) in found)

    def signal(self, number: int, *pids: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_up(self) -> None:
        """Kill `up` itself, and wait until the warden has taken the rest along."""
        assert self._process is not None
        runtime = self.runtime_folder
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + 20
        while runtime.exists() and time.monotonic() < deadline:
            time.sleep(0.05)

    # Redis

    def redis(self) -> Redis:
        folder = self.runtime_folder
        content = (folder / "redis.conf").read_text()
        password = next(line.split()[1] for line in content.splitlines() if line.startswith("requirepass"))
        client: Redis = Redis(
            unix_socket_path=str(folder / "redis.sock"), password=password, socket_timeout=2
        )
        return client

    # The spool

    def on_spool(self) -> tuple[list[Parked], list[Left]]:
        """What stands on the spool: what is parked, and what is left to be done."""
        spool, parked, left = Spool(self.spool), [], []
        for name in self.instances():
            try:
                state = spool.state(name)
            except (OSError, ValueError):
                continue
            if state is None:
                continue
            uid = state.instance.sop_instance_uid
            for destination in state.dead:
                record = spool.marker(name, "dead", destination) or {}
                parked.append(Parked(uid, destination, str(record.get("reason", ""))))
            left += [Left(uid, destination) for destination in state.pending]
            if not state.dead and not state.pending:
                left.append(Left(uid, ""))
        for path in (self.spool / "quarantine").glob("*/reason.json"):
            record = json.loads(path.read_text())
            parked.append(Parked(record["sop_instance_uid"], "", record["reason"]))
        return parked, left

    def litter(self) -> list[str]:
        """What should not be there when nothing is left to be done; it may still be on its way out."""
        standing = set(self.instances())
        found = []
        for folder, folders, files in os.walk(self.spool):  # which passes over what has just gone
            where = Path(folder).relative_to(self.spool)
            names = [*folders, *files]
            if where.parts[:1] == ("incoming",):
                found += [str(where / name) for name in files]
            elif str(where) in {"leases", "trash", "delivered"}:
                found += [str(where / name) for name in names]
            elif where.parent == Path("renditions"):
                found += [str(where / name) for name in names if name not in standing]
            found += [str(where / name) for name in names if name.endswith(".tmp")]
        return found


class SmallDisk:
    """A file system of its own in memory, which can be filled; needs to be root."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        self._megabytes = megabytes
        self.mounted = False

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        mount = [
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={self._megabytes}m",
            "dicomferry-test",
            str(self.folder),
        ]
        with suppress(OSError):
            self.mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self) -> None:
        """Leave no byte."""
        with suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while file.write(b"\0" * 65536):
                pass

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


def answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False


STOP, CONTINUE, KILL = signal.SIGSTOP, signal.SIGCONT, signal.SIGKILL
