"""The results of a run of benchmarks/pipeline.py, and its figures with their goals."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Self

from benchmarks.machine.usage import cores
from benchmarks.peers.contenders import contenders, ferry_name, worker_counts
from benchmarks.peers.jobs import FAST_CODECS, J2K_CT, MANY_FRAMES, PASSED_CT, SMALL_MR

BARE = "ceiling: the bare codec"
FERRY = ferry_name(cores())  # with a worker for each core


def column_names(results: "Results") -> list[str]:
    """The bare codec and all contenders, in the order of tables and plots."""
    past = [results.against] if results.against else []
    return [BARE, *(contender.name for contender in contenders(worker_counts())), *past]


@dataclass
class Results:
    """By job and contender: the runs, or why there are none. The fields are the keys of the JSON file."""

    machine: dict[str, Any]
    runs: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    cannots: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # reasons, by what failed
    latency: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # ms, by job and contender
    codec_ms: float = 0.0  # of one J2K CT
    against: str = ""  # the contender that is another commit
    sent_bytes: dict[str, int] = field(default_factory=dict)  # of one object, by job
    alone: dict[str, dict[str, list[Any]]] = field(default_factory=dict)  # by stage and job

    def add(self, job: str, who: str, run: dict[str, Any]) -> None:
        """Add a run."""
        self.runs.setdefault(job, {}).setdefault(who, []).append(run)

    def cannot(self, job: str, who: str, why: str) -> None:
        """Note that the contender cannot do this job."""
        self.cannots.setdefault(job, {})[who] = why

    def as_json(self) -> dict[str, Any]:
        """The content of the JSON file."""
        return asdict(self) | {"figures": [asdict(figure) for figure in figures(self)]}

    @classmethod
    def read(cls, text: str) -> Self:
        """Read the JSON file's text."""
        content = json.loads(text)
        del content["figures"]
        return cls(**content)

    def rate(self, job: str, who: str) -> float | None:
        """Objects a second: the median of the runs."""
        return self.median(job, who, lambda run: run["rate"])

    def median(self, job: str, who: str, of: Callable[[dict[str, Any]], float]) -> float | None:
        """The median of a figure of the runs; None without runs."""
        found = self.runs.get(job, {}).get(who)
        return statistics.median(map(of, found)) if found else None

    def ratio(self, job: str, who: str, other: str) -> float | None:
        """How many times as fast as `other`: the median of the rounds' ratios."""
        pairs = zip(self.runs.get(job, {}).get(who, ()), self.runs.get(job, {}).get(other, ()), strict=False)
        found = [one["rate"] / two["rate"] for one, two in pairs]
        return statistics.median(found) if found else None

    def beyond_codec(self, job: str, who: str, share: float) -> float | None:
        """Milliseconds of one object through an idle contender, less the codec's: a percentile."""
        found = self.latency.get(job, {}).get(who)
        codec = self.codec_ms if job == J2K_CT else 0.0
        return _percentile(found, share) - codec if found else None

    def cost(self, job: str, *, codec: float = 0.0) -> float | None:
        """Processor time of our parts for an object, less `codec` ms, over that of the other commit."""
        ours, theirs = (
            self.median(job, who, lambda run: sum(run["cpu_ms"].values())) for who in (FERRY, self.against)
        )
        return (ours - codec) / (theirs - codec) if ours and theirs else None

    def gain(self, job: str, what: str) -> float | None:
        """How many times as fast two processes are as one: workers alone ("rate") or the codec ("bare")."""
        rounds = [rows for rows in self.alone.get("transcoding", {}).get(job, ()) if len(rows) > 1]
        return statistics.median(two[what] / one[what] for one, two, *_ in rounds) if rounds else None

    def of_stage(self, stage: str, job: str, of: Callable[[Any], float]) -> float | None:
        """The median of a figure of a stage alone; None without runs."""
        found = self.alone.get(stage, {}).get(job)
        return statistics.median(map(of, found)) if found else None


