"""The bottleneck law: every object passes every part, so the slowest part's rate is the rate of the whole.

Each part works evenly whenever it has work, and its cost for an object stays as measured. Two things are
left out: waiting by chance, which delays objects well before a part is 100 % busy; and that batches get
fuller, and cheaper for each object, when a part falls behind. benchmarks/model.py measures; this module
only computes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

WORKERS = "workers"


@dataclass(frozen=True)
class Costs:
    """What one object costs on its way through all parts."""

    ms: dict[str, float]  # of processor time, by part: worker, dispatcher, redis, ingest, forwarder
    written: float  # bytes, to the spool's disk
    received: float  # bytes
    sent: float  # bytes
    syncs: float  # that a part waits for


@dataclass(frozen=True)
class Capacities:
    """What one of each thing besides processors carries."""

    disk: float  # bytes a second
    syncs: float  # a second
    link: float  # bits a second, in each direction
    association: float | None  # objects a second over one; None if not measured
    workers_ahead: int  # workers that one lane keeps busy


@dataclass(frozen=True)
class Part:
    """Something that every object passes, besides the workers."""

    name: str
    needs: str  # for one object, in words
    carries: float  # objects a second, by one of it
    remedy: str  # what to do when it limits
    # What to add when it limits: a spool with parts of its own, a process on the same spool, or an
    # association or destination (peers are the hospital's).
    scales_by: Literal["spool", "process", "peer"] = "spool"

    def enough_for(self, worker_rate: float) -> int:
        """The most workers that one of it keeps up with; `worker_rate` is objects a second of one worker."""
        return floor(self.carries / worker_rate)


@dataclass(frozen=True)
class Point:
    """What a number of workers achieve with one of every other part and enough destinations."""

    workers: int
    offered: float  # objects a second that they could transcode
    carried: float  # objects a second through everything
    limit: str  # the name of the part that is busy all the time
    used: dict[str, float]  # the share of its time that each part is busy


@dataclass(frozen=True)
class Layout:
    """How many of each part carry all that the workers could transcode."""

    spools: int
    processes: dict[str, int]  # on each spool
    peers: int  # destinations that receive at the same time, over one association each


def parts(costs: Costs, capacities: Capacities) -> list[Part]:
    """All parts; the part that limits first comes first."""
    worker_rate = 1000 / costs.ms["worker"]
    by_core = {
        "dispatcher": Part("dispatcher", "", 0, "a second spool: it is the only one of its spool"),
        "redis": Part("Redis", "", 0, "a second spool, with a Redis of its own: it has one thread"),
        "ingest": Part("ingest", "", 0, "more `[ingest] processes`, or a TCP balancer", "process"),
        "forwarder": Part(
            "forwarder", "", 0, "another forwarder, if peers take an association of each", "process"
        ),
    }
    found = [
        Part(
            part.name,
            f"{costs.ms[name]:.2f} ms of a core",
            1000 / costs.ms[name],
            part.remedy,
            part.scales_by,
        )
        for name, part in by_core.items()
    ]
    links = {
        "link": (max(costs.received, costs.sent), "a faster one; ingest and forwarder on hosts of their own"),
        "file server": (costs.received + costs.sent, "a faster link to it, or a second spool elsewhere"),
    }
    found += [
        Part(name, f"{size / 1e6:.2f} MB each way", capacities.link / 8 / size, then)
        for name, (size, then) in links.items()
    ]
    found += [
        Part(
            "disk", f"{costs.written / 1e6:.2f} MB", capacities.disk / costs.written,
            "a faster disk, or a second spool",
        ),
        Part(
            "syncs", f"{costs.syncs:g} syncs", capacities.syncs / costs.syncs,
            "a disk with a safe write cache, or a second spool",
        ),
        Part(
            "lane", f"at most {capacities.workers_ahead} workers at once",
            capacities.workers_ahead * worker_rate,
            "nothing: other destinations use the other workers", "peer",
        ),
    ]  # fmt: skip
    if capacities.association is not None:
        found.append(
            Part(
                "association", f"{1000 / capacities.association:.1f} ms", capacities.association,
                "`max_associations`, if the peer serves several at once", "peer",
            )
        )  # fmt: skip
    return sorted(found, key=lambda part: part.carries)


def throughput(workers: int, worker_rate: float, passed: Sequence[Part]) -> Point:
    """What `workers` achieve, each with `worker_rate` objects a second, with one of each part."""
    offered = workers * worker_rate
    carries = {part.name: part.carries for part in passed if part.scales_by != "peer"} | {WORKERS: offered}
    limit = min(carries, key=lambda name: (carries[name], name != WORKERS))
    carried = carries[limit]
    return Point(workers, offered, carried, limit, {name: carried / most for name, most in carries.items()})


def rate_on_shared_cores(cores: int, all_ms: float, workers: int, worker_rate: float) -> float:
    """Objects a second if all parts share `cores`; `all_ms` is an object's processor time in all of them."""
    return min(workers * worker_rate, cores * 1000 / all_ms)


def layout(offered: float, passed: Sequence[Part]) -> Layout:
    """How many of each part carry `offered` objects a second."""

    def number(rate: float, part: Part) -> int:
        return ceil(rate / part.carries)

    spools = max(number(offered, part) for part in passed if part.scales_by == "spool")
    return Layout(
        spools,
        {part.name: number(offered / spools, part) for part in passed if part.scales_by == "process"},
        max((number(offered, part) for part in passed if part.scales_by == "peer"), default=1),
    )


def markdown(job: str, worker_rate: float, passed: Sequence[Part], counts: Sequence[int]) -> str:
    """Three tables: what each part carries, what workers achieve with one of each, how many carry all."""
    points = [throughput(count, worker_rate, passed) for count in counts]
    layouts = [layout(point.offered, passed) for point in points]
    names, processes = list(points[0].used), list(layouts[0].processes)
    return "\n\n".join(
        (
            table(
                [f"{job}: one", "needs for an object", "carries, objects/s", "is enough for workers", "then"],
                [
                    [
                        "worker", f"{1000 / worker_rate:.1f} ms of a core", f"{worker_rate:.0f}", "",
                        "more of them",
                    ],
                    *(
                        [p.name, p.needs, f"{p.carries:,.0f}", f"{p.enough_for(worker_rate):,}", p.remedy]
                        for p in passed
                    ),
                ],
            ),
            table(
                ["workers", "could do, objects/s", "carried", "limit", *(f"{name} in use" for name in names)],
                [
                    [
                        f"{p.workers:,}", f"{p.offered:,.0f}", f"{p.carried:,.0f}", p.limit,
                        *(f"{p.used[name]:.0%}" for name in names),
                    ]
                    for p in points
                ],
            ),
            table(
                [
                    "workers", "to carry all, objects/s", "spools",
                    *(f"{name}s on each" for name in processes), "destinations at once",
                ],
                [
                    [
                        f"{p.workers:,}", f"{p.offered:,.0f}", str(found.spools),
                        *(str(found.processes[name]) for name in processes), str(found.peers),
                    ]
                    for p, found in zip(points, layouts, strict=True)
                ],
            ),
        )
    )  # fmt: skip


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join((lines[0], "|---" * len(head) + "|", *lines[1:]))
