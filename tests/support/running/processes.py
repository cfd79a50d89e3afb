"""Starting, waiting for, and looking at, processes."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

DICOMFERRY = (sys.executable, "-P", "-m", "gateway.cli")


SLOWER = 4  # times: so much slower may a machine be, or so much busier


def wait_until(
    holds: Callable[[], object], what: str, seconds: float = 10.0, *, strictly: bool = False
) -> None:
    """Poll until `holds()` is true; fail at last, saying what was waited for.

    That takes `seconds` on an idle machine, and may take `SLOWER` times that on others; unless `strictly`,
    where the time is what is tested.
    """
    patience = seconds if strictly else SLOWER * seconds
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"waited {patience:g} s in vain for {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def parent(pid: int) -> int:
    """The process that a process belongs to; 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return 0


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    return sorted(found for found in command_lines() if parent(found) == pid and alive(found))


def open_files(pid: int) -> set[str]:
    """What a process and its children have open, as paths, sockets and the like."""
    found = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            found |= open_files(int(child))
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add(str(link.readlink()))
    return found


def command_lines() -> dict[int, str]:
    """The arguments of every process, as anyone on this machine can read them."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found[int(folder.name)] = (
                (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found