@dataclass(frozen=True)
class Figure:
    """A figure, the goal that it has to reach, and a further aim."""

    what: str
    value: float | None
    reach: float
    aim: float | None = None
    unit: str = "x"
    most: bool = False  # whether less is better
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the goal is reached, in a word or two."""
        if self.value is None:
            return "not measured"
        words = "missed"
        for goal, word in ((self.reach, "reached"), (self.aim, "aim reached")):
            if goal is not None and (self.value <= goal if self.most else self.value >= goal):
                words = word
        return words


def figures(results: Results) -> Sequence[Figure]:
    """All figures with their goals."""
    tuned = "Orthanc, TCP_NODELAY"
    stalls = _stalls(results)
    return (
        *_figures_against(results),
        Figure("J2K CT: pipeline / ceiling", results.ratio(J2K_CT, FERRY, BARE), 0.80, 0.85),
        Figure("J2K CT: pipeline / Orthanc as installed", results.ratio(J2K_CT, FERRY, "Orthanc"), 3.5, 4.5),
        Figure("J2K CT: pipeline / Orthanc tuned", results.ratio(J2K_CT, FERRY, tuned), 1.8, 2.0),
        Figure("pass-through CT: pipeline / Orthanc tuned", results.ratio(PASSED_CT, FERRY, tuned), 2.0, 3.0),
        *(
            Figure(f"{job}: pipeline / Orthanc tuned", results.ratio(job, FERRY, tuned), 2.5, 4.0)
            for job in FAST_CODECS
        ),
        *_crowds(results),
        Figure("small MR, pass-through", results.rate(SMALL_MR, FERRY), 250, 600, "/s"),
        Figure("small MR: gaps of 40 ms at the sink, of 1,000", stalls, 0, None, "", most=True),
        Figure(
            "ingest: processor time of a 0.5 MB object",
            results.of_stage("ingest_then_forward", PASSED_CT, lambda found: found["ingest"]["cpu_ms"]),
            2, 1, "ms", most=True,
        ),
        Figure(
            "forward: processor time of a 0.5 MB object",
            results.of_stage("ingest_then_forward", PASSED_CT, lambda found: found["forward"]["cpu_ms"]),
            1.5, 1, "ms", most=True,
        ),
        *(
            Figure(
                f"{job}: idle latency beyond the codec, p50",
                results.beyond_codec(job, FERRY, 0.5), 12, 8, "ms", most=True,
            )
            for job in (PASSED_CT, J2K_CT)
        ),
        Figure("J2K CT: workers 1 to 2, alone", results.gain(J2K_CT, "rate"), 1.9, note=_gains(results)),
        Figure(
            "J2K, one object of 60 frames 1024 x 1024: workers 1 to 2, alone",
            results.gain(MANY_FRAMES.name, "rate"), 1.7, 1.9,
        ),
        Figure(
            "J2K CT: bytes written to disk / (received + rendition)",
            results.median(J2K_CT, FERRY, lambda run: _written(results, run, run["spared_bytes"])),
            1, most=True, note=_written_at_first(results),
        ),
    )  # fmt: skip


def _figures_against(results: Results) -> Sequence[Figure]:
    """What is compared with another commit."""
    if not results.against:
        return ()
    codec, other = results.codec_ms, results.against
    return (
        Figure(f"pass-through CT: processor time / {other}", results.cost(PASSED_CT), 0.5, 0.35, most=True),
        Figure(
            f"J2K CT: processor time beyond the codec / {other}",
            results.cost(J2K_CT, codec=codec), 0.5, 0.35, most=True,
        ),
        Figure(f"small MR: pipeline / {other}", results.ratio(SMALL_MR, FERRY, other), 2, 3),
    )  # fmt: skip


def _crowds(results: Results) -> Sequence[Figure]:
    """Ingest's rate over many associations, compared with that over one."""

    def over_one(number: int, rows: Any) -> float:
        rates = {row["associations"]: row.get("rate", 0.0) for row in rows}
        found: float = rates[number] / rates[1] if rates.get(1) else 0.0
        return found

    return [
        Figure(
            f"ingest: {number} associations / 1",
            results.of_stage("associations", PASSED_CT, partial(over_one, number)), 1.0, 1.5,
        )
        for number in (16, 64)
    ]  # fmt: skip


def _gains(results: Results) -> str:
    """The gains to compare the second worker's with, in words."""
    whole = results.ratio(J2K_CT, ferry_name(2), ferry_name(1))
    found = {
        "the bare codec": results.gain(J2K_CT, "bare"),
        f"the whole pipeline on these {cores()} cores": whole,
    }
    return "; ".join(f"{what}: {gain:.2f} x" for what, gain in found.items() if gain is not None)


def _stalls(results: Results) -> float | None:
    """Stalls for a thousand objects."""
    return results.median(SMALL_MR, FERRY, lambda run: 1000 * run["stalls"] / run["objects"])


def _written(results: Results, run: dict[str, Any], spared: float) -> float:
    written: float = sum(run["written_bytes"].values()) - spared
    return written / (results.sent_bytes[J2K_CT] + run["arrived_bytes"])


def _written_at_first(results: Results) -> str:
    """The same ratio with pages that were deleted before they went to the disk (proc_pid_io(5)), in words."""
    counted = results.median(J2K_CT, FERRY, lambda run: _written(results, run, 0.0))
    return f"with what was deleted before it went there: {counted:.2f} x" if counted is not None else ""


def _percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
