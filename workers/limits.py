"""Limits of memory and time for a process that runs codecs, enforced by the kernel.

Codecs are C code that reads data from the network: Python can neither interrupt one that hangs nor survive
one that crashes. So they run in a child process, and only that child dies. Relies on POSIX: over RLIMIT_DATA
an allocation fails, and SIGALRM in its default disposition kills even inside C.
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

PATIENCE = 60.0  # seconds that an instance may take, however small
PACE = 1_000_000  # native bytes a second that it must do besides: the slowest codec does 20 times that
_LONGEST = 7 * 86_400.0  # seconds: no claim of a header gets more
# How much freed memory glibc keeps (mallopt(3)): codecs ask for the same buffers frame after frame, and
# zeroed pages from the kernel cost them 6 % of their time.
_MALLOPT = {
    "M_TRIM_THRESHOLD": (-1, 64 << 20),
    "M_TOP_PAD": (-2, 16 << 20),
    "M_MMAP_THRESHOLD": (-3, 32 << 20),
}
_OUR_GROUP, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")

# monotonic times of this process's deadline: when it was set, and when it is over; 0 without one
_began = _over = 0.0


def cores(group: Path | None = None) -> int:
    """The number of cores of this machine, or of the container that this process runs in.

    `group` is the folder of the process's control group (cgroup v2); `cpu.max` there and in its parents are
    quotas.
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


def limit_process(memory_mb: int = Ceilings.memory_mb) -> None:
    """Limit the memory of this process, a child that runs codecs, and disable core files.

    `memory_mb` bounds private memory (RLIMIT_DATA); mapped files do not count. A lower limit stays.
    """
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOPT.values():
            mallopt(parameter, value)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = memory_mb << 20
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    # A core file would contain a patient's pixels.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # not Linux
        # If the machine runs out of memory all the same, the kernel kills this process first.
        Path("/proc/self/oom_score_adj").write_text("500")


def seconds_for(size: int) -> float:
    """Seconds that work on `size` bytes may take."""
    return min(PATIENCE + size / PACE, _LONGEST)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Kill this process (SIGALRM) if the block takes longer than `seconds`, even inside a codec.

    For the main thread of a child process; in other threads it does nothing, since the timer belongs to the
    process. `extend` gives more time.
    """
    global _began, _over  # noqa: PLW0603  the timer is global too
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    waited_for, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    _began = started = time.monotonic()
    _over = _began + seconds
    try:
        yield
    finally:
        _over = 0.0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if waited_for:  # another timer, a test runner's for example, goes on
            left = waited_for - (time.monotonic() - started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))


def extend(size: int) -> None:
    """Give the whole work the time of `size` bytes, since it began, if that is more than it has.

    For an instance whose native size becomes known. Without a deadline this does nothing.
    """
    global _over  # noqa: PLW0603  the timer is global too
    if _over:
        _over = max(_over, _began + seconds_for(size))
        _set_timer(_over)


def begin_step(size: int) -> None:
    """Begin a step on `size` bytes, such as a frame: a hang is noticed within its time.

    It has never more than what is left of the whole. Without a deadline this does nothing.
    """
    if _over:
        _set_timer(min(_over, time.monotonic() + seconds_for(size)))


def end_step() -> None:
    """Wait for the next step without a limit. Without a deadline this does nothing."""
    if _over:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _set_timer(until: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, max(until - time.monotonic(), 1e-3))
