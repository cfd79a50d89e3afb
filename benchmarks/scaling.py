"""What limits, by a bottleneck law: every object passes every part, so the slowest one's rate is the whole's.

Deterministic: each part works evenly whenever it has something to do, and what it needs for an object stays
what was measured. Waiting by chance is left out, so that a part is late well before 100 %; so are batches,
which get fuller, and cheaper an object, where a part falls behind. No measuring here: that is model.py's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Literal

WORKERS = "workers"


@dataclass(frozen=True)
class Costs:
    """Of one object on its way through everything."""

    ms: dict[str, float]  # of processor time: worker, dispatcher, redis, ingest, forwarder
    written: float  # bytes that went to the spool's disk
    received: float  # bytes
    sent: float  # bytes
    syncs: float  # that somebody waits for


@dataclass(frozen=True)
class Site:
    """What else there is, of each one."""

    disk: float  # bytes a second
    syncs: float  # a second
    link: float  # bits a second, in each direction
    association: float | None  # objects a second to one peer, one after the other; None where not measured
    workers_ahead: int  # that one lane keeps busy


@dataclass(frozen=True)
class Part:
    """Something that objects pass, besides the workers."""

    name: str
    needs: str  # for one object, in words
    carries: float  # objects a second, one of it
    then: str  # what to do where it limits
    # Of what there can be more: of spools, each with everything that is one's own; of processes on one spool;
    # of associations and destinations, which are the site's.
    more: Literal["spool", "process", "peer"] = "spool"

    def enough_for(self, worker: float) -> int:
        """The most workers that one of it keeps up with, each of so many objects a second."""
        return floor(self.carries / worker)


@dataclass(frozen=True)
class Point:
    """What so many workers come to, with one of every other part and destinations enough."""

    workers: int
    offered: float  # objects a second that they could transcode
    carried: float  # objects a second through everything
    limit: str  # the name of the part that has no time left
    used: dict[str, float]  # share of its time that each part works


@dataclass(frozen=True)
class Layout:
    """How much of everything carries all that the workers could do."""

    spools: int
    processes: dict[str, int]  # on each spool
    peers: int  # destinations that take objects at the same time, one association to each


def parts(costs: Costs, site: Site) -> list[Part]:
    """All of them, the one that limits first in front."""
    worker = 1000 / costs.ms["worker"]
    by_core = {
        "dispatcher": Part("dispatcher", "", 0, "a second spool: it is the only one of its spool"),
        "redis": Part("Redis", "", 0, "a second spool, with a Redis of its own: it has one thread"),
        "ingest": Part(
            "ingest", "", 0, "another ingest: `[ingest] shared_port`, or a TCP balancer", "process"
        ),
        "forwarder": Part(
            "forwarder", "", 0, "another forwarder, if peers take an association of each", "process"
        ),
    }
    found = [
        Part(part.name, f"{costs.ms[name]:.2f} ms of a core", 1000 / costs.ms[name], part.then, part.more)
        for name, part in by_core.items()
    ]
    links = {
        "link": (max(costs.received, costs.sent), "a faster one; ingest and forwarder on hosts of their own"),
        "file server": (costs.received + costs.sent, "a faster link to it, or a second spool elsewhere"),
    }
    found += [
        Part(name, f"{size / 1e6:.2f} MB each way", site.link / 8 / size, then)
        for name, (size, then) in links.items()
    ]
    found += [
        Part(
            "disk", f"{costs.written / 1e6:.2f} MB", site.disk / costs.written,
            "a faster disk, or a second spool",
        ),
        Part(
            "syncs", f"{costs.syncs:g} syncs", site.syncs / costs.syncs,
            "a disk with a safe write cache, or a second spool",
        ),
        Part(
            "lane", f"at most {site.workers_ahead} workers at once", site.workers_ahead * worker,
            "nothing: other destinations use the other workers", "peer",
        ),
    ]  # fmt: skip
    if site.association is not None:
        found.append(
            Part(
                "association", f"{1000 / site.association:.1f} ms", site.association,
                "`max_associations`, if the peer serves several at once", "peer",
            )
        )  # fmt: skip
    return sorted(found, key=lambda part: part.carries)


def at(workers: int, worker: float, of: Sequence[Part]) -> Point:
    """How far so many workers get, each of so many objects a second."""
    offered = workers * worker
    own = {part.name: part.carries for part in of if part.more != "peer"} | {WORKERS: offered}
    limit = min(own, key=lambda name: (own[name], name != WORKERS))
    carried = own[limit]
    return Point(workers, offered, carried, limit, {name: carried / most for name, most in own.items()})


def on(cores: int, all_ms: float, workers: int, worker: float) -> float:
    """Objects a second where everything shares so many cores; an object takes `all_ms` of them in all."""
    return min(workers * worker, cores * 1000 / all_ms)


def layout(offered: float, of: Sequence[Part]) -> Layout:
    """What carries so many objects a second."""

    def number(rate: float, part: Part) -> int:
        return ceil(rate / part.carries)

    spools = max(number(offered, part) for part in of if part.more == "spool")
    return Layout(
        spools,
        {part.name: number(offered / spools, part) for part in of if part.more == "process"},
        max((number(offered, part) for part in of if part.more == "peer"), default=1),
    )


def markdown(job: str, worker: float, of: Sequence[Part], counts: Sequence[int]) -> str:
    """Tables: what each part carries, how far workers get with one of each, and how many it takes."""
    points = [at(count, worker, of) for count in counts]
    layouts = [layout(point.offered, of) for point in points]
    names, processes = list(points[0].used), list(layouts[0].processes)
    return "\n\n".join(
        (
            table(
                [f"{job}: one", "needs for an object", "carries, objects/s", "is enough for workers", "then"],
                [
                    ["worker", f"{1000 / worker:.1f} ms of a core", f"{worker:.0f}", "", "more of them"],
                    *(
                        [p.name, p.needs, f"{p.carries:,.0f}", f"{p.enough_for(worker):,}", p.then]
                        for p in of
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
    """Rows of cells as Markdown."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join((lines[0], "|---" * len(head) + "|", *lines[1:]))
