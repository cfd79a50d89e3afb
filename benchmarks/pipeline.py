"""How fast the whole pipeline is, beside the bare decoder, Orthanc, and the script that people write.

    python benchmarks/pipeline.py [--quick] [--scale 0.05] [--rounds 3] [--only J2K ...] [--json FILE]
                                  [--plot FILE] [--folder DIR]

Each contender takes objects from a stock dcmsend and brings them to a stock storescp of its own, over
loopback, everything in one folder; the rate is objects over the seconds from dcmsend's start to the last file
complete at the sink. All are up and warm before a job is measured and take turns, one at a time; medians of
the rounds count, of which J2K CT has twice as many. What the sink holds is compared with what was sent. Needs
what scripts/test.sh installs, and the extra `benchmarks`; on a machine that does nothing else.
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

import alone
import report
from contenders import Contender, Running, everyone, worker_counts
from machine import Failure, Programs, cores, described
from peers import Sink, sink
from results import BARE, Results
from rounds import Run, ceiling, codec_seconds, latencies, measure, plain
from work import J2K_CT, JOBS, PASSED_CT, RLE_CT, SMALL_MR, Job, Objects, make

_WARM = 16  # objects
_LEAST = 8
_FOLDER = Path("/var/tmp")  # noqa: S108  a disk, where /tmp may be memory; our own folder is made in it

End = Callable[[Objects, Path, Programs], Any]
_ENDS: dict[str, tuple[End, ...]] = {
    PASSED_CT: (alone.ingest_then_forward, alone.associations),
    SMALL_MR: (alone.ingest_then_forward,),
    J2K_CT: (alone.transcoding,),
    RLE_CT: (alone.transcoding,),
}


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    scale: float
    rounds: int
    samples: int  # of the latency
    quick: bool

    def count(self, job: Job, share: float = 1.0) -> int:
        """Objects of a job for one who gets a share of them."""
        return max(round(job.count * self.scale * share), _LEAST)

    def rounds_of(self, job: Job) -> int:
        """Twice as many where most figures come from: one round differs from the next by 3 %."""
        return 2 * self.rounds if job.name == J2K_CT and not self.quick else self.rounds

    def workers(self, job: Job) -> list[int]:
        """With how many workers dicomferry does a job; no matter where there is no codec to run."""
        if job.passes or (self.quick and job.name != J2K_CT):
            return [cores()]
        return worker_counts()


@dataclass(frozen=True)
class Stand:
    """A contender at work for one job."""

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

    def job(self, job: Job) -> None:
        """All contenders, round by round."""
        place = self.folder / job.name.replace(" ", "-")
        try:
            objects = make(job, self.extent.count(job), place / "sent")
            self.results.sent_bytes[job.name] = objects.sent_bytes
            os.sync()
            with ExitStack() as stack:
                stands = self._stands(objects, place, stack)
                for number in range(self.extent.rounds_of(job)):
                    if not job.passes:
                        self._note(job.name, BARE, ceiling(objects, cores()))
                    turn = number % max(len(stands), 1)
                    for stand in [*stands[turn:], *stands[:turn]]:
                        if not self._take_turn(stand):
                            stands.remove(stand)
                if job.name == J2K_CT:
                    samples = codec_seconds(objects, self.extent.samples)
                    self.results.codec_ms = 1000 * statistics.median(samples)
                if job.name in {J2K_CT, PASSED_CT}:
                    for stand in stands:
                        self._ask_latency(stand)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _stands(self, objects: Objects, place: Path, stack: ExitStack) -> list[Stand]:
        """Everyone who can do the job, warm."""
        job, found = objects.job, []
        for number, contender in enumerate(everyone(self.extent.workers(job))):
            folder = place / str(number)
            folder.mkdir()
            try:
                with ExitStack() as own:
                    options = ["+xt"] if job.shown else []
                    received = own.enter_context(sink(self.programs, folder, contender.peers, *options))
                    running = own.enter_context(contender.run(job, received, folder, self.programs))
                    measure(contender, running, received, objects.first(_WARM))
                    stack.push(own.pop_all())
            except (Failure, OSError) as failure:
                self.results.cannot(job.name, contender.name, str(failure))
                _say(f"{job.name}: {contender.name}: cannot: {failure}")
                continue
            share = objects.first(self.extent.count(job, contender.share))
            found.append(Stand(contender, running, received, share))
        return found

    def _take_turn(self, stand: Stand) -> bool:
        """One measurement; whether the contender goes on."""
        job, name = stand.objects.job.name, stand.contender.name
        try:
            run = measure(stand.contender, stand.running, stand.sink, stand.objects)
        except (Failure, OSError) as failure:
            self.results.failures[f"{job}: {name}"] = str(failure)
            _say(f"{job}: {name}: failed: {failure}")
            return False
        self._note(job, name, run)
        return True

    def _note(self, job: str, name: str, run: Run) -> None:
        self.results.add(job, name, plain(run))
        _say(f"{job}: {name}: {run.rate:.1f}/s")

    def _ask_latency(self, stand: Stand) -> None:
        job, name = stand.objects.job.name, stand.contender.name
        try:
            found = latencies(stand.running, stand.sink, stand.objects, self.extent.samples)
        except (Failure, OSError) as failure:
            self.results.failures[f"latency of {job}: {name}"] = str(failure)
            return
        self.results.latency.setdefault(job, {})[name] = [1000 * seconds for seconds in found]
        _say(f"{job}: {name}: {1000 * statistics.median(found):.0f} ms for one alone")

    def end(self, work: End, job: Job) -> None:
        """What is measured of a part alone."""
        place = self.folder / "alone"
        try:
            objects = make(job, self.extent.count(job), place / "sent")
            for number in range(self.extent.rounds):
                found = work(objects, place / f"{number}", self.programs)
                self.results.alone.setdefault(work.__name__, {}).setdefault(job.name, []).append(found)
                _say(f"{work.__name__}, {job.name}: {json.dumps(found)}")
        finally:
            shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    """Measure, print, and write what was found."""
    asked = _arguments()
    if asked.show:
        results = Results.read(asked.json.read_text())
        report.show(results)
        report.plot(results, asked.plot)
        return
    extent = Extent(
        scale=asked.scale * (0.2 if asked.quick else 1.0),
        rounds=asked.rounds or (1 if asked.quick else 3),
        samples=6 if asked.quick or asked.scale < 0.5 else 20,
        quick=asked.quick,
    )
    jobs = [job for job in JOBS if not asked.only or job.name.startswith(tuple(asked.only))]
    folder = Path(tempfile.mkdtemp(prefix="dicomferry-benchmark-", dir=asked.folder))
    programs = Programs(folder)
    results = Results(described(folder) | {"scale": extent.scale, "rounds": extent.rounds})
    bench = Bench(extent, folder, programs, results)
    works: list[tuple[str, Callable[[], None]]] = [(job.name, partial(bench.job, job)) for job in jobs]
    works += [
        (f"{end.__name__}, {job.name}", partial(bench.end, end, job))
        for job in jobs
        for end in _ENDS.get(job.name, ())
    ]
    began = time.monotonic()
    try:
        for name, work in works:
            try:
                work()
            except Exception as error:  # noqa: BLE001  whatever it is, the other results stand
                results.failures[name] = f"{type(error).__name__}: {error}"
                _say(f"{name}: {results.failures[name]}")
            results.machine["seconds"] = round(time.monotonic() - began)
            asked.json.write_text(json.dumps(results.plain(), indent=1))
    finally:
        programs.close()
        shutil.rmtree(folder, ignore_errors=True)
    report.show(results)
    report.plot(results, asked.plot)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="one round of a fifth of the objects")
    parser.add_argument("--show", action="store_true", help="measure nothing: show what --json holds")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of objects")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of names of jobs")
    parser.add_argument("--json", type=Path, default=Path("pipeline.json"))
    parser.add_argument("--plot", type=Path, default=Path("pipeline.png"))
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="where everything is written")
    return parser.parse_args()


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
