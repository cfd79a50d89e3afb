"""What the kernel says of processes and of this machine (proc(5))."""

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine.programs import Sessions

_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds


@dataclass(frozen=True)
class Usage:
    """What the processes of one part have used since they began."""

    cpu: float = 0.0  # seconds, of children that have ended too
    written: int = 0  # bytes of pages that were written to
    spared: int = 0  # bytes of those that were deleted before they went to the disk, by any process
    peak: int = 0  # resident bytes at most, summed over the processes that still run

    def since(self, before: "Usage") -> "Usage":
        """What was used since `before`; the peak is that of the whole life."""
        return Usage(
            self.cpu - before.cpu, self.written - before.written, self.spared - before.spared, self.peak
        )


def usage(sessions: Sessions) -> dict[str, Usage]:
    """What each part has used so far."""
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
    """The commands of the children of `parent` that still run, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            if _fields(folder)[1] == str(parent):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode().split("\0")[:-1]
    return found


def _processes() -> Iterator[tuple[int, int, float]]:
    """Process id, session and seconds of processor time (with ended children) of every process."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            fields = _fields(folder)
            yield int(folder.name), int(fields[3]), sum(map(int, fields[11:15])) * _TICK


def _fields(folder: Path) -> list[str]:
    """The fields of stat after the command's name (which may hold any character): state, ppid, pgrp..."""
    return (folder / "stat").read_text().rpartition(")")[2].split()


def _number(pid: int, table: str, name: str) -> int:
    """The number beside `name` in a table; 0 where the process has ended or we may not read it."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/{table}").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


def describe(folder: Path) -> dict[str, Any]:
    """This machine, to be kept with the figures."""
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
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
