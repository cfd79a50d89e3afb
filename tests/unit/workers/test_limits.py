"""What the kernel holds a codec's process to. Each test limits a child of its own."""

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from workers import limits


def child(do: Callable[[], object]) -> int:
    """Exit status of a process that does it; negative: the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            do()
        except MemoryError:
            os._exit(3)
        except BaseException:  # noqa: BLE001  or the child would go on as a second pytest
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hang() -> None:
    ctypes.PyDLL(None).sleep(100)  # holds the interpreter's lock, as a codec in C does


def test_an_allocation_over_the_ceiling_fails_in_the_child_alone():
    def eat() -> None:
        limits.limit_process(512)
        eaten = [bytearray(64 << 20) for _ in range(16)]
        del eaten

    assert child(eat) == 3
    assert len(bytearray(600 << 20)) == 600 << 20  # here nothing changed


def test_a_ceiling_that_is_lower_already_stays():
    def confine() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
        limits.limit_process(4096)
        assert resource.getrlimit(resource.RLIMIT_DATA) == (1 << 30, 1 << 30)

    assert child(confine) == 0


def faults_of(work: Callable[[], object], times: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library than glibc")
def test_what_a_codec_has_freed_it_gets_again_without_asking_the_kernel():
    def frame() -> None:
        buffers = [bytearray(b"x") * (4 << 20) for _ in range(4)]
        del buffers

    def confine() -> None:
        usual = faults_of(frame, 10)
        limits.limit_process()
        frame()
        assert faults_of(frame, 10) < usual / 10

    assert child(confine) == 0


def test_a_crash_leaves_no_core_file_with_somebodys_pixels():
    def confine() -> None:
        limits.limit_process()
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)

    assert child(confine) == 0


def test_what_hangs_in_c_is_killed_when_its_time_is_over():
    def run() -> None:
        with limits.deadline(0.2):
            hang()

    assert child(run) == -signal.SIGALRM


def test_an_instance_has_one_budget_of_time_however_many_steps_it_takes(monkeypatch):
    monkeypatch.setattr(limits, "PATIENCE", 30.0)

    def run() -> None:
        with limits.deadline(0.5):
            for _ in range(1000):
                limits.begin_step(1)
                time.sleep(0.01)

    assert child(run) == -signal.SIGALRM


def test_an_instance_that_turns_out_to_be_large_gets_the_time_of_its_native_size_once(monkeypatch):
    monkeypatch.setattr(limits, "PATIENCE", 0.0)

    def run(seconds: float) -> None:
        with limits.deadline(0.3):
            for _ in range(10):  # frames, an icon, and the whole again
                limits.extend(limits.PACE)
                limits.extend(1)
            time.sleep(seconds)

    assert limits.seconds_for(limits.PACE) == 1.0
    assert child(lambda: run(0.5)) == 0
    assert child(lambda: run(3)) == -signal.SIGALRM


def test_no_claim_of_a_header_is_more_than_a_timer_holds():
    def run() -> None:
        with limits.deadline(1):
            limits.extend(65535 * 65535 * 2**31)

    assert child(run) == 0


def test_a_step_that_hangs_is_killed_though_others_before_it_were_quick(monkeypatch):
    monkeypatch.setattr(limits, "PATIENCE", 0.2)

    def run() -> None:
        with limits.deadline(30):
            for _ in range(3):
                limits.begin_step(1)
            hang()

    assert child(run) == -signal.SIGALRM


def test_no_deadline_outlives_what_it_was_for():
    def run() -> None:
        with limits.deadline(0.2):
            pass
        limits.begin_step(1)
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)

    assert child(run) == 0


def test_a_timer_that_ran_before_goes_on_afterwards():
    def run() -> None:
        rung = []
        signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with limits.deadline(30):
            time.sleep(0.1)
        deadline = time.monotonic() + 5
        while not rung and time.monotonic() < deadline:
            time.sleep(0.02)
        assert rung

    assert child(run) == 0


@pytest.mark.parametrize("size", [0, 1 << 19, 1 << 30])
def test_the_time_of_a_step_grows_with_its_size(size):
    assert limits.seconds_for(size) >= limits.PATIENCE + size / 1_000_000


@pytest.mark.parametrize(
    ("above", "own", "expected"),
    [
        ("max 100000", "max 100000", 1000),
        (None, "400000 100000", 4),
        (None, "250000 100000", 2),
        (None, "50000 100000", 1),
        ("300000 100000", "max 100000", 3),
        ("300000 100000", "200000 50000", 3),
        ("800000 100000", "200000 50000", 4),
        (None, "", 1000),
        (None, None, 1000),
    ],
)
def test_a_containers_quota_counts_as_cores(
    above: str | None, own: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(1000)))
    group = tmp_path / "pod" / "container"
    group.mkdir(parents=True)
    for folder, quota in ((group.parent, above), (group, own)):
        if quota is not None:
            (folder / "cpu.max").write_text(quota + "\n")
    assert limits.cores(group) == expected


def test_a_process_that_is_bound_to_one_core_counts_one():
    def bind() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        assert limits.cores() == 1

    assert child(bind) == 0
