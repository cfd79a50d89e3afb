"""How fast the whole pipeline is, beside the bare decoder, Orthanc, and the script that people write.

    python benchmarks/pipeline.py [--quick] [--scale 0.05] [--rounds 3] [--only J2K ...] [--json FILE]
                                  [--against COMMIT] [--plot FILE] [--folder DIR]

Each contender takes objects from a stock dcmsend and brings them to a stock storescp of its own, over
loopback, with all files in one folder. The rate is objects divided by the seconds from dcmsend's start until
the last file is complete at the sink. All contenders are up and warm before a job is measured, and take
turns, one at a time. Medians of the rounds are shown; J2K CT has twice as many rounds. What arrives is
compared with what was sent. You need the tools that scripts/test.sh installs, the extra `benchmarks`, and a
machine that does nothing else.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine.programs import Failure, Programs
from benchmarks.machine.usage import cores, describe
from benchmarks.measure import stages
from benchmarks.measure.rounds import Run, as_json, bare_codec, codec_seconds, latencies, measure_round
from benchmarks.peers.contenders import Contender, Running, against, contenders, worker_counts
from benchmarks.peers.jobs import (
    J2K_CT,
    JOBS,
    MANY_FRAMES,
    PASSED_CT,
    RLE_CT,
    SMALL_MR,
    Job,
    Objects,
    make,
)
from benchmarks.peers.past import install
from benchmarks.peers.sink import Sink, sink
from benchmarks.report.plot import plot
from benchmarks.report.results import BARE, Results
from benchmarks.report.tables import show

_WARM = 16  # objects
_LEAST = 8  # objects
_FOLDER = Path("/var/tmp")  # noqa: S108  a disk, where /tmp may be memory; our own folder is made in it

StageMeasurement = Callable[[Objects, Path, Programs], Any]
_STAGES: dict[str, tuple[StageMeasurement, ...]] = {
    PASSED_CT: (stages.ingest_then_forward, stages.associations),
    SMALL_MR: (stages.ingest_then_forward,),
    J2K_CT: (stages.transcoding,),
    RLE_CT: (stages.transcoding,),
    MANY_FRAMES.name: (stages.transcoding,),
}


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    scale: float
    rounds: int
    samples: int  # of each latency
    quick: bool

    def count(self, job: Job, share: float = 1.0) -> int:
        """Number of objects of a job, for a contender that gets a share of them."""
        return max(round(job.count * self.scale * share), min(_LEAST, job.count))

    def rounds_of(self, job: Job) -> int:
        """Twice as many for the job of most figures: one round differs from the next by 3 %."""
        return 2 * self.rounds if job.name == J2K_CT and not self.quick else self.rounds

    def workers(self, job: Job) -> list[int]:
        """The numbers of workers with which dicomferry does a job; one is enough if it needs no codec."""
        if job.passes or (self.quick and job.name != J2K_CT):
            return [cores()]
        return worker_counts()


@dataclass(frozen=True)
class Entrant:
    """A contender that is ready for one job, with its sink and its objects."""

    contender: Contender
    running: Running
    sink: Sink
    objects: Objects


@dataclass(frozen=True)
class Bench:
    """One run of the whole benchmark."""

    extent: Extent
    folder: Path
    programs: Programs
    results: Results
    against: Contender | None = None  # another commit

    def job(self, job: Job) -> None:
        """Measure all contenders, round by round, then the latency of one object alone."""
        place = self.folder / job.name.replace(" ", "-")
        try:
            objects = make(job, self.extent.count(job), place / "sent")
            self.results.sent_bytes[job.name] = objects.sent_bytes
            os.sync()
            with ExitStack() as stack:
                entrants = self._start_all(objects, place, stack)
                for number in range(self.extent.rounds_of(job)):
                    if not job.passes:
                        self._record(job.name, BARE, bare_codec(objects, cores()))
                    turn = number % max(len(entrants), 1)
                    for entrant in [*entrants[turn:], *entrants[:turn]]:
                        if not self._measure_once(entrant):
                            entrants.remove(entrant)
                if job.name == J2K_CT:
                    samples = codec_seconds(objects, self.extent.samples)
                    self.results.codec_ms = 1000 * statistics.median(samples)
                if job.name in {J2K_CT, PASSED_CT}:
                    for entrant in entrants:
                        self._measure_latency(entrant)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _start_all(self, objects: Objects, place: Path, stack: ExitStack) -> list[Entrant]:
        """Start the contenders and warm them up; return those that can do the job."""
        job, found = objects.job, []
        past = [self.against] if self.against else []
        for number, contender in enumerate([*contenders(self.extent.workers(job)), *past]):
            folder = place / str(number)
            folder.mkdir()
            try:
                with ExitStack() as own:
                    options = ["+xt"] if job.shown else []
                    received = own.enter_context(sink(self.programs, folder, contender.peers, *options))
                    running = own.enter_context(contender.run(job, received, folder, self.programs))
                    measure_round(contender, running, received, objects.first(_WARM))
                    stack.push(own.pop_all())
            except (Failure, OSError) as failure:
                self.results.cannot(job.name, contender.name, str(failure))
                _say(f"{job.name}: {contender.name}: cannot: {failure}")
                continue
            share = objects.first(self.extent.count(job, contender.share))
            found.append(Entrant(contender, running, received, share))
        return found

    def _measure_once(self, entrant: Entrant) -> bool:
        """Measure one round; return whether it worked."""
        job, name = entrant.objects.job.name, entrant.contender.name
        try:
            run = measure_round(entrant.contender, entrant.running, entrant.sink, entrant.objects)
        except (Failure, OSError) as failure:
            self.results.failures[f"{job}: {name}"] = str(failure)
            _say(f"{job}: {name}: failed: {failure}")
            return False
        self._record(job, name, run)
        return True

    def _record(self, job: str, name: str, run: Run) -> None:
        self.results.add(job, name, as_json(run))
        _say(f"{job}: {name}: {run.rate:.1f}/s")

    def _measure_latency(self, entrant: Entrant) -> None:
        job, name = entrant.objects.job.name, entrant.contender.name
        try:
            found = latencies(entrant.running, entrant.sink, entrant.objects, self.extent.samples)
        except (Failure, OSError) as failure:
            self.results.failures[f"latency of {job}: {name}"] = str(failure)
            return
        self.results.latency.setdefault(job, {})[name] = [1000 * seconds for seconds in found]
        _say(f"{job}: {name}: {1000 * statistics.median(found):.0f} ms for one alone")

    def stage(self, measure: StageMeasurement, job: Job) -> None:
        """Measure a stage alone."""
        place = self.folder / "alone"
        try:
            objects = make(job, self.extent.count(job), place / "sent")
            for number in range(self.extent.rounds):
                found = measure(objects, place / f"{number}", self.programs)
                self.results.alone.setdefault(measure.__name__, {}).setdefault(job.name, []).append(found)
                _say(f"{measure.__name__}, {job.name}: {json.dumps(found)}")
        finally:
            shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    """Measure, print, and write the results."""
    asked = _arguments()
    if asked.show:
        results = Results.read(asked.json.read_text())
        show(results)
        plot(results, asked.plot)
        return
    extent = Extent(
        scale=asked.scale * (0.2 if asked.quick else 1.0),
        rounds=asked.rounds or (1 if asked.quick else 3),
        samples=6 if asked.quick or asked.scale < 0.5 else 20,
        quick=asked.quick,
    )
    beginnings = tuple(asked.only) or ("",)
    jobs = [job for job in JOBS if job.name.startswith(beginnings)]
    alone = [job for job in (*JOBS, MANY_FRAMES) if job.name.startswith(beginnings)]
    folder = Path(tempfile.mkdtemp(prefix="dicomferry-benchmark-", dir=asked.folder))
    programs = Programs(folder)
    results = Results(describe(folder) | {"scale": extent.scale, "rounds": extent.rounds})
    past = _past(asked.against, folder) if asked.against else None
    results.against = past.name if past else ""
    bench = Bench(extent, folder, programs, results, past)
    works: list[tuple[str, Callable[[], None]]] = [(job.name, partial(bench.job, job)) for job in jobs]
    works += [
        (f"{stage.__name__}, {job.name}", partial(bench.stage, stage, job))
        for job in alone
        for stage in _STAGES.get(job.name, ())
    ]
    began = time.monotonic()
    try:
        for name, work in works:
            try:
                work()
            except Exception as error:  # noqa: BLE001  the other results stay valid
                results.failures[name] = f"{type(error).__name__}: {error}"
                _say(f"{name}: {results.failures[name]}")
            results.machine["seconds"] = round(time.monotonic() - began)
            asked.json.write_text(json.dumps(results.as_json(), indent=1))
    finally:
        programs.close()
        shutil.rmtree(folder, ignore_errors=True)
    show(results)
    plot(results, asked.plot)


def _past(commit: str, folder: Path) -> Contender:
    _say(f"{commit}: is being installed")
    try:
        return against(commit, install(commit, folder))
    except Failure as failure:
        sys.exit(str(failure))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="one round of a fifth of the objects")
    parser.add_argument("--show", action="store_true", help="measure nothing: show what --json holds")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of objects")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of names of jobs")
    parser.add_argument("--against", metavar="COMMIT", help="of this project, to be measured beside it")
    parser.add_argument("--json", type=Path, default=Path("pipeline.json"))
    parser.add_argument("--plot", type=Path, default=Path("pipeline.png"))
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="where everything is written")
    return parser.parse_args()


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
