"""`dicomferry transcode` when its processes die, are killed or stopped: no file is lost, none is half."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomferry.dicom.syntaxes import IMPLICIT_LE
from tests.support.images.files import fresh_copies, gdcm_pixels, native_pixels, shipped
from tests.support.images.synthetic import dataset, image, write
from tests.support.running.processes import DICOMFERRY, alive, wait_until
from workers.files import folder
from workers.files.folder import Job, Kind, Lossy, Order, Outcome
from workers.files.parallel import run


def convert_or_die(job: Job, wanted: Order) -> Outcome:
    """A codec that crashes on some files."""
    if "dies" in job.source.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hangs" in job.source.name:
        signal.setitimer(signal.ITIMER_REAL, 0.3)  # as limits.deadline does, only sooner
        signal.pause()
    if "leaves" in job.source.name:
        from dicomferry.spool import durable

        job.target.parent.mkdir(parents=True, exist_ok=True)
        durable.temporary_path(job.target).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    return folder.convert(job, wanted)


def test_a_codec_that_kills_its_process_fails_one_file_and_not_the_run(tmp_path: Path) -> None:
    source = tmp_path / "in"
    sound = {path.name for path in fresh_copies("CT_small.dcm", 12, source)}
    for name in ("dies1", "dies2", "hangs", "leaves"):
        (source / f"{name}.dcm").write_bytes(shipped("CT_small.dcm").read_bytes())
    out = tmp_path / "out"
    jobs = folder.jobs([source], out)
    outcomes = list(run(jobs, folder.order(IMPLICIT_LE, Lossy()), 3, convert_or_die))
    assert sorted(outcome.job.source for outcome in outcomes) == sorted(job.source for job in jobs)
    failed = {outcome.job.source.name: outcome.words for outcome in outcomes if outcome.kind is Kind.FAILED}
    assert set(failed) == {"dies1.dcm", "dies2.dcm", "hangs.dcm", "leaves.dcm"}
    assert all("killed its process" in words for words in failed.values())
    assert {path.name for path in out.iterdir()} == sound, "nothing half is left either"


def convert_and_count(job: Job, wanted: Order) -> Outcome:
    """Write down each helper; frames of any size are worth one."""
    from workers import crew

    crew._WORTH = 0.0
    fork = os.fork

    def noted() -> int:
        with job.source.with_suffix(".forks").open("a") as file:
            file.write(".")
        return fork()

    os.fork = noted
    return folder.convert(job, wanted)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_single_file_of_many_frames_uses_the_other_processes_too(processes: int, tmp_path: Path) -> None:
    frames = [image(64, 64, 12, seed=n) for n in range(12)]
    made = dataset((64, 64), 12, NumberOfFrames=len(frames))
    made.add_new("PixelData", "OW", b"".join(frame.tobytes() for frame in frames))
    source = write(tmp_path / "in.dcm", made, IMPLICIT_LE)
    jobs = folder.jobs([source], tmp_path / "out.dcm")
    outcomes = list(run(jobs, folder.order("JPEG2000Lossless", Lossy()), processes, convert_and_count))
    assert [outcome.kind for outcome in outcomes] == [Kind.MADE]
    forks = source.with_suffix(".forks")
    assert (forks.read_text() if forks.exists() else "") == "." * (processes - 1)
    assert gdcm_pixels(outcomes[0].job.target, tmp_path) == native_pixels(source)


def convert_and_die(job: Job, wanted: Order) -> Outcome:
    """A child that somebody kills, once, after its output has got its name and before it could say so."""
    outcome = folder.convert(job, wanted)
    if "killed" in job.source.name and not (killed := job.source.with_suffix(".once")).exists():
        killed.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return outcome


@pytest.mark.parametrize("named", [False, True], ids=["in a folder", "named"])
def test_what_a_child_had_made_before_it_was_killed_counts_as_made(*, named: bool, tmp_path: Path) -> None:
    source = tmp_path / "in" / "killed.dcm"
    source.parent.mkdir()
    source.write_bytes(shipped("CT_small.dcm").read_bytes())
    jobs = folder.jobs([source if named else source.parent], tmp_path / "out")
    outcomes = list(run(jobs, folder.order(IMPLICIT_LE, Lossy()), 1, convert_and_die))
    assert source.with_suffix(".once").exists()
    assert [(outcome.kind, outcome.words) for outcome in outcomes] == [(Kind.MADE, "")]


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A run that takes seconds, with processes of its own; its output is `tmp_path`/out."""
    fresh_copies("693_J2KR.dcm", 150, tmp_path / "in")
    program = subprocess.Popen(
        # A shell starts what it puts in the background with SIGINT ignored, and that is inherited.
        [
            "env",
            "--default-signal=INT",
            *(*DICOMFERRY, "transcode", tmp_path / "in", tmp_path / "out"),
            *("--to", "uncompressed", "--jobs", "2"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    out = tmp_path / "out"
    try:
        wait_until(lambda: out.exists() and any(out.glob("*.dcm")), "the first file", seconds=60)
        yield program
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.communicate()


def members(group: int) -> dict[int, int]:
    """The processes of a group that run, and the parent of each."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state not in "ZX":
            found[int(entry.name)] = int(parent)
    return found


def codecs(group: int) -> list[int]:
    """Those of them in which codecs run: grandchildren of the first."""
    processes = members(group)
    return [pid for pid, parent in processes.items() if parent in processes and parent != group]


def test_a_child_that_somebody_kills_costs_no_file(long_run: "subprocess.Popen[str]", tmp_path: Path) -> None:
    os.kill(codecs(long_run.pid)[0], signal.SIGKILL)
    told, complaints = long_run.communicate(timeout=120)
    assert (long_run.returncode, complaints) == (0, "")
    assert told.startswith("150 files: 150 transcoded, 0 failed; ")
    assert len(list((tmp_path / "out").iterdir())) == 150


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_no_process_and_nothing_half(
    long_run: "subprocess.Popen[str]", tmp_path: Path, with_signal: signal.Signals
) -> None:
    os.killpg(long_run.pid, with_signal) if with_signal is signal.SIGINT else long_run.terminate()
    _, complaints = long_run.communicate(timeout=60)
    assert long_run.returncode not in {0, None}
    assert "Traceback" not in complaints, complaints
    wait_until(lambda: not members(long_run.pid), "every process to end")
    made = list((tmp_path / "out").iterdir())
    assert 0 < len(made) < 150
    assert all(path.suffix == ".dcm" and dcmread(path).PixelData for path in made)


def test_the_children_of_a_run_that_is_killed_do_not_outlive_it(long_run: "subprocess.Popen[str]") -> None:
    children = codecs(long_run.pid)
    assert children
    long_run.kill()
    wait_until(lambda: not any(alive(pid) for pid in children), "the codecs to end")
    wait_until(lambda: not members(long_run.pid), "every other process to end")
