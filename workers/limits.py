"""What one instance may take, in memory and in time, held by the kernel in the process that runs the codecs.

Codecs are C, fed with what the network brought: Python can neither interrupt one that hangs nor survive one
that crashes. So they run in a child process, and what goes over its limits costs that child alone. Relies on
POSIX: RLIMIT_DATA makes an allocation fail, and SIGALRM in its default disposition kills without asking the
process.
"""

import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dicomferry.ceilings import Ceilings

PATIENCE = 60.0  # seconds that any step may take, however little it works on
PACE = 500_000  # bytes a second below which nothing healthy falls: the slowest codec does 40 times that
# What glibc keeps of freed memory (mallopt(3)): codecs ask for the same buffers frame after frame, and to get
# each page from the kernel anew, zeroed, costs them 6 % of their time.
_KEPT = {"M_TRIM_THRESHOLD": (-1, 64 << 20), "M_TOP_PAD": (-2, 16 << 20), "M_MMAP_THRESHOLD": (-3, 32 << 20)}
_OUR_GROUP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")

_deadline_runs = False  # of this process: its timer is ours


def cores(group: Path | None = None) -> int:
    """How many processes this machine, or the container that this runs in, has cores for.

    `group` is the folder of our control group (cgroup v2), whose `cpu.max` and those above are quotas.
    """
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if group is None:
        with suppress(OSError):
            line = next((x for x in _OUR_GROUP.read_text().splitlines() if x.startswith("0::")), "0::")
            group = _GROUPS / line[3:].lstrip("/")
    for folder in (group, *group.parents) if group else ():
        with suppress(OSError, ValueError):
            quota, period = map(int, (folder / "cpu.max").read_text().split())  # or "max"
            found = min(found, max(1, quota // period))
    return found


def confine(memory_mb: int = Ceilings.memory_mb) -> None:
    """Limit this process, a child that is to run codecs: its memory, and what it leaves when it crashes.

    Fit for the `initializer` of a `ProcessPoolExecutor`. `memory_mb` bounds private memory (RLIMIT_DATA); the
    files that it maps do not count. A limit that is already lower stays.
    """
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _KEPT.values():
            mallopt(parameter, value)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = memory_mb << 20
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    # A core file would put a patient's pixels where nobody guards them.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # not Linux: then nobody chooses whom to kill either
        # Where the machine's memory ends all the same, the kernel takes this process before its neighbours.
        Path("/proc/self/oom_score_adj").write_text("500")


def seconds_for(size: int) -> float:
    """How long a step that works on `size` bytes may take."""
    return PATIENCE + size / PACE


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Kill this process (SIGALRM) if what is inside takes longer than `seconds`, even inside a codec.

    For the main thread of a child process; in another thread nothing is limited, since the timer is the
    process's. `begin_step` gives more time.
    """
    global _deadline_runs  # noqa: PLW0603  as the timer is
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    waited_for, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    started = time.monotonic()
    _deadline_runs = True
    try:
        yield
    finally:
        _deadline_runs = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if waited_for:  # somebody else's timer, a test runner's for example, goes on
            left = waited_for - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))


def begin_step(size: int) -> None:
    """Begin a step that works on `size` bytes, say one frame: the deadline starts anew with its time.

    So a large object has the time that it needs, and a hang is still seen within a frame's. Does nothing
    where no deadline runs.
    """
    if _deadline_runs:
        signal.setitimer(signal.ITIMER_REAL, seconds_for(size))
