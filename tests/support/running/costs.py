"""What a part asks of the kernel, counted: calls, syncs, bytes; never seconds."""

import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.running.processes import DICOMFERRY
from tests.support.running.traces import calls_in

# How often a part waits, and how its threads and its memory are kept, says nothing of what it does.
_IDLE = re.compile(
    r"(futex|poll|ppoll|select|pselect6|epoll_.*|clock_.*|nanosleep|sched_.*|restart_syscall|wait4|exit.*"
    r"|mmap|munmap|mprotect|mremap|madvise|brk|rt_sig.*|getrandom|gettid|getpid)"
)
_OF_SOCKETS = {
    "socket",
    "connect",
    "accept4",
    "recvfrom",
    "sendto",
    "recvmsg",
    "sendmsg",
    "setsockopt",
    "shutdown",
}
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?)(.*)", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """One system call that has returned."""

    thread: int
    name: str
    arguments: str  # descriptors with their paths
    result: int

    @property
    def is_of_socket(self) -> bool:
        """Whether it is about a connection: how many there are depends on what has arrived when one looks."""
        return self.path.startswith(("socket:", "TCP", "UNIX")) or self.name in _OF_SOCKETS

    @property
    def path(self) -> str:
        """Of the descriptor that it is about; empty where it is about none."""
        found = re.match(r"\d+<([^>]*)>", self.arguments)
        return found[1] if found else ""


@dataclass(frozen=True)
class Cost:
    """What a number of calls come to."""

    calls: Counter[str]
    of_sockets: int
    syncs: int
    written: int  # bytes, to files
    read: int  # bytes, from files

    def minus(self, other: "Cost") -> "Cost":
        calls = Counter(self.calls)
        calls.subtract(other.calls)
        return Cost(
            calls,
            self.of_sockets - other.of_sockets,
            self.syncs - other.syncs,
            self.written - other.written,
            self.read - other.read,
        )

    def figures(self, count: int) -> dict[str, float]:
        """By kind, for one of `count`."""
        return {
            "calls about sockets": self.of_sockets / count,
            "other system calls": (self.calls.total() - self.of_sockets) / count,
            "fsyncs": self.syncs / count,
            "bytes written": self.written / count,
            "bytes read": self.read / count,
        }

    def words(self, count: int) -> str:
        """The calls by name, for one of `count`."""
        return ", ".join(
            f"{name} {number / count:.1f}" for name, number in self.calls.most_common() if number
        )


def of_one_thread(calls: Sequence[Call], mark: str) -> list[Call]:
    """Those of the thread whose call names `mark` first, from that on until it does so last."""
    thread = next(call.thread for call in calls if mark in call.arguments)
    own = [call for call in calls if call.thread == thread]
    marks = [number for number, call in enumerate(own) if mark in call.arguments]
    return own[marks[0] : marks[-1] + 1]


def cost_of(calls: Sequence[Call], folder: Path) -> Cost:
    """Count `calls`; of bytes those of files in `folder`, which tells the spool from the log."""
    counted = [call for call in calls if not _IDLE.fullmatch(call.name)]
    files = [call for call in counted if call.path.startswith(f"{folder}/")]
    return Cost(
        Counter(call.name for call in counted),
        sum(call.is_of_socket for call in counted),
        sum(call.name in {"fsync", "fdatasync", "syncfs", "msync"} for call in counted),
        sum(call.result for call in files if re.fullmatch(r"p?write(v|64|v2)?", call.name)),
        sum(call.result for call in files if re.fullmatch(r"p?read(v|64|v2)?", call.name)),
    )


@contextmanager
def running(part: str, config: Path, log: Path) -> Iterator[None]:
    """Run a part as it is."""
    command = [*DICOMFERRY, part, "--config", str(config)]
    with log.open("wb") as words:
        process = subprocess.Popen(command, stdout=words, stderr=words)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def returned_in(trace: Path) -> list[Call]:
    """The calls that returned, in that order; those that found nothing to do yet are left out."""
    found = []
    for thread, line in calls_in(trace.read_text(errors="replace")):
        call = _CALL.fullmatch(line)
        if call is not None and call[3] != "?" and "EAGAIN" not in call[4]:
            found.append(Call(thread, call[1], call[2], int(call[3])))
    return found
