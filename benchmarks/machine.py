"""Programs that a benchmark runs, and what the kernel says of them (proc(5))."""

import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.local.warden import WAIT_FOR_GO, Warden

Environment = Mapping[str, str]
Sessions = Mapping[str, int]  # by part: the id of the session that its processes are in

_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds
_GRACE = 30.0  # seconds from SIGTERM to SIGKILL
# Debian's folders first: pynetdicom and others put tools of the same names into a venv.
_FOLDERS = os.pathsep.join(("/usr/local/bin", "/usr/bin", "/usr/sbin"))


class Failure(Exception):  # noqa: N818  a finding about a contender
    """A contender does not do what it was asked; ``str()`` says what happened."""


def tool(name: str) -> str:
    """The path of a program that a package installs. Raises Failure where it is missing."""
    found = shutil.which(name, path=_FOLDERS)
    if found is None:
        raise Failure(f"{name} is not installed")
    return found


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(holds: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Poll until `holds()` is true; never used inside of a measured span."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise Failure(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)


def is_listening(port: int) -> bool:
    """Whether somebody listens there, found out without a connection, which a stock storescp would serve."""
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines():
            columns = line.split()
            if columns[1].endswith(f":{port:04X}") and columns[3] == "0A":
                return True
    return False


class Programs:
    """Starts programs; each ends with its context, and all where this process is killed, with `folder`."""

    def __init__(self, folder: Path) -> None:
        self._warden = Warden([folder])

    @contextmanager
    def running(
        self, command: Sequence[str], log: Path, environment: Environment | None = None
    ) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a program in a session of its own; what it says goes to the file `log`."""
        # What an operator has set for a real dicomferry is not for this one.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DICOMFERRY_")}
        waiting, go = os.pipe()
        with log.open("ab") as words:
            program = subprocess.Popen(
                [*WAIT_FOR_GO, *command],
                stdin=waiting,
                stdout=words,
                stderr=words,
                env=inherited | dict(environment or {}),
                start_new_session=True,
            )
        os.close(waiting)
        self._warden.register(program.pid, go)
        try:
            yield program
        except Failure as failure:
            if program.poll() is None:
                raise
            how = signal.Signals(-program.returncode).name if program.returncode < 0 else program.returncode
            raise Failure(f"{Path(command[0]).name} has ended: {how}") from failure
        finally:
            program.terminate()
            with suppress(subprocess.TimeoutExpired):
                program.wait(_GRACE)
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.wait()
            self._warden.forget(program.pid)

    def close(self) -> None:
        """End what is left, and remove the folder."""
        self._warden.close()


@dataclass(frozen=True)
class Usage:
    """What the processes of one part have used since they began."""

    cpu: float = 0.0  # seconds, of children that have ended too
    written: int = 0  # bytes of pages that were written to
    spared: int = 0  # bytes of those that were deleted before they went to the disk, by whoever deleted them
    peak: int = 0  # bytes resident at most, summed over the processes that are there

    def since(self, before: "Usage") -> "Usage":
        """What was used after `before`; the peak is that of the whole life."""
        return Usage(
            self.cpu - before.cpu, self.written - before.written, self.spared - before.spared, self.peak
        )


def usage(sessions: Sessions) -> dict[str, Usage]:
    """What each part has used until now."""
    parts = {session: name for name, session in sessions.items()}
    found = {name: Usage() for name in sessions}
    for pid, session, cpu in _processes():
        name = parts.get(session)
        if name is not None:
            before = found[name]
            written, spared = _number(pid, "io", "write_bytes:"), _number(pid, "io", "cancelled_write_bytes:")
            peak = _number(pid, "status", "VmHWM:") * 1024
            found[name] = Usage(
                before.cpu + cpu, before.written + written, before.spared + spared, before.peak + peak
            )
    return found


def children(parent: int) -> dict[int, list[str]]:
    """The command of each process that `parent` has started and that still runs."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if _fields(folder)[1] == str(parent):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode().split("\0")[:-1]
    return found


def _processes() -> Iterator[tuple[int, int, float]]:
    """Process id, session, and seconds of processor time of every process, its ended children included."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            fields = _fields(folder)
            yield int(folder.name), int(fields[3]), sum(map(int, fields[11:15])) * _TICK


def _fields(folder: Path) -> list[str]:
    """The fields of stat behind the command's name, which may hold anything: state, ppid, pgrp, session..."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def _number(pid: int, table: str, name: str) -> int:
    """A number from a table of names and numbers; 0 where the process has ended or is not ours to see."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{table}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def described(folder: Path) -> dict[str, Any]:
    """This machine, for whoever reads the figures later."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), "")
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    below = [m for m in mounts if folder.is_relative_to(m[1])]
    return {
        "processor": model,
        "cores": cores(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": max(below, key=lambda m: len(m[1]))[2] if below else "",
        "load_before": os.getloadavg()[0],
    }


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))
