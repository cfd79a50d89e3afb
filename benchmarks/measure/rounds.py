"""One round: a contender does a job once. Also the bare codec on the same objects, and latencies."""

import multiprocessing
import os
import random
import resource
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.machine.programs import Failure
from benchmarks.machine.usage import usage
from benchmarks.peers.contenders import Contender, Running
from benchmarks.peers.jobs import Objects
from benchmarks.peers.sender import OwnSender, send
from benchmarks.peers.sink import Sink

STALL = (
    0.038  # seconds; a gap between two arrivals longer than this suggests Nagle's algorithm and delayed ACK
)


@dataclass(frozen=True)
class Run:
    """From the sender's start until the last file is complete at the sink; dictionaries are by part."""

    objects: int
    seconds: float
    first: float = 0.0  # seconds until the first file was complete
    stalls: int = 0  # gaps between two arrivals that are longer than STALL
    more: int = 0  # files that came twice
    arrived_bytes: int = 0  # of a file at the sink, on average
    cpu_ms: dict[str, float] | None = None  # of processor time for an object
    peers_cpu_ms: float = 0.0  # of dcmsend and storescp, for an object
    written_bytes: dict[str, float] | None = (
        None  # for an object; pages that were deleted before they went to the disk included
    )
    spared_bytes: float = 0.0  # for an object: of these, what was deleted before it went to the disk
    peak_mib: dict[str, float] | None = None  # resident memory, since the contender's start

    @property
    def rate(self) -> float:
        """Objects a second."""
        return self.objects / self.seconds


def measure_round(contender: Contender, running: Running, sink: Sink, objects: Objects) -> Run:
    """Send all objects, and wait until they are at the sink.

    Raises:
        Failure: an object did not arrive, or arrived wrong.
    """
    count = len(objects.paths)
    before, peers = usage(running.sessions), _peers_cpu(sink)
    began = time.monotonic()
    sender = send(running.port, objects.paths, contender.peers)
    times = sink.wait(count, sender)
    sender.finish()
    running.settle()
    used = {name: found.since(before[name]) for name, found in usage(running.sessions).items()}
    files = list(sink.folder.iterdir())
    size = sum(path.stat().st_size for path in files) // len(files)
    if words := objects.defect(sink.files()):
        raise Failure(words)
    clean(sink)
    return Run(
        objects=count,
        seconds=times[-1] - began,
        first=times[0] - began,
        stalls=sum(later - earlier > STALL for earlier, later in pairwise(times)),
        more=len(files) - count,
        arrived_bytes=size,
        cpu_ms={name: 1000 * found.cpu / count for name, found in used.items()},
        peers_cpu_ms=1000 * (_peers_cpu(sink) - peers) / count,
        written_bytes={name: found.written / count for name, found in used.items()},
        spared_bytes=sum(found.spared for found in used.values()) / count,
        peak_mib={name: found.peak / (1 << 20) for name, found in used.items()},
    )


def _peers_cpu(sink: Sink) -> float:
    """Seconds of processor time of the sink and of all senders that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage({"sink": sink.session})["sink"].cpu + ended.ru_utime + ended.ru_stime


def clean(sink: Sink) -> None:
    """Empty the sink, and sync, so that the next round does not pay for this one."""
    sink.clear()
    os.sync()


def bare_codec(objects: Objects, number_of_processes: int) -> Run:
    """The bare codec on the same objects, in memory, in several processes: no gateway can be faster."""
    fork = multiprocessing.get_context("fork")
    work, count = objects.bare(), len(objects.paths)
    start, taken = fork.Barrier(number_of_processes + 1), fork.Value("i", 0)
    ends = fork.Array("d", number_of_processes)

    def run(place: int) -> None:
        work(0)
        start.wait()
        while True:
            with taken.get_lock():
                number, taken.value = taken.value, taken.value + 1
            if number >= count:
                break
            work(number)
        ends[place] = time.monotonic()

    processes = [fork.Process(target=run, args=[place]) for place in range(number_of_processes)]
    for process in processes:
        process.start()
    start.wait()
    began = time.monotonic()
    for process in processes:
        process.join()
    return Run(count, max(ends) - began)


def latencies(running: Running, sink: Sink, objects: Objects, samples: int) -> list[float]:
    """Seconds from connecting until the file is at the sink, one object at a time; the contender is idle."""
    chance = random.Random(7)  # noqa: S311  no secret
    found = []
    for number in range(samples):
        path = objects.paths[number % len(objects.paths)]
        time.sleep(chance.uniform(0.05, 0.35))  # so that it does not keep step with a polling contender
        began = time.monotonic()
        sender = OwnSender(running.port, [path])
        found.append(sink.wait(1, sender)[0] - began)
        sender.finish()
        running.settle()
        clean(sink)
    return found


def codec_seconds(objects: Objects, samples: int) -> list[float]:
    """Seconds of the bare codec for one object."""
    work, found = objects.bare(), []
    for number in range(samples):
        began = time.monotonic()
        work(number)
        found.append(time.monotonic() - began)
    return found


def as_json(run: Run) -> dict[str, Any]:
    """A round as it stands in the JSON file."""
    return {"rate": run.rate} | {name: getattr(run, name) for name in Run.__dataclass_fields__}
