"""All that a run of the pipeline's benchmark has found, and which figures of it are aimed at."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from contenders import ferry_name
from machine import cores
from rounds import percentile
from work import J2K_CT, PASSED_CT, SMALL_MR

BARE = "ceiling: the bare codec"
FERRY = ferry_name(cores())  # that has a worker for each core


@dataclass
class Results:
    """By job and contender: its runs, or why there are none."""

    machine: dict[str, Any]
    runs: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    cannots: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)  # by what failed
    latency: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # ms, by job and contender
    codec_ms: float = 0.0  # of one J2K CT
    sent_bytes: dict[str, int] = field(default_factory=dict)  # of one object, by job
    alone: dict[str, dict[str, list[Any]]] = field(default_factory=dict)  # by part and job

    def add(self, job: str, who: str, run: dict[str, Any]) -> None:
        """One more run."""
        self.runs.setdefault(job, {}).setdefault(who, []).append(run)

    def cannot(self, job: str, who: str, why: str) -> None:
        """The contender cannot do this job."""
        self.cannots.setdefault(job, {})[who] = why

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"figures": [asdict(figure) for figure in figures(self)]}

    @classmethod
    def read(cls, text: str) -> Self:
        """The reverse of `plain`, as JSON."""
        content = json.loads(text)
        del content["figures"]
        return cls(**content)

    def rate(self, job: str, who: str) -> float | None:
        """Objects a second."""
        return self.median(job, who, lambda run: run["rate"])

    def median(self, job: str, who: str, of: Callable[[dict[str, Any]], float]) -> float | None:
        """The median of the runs."""
        found = self.runs.get(job, {}).get(who)
        return statistics.median(map(of, found)) if found else None

    def ratio(self, job: str, who: str, other: str) -> float | None:
        """How many times as fast, round by round; the median of that."""
        pairs = zip(self.runs.get(job, {}).get(who, ()), self.runs.get(job, {}).get(other, ()), strict=False)
        found = [one["rate"] / two["rate"] for one, two in pairs]
        return statistics.median(found) if found else None

    def beyond_codec(self, job: str, who: str, share: float) -> float | None:
        """Milliseconds that one object takes through an idle system, the codec's left out: a percentile."""
        found = self.latency.get(job, {}).get(who)
        codec = self.codec_ms if job == J2K_CT else 0.0
        return percentile(found, share) - codec if found else None

    def gain(self, job: str, what: str) -> float | None:
        """How much more two processes do than one, of workers alone ("rate") or of the codec ("bare")."""
        rounds = [rows for rows in self.alone.get("transcoding", {}).get(job, ()) if len(rows) > 1]
        return statistics.median(two[what] / one[what] for one, two, *_ in rounds) if rounds else None

    def of_alone(self, part: str, job: str, of: Callable[[Any], float]) -> float | None:
        """The median of what was measured of a part by itself."""
        found = self.alone.get(part, {}).get(job)
        return statistics.median(map(of, found)) if found else None


@dataclass(frozen=True)
class Figure:
    """A figure with what is to be reached and what is aimed at."""

    what: str
    value: float | None
    reach: float
    aim: float | None = None
    unit: str = "x"
    most: bool = False  # whether less is better
    note: str = ""

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.value is None:
            return "not measured"
        words = "missed"
        for goal, word in ((self.reach, "reached"), (self.aim, "aim reached")):
            if goal is not None and (self.value <= goal if self.most else self.value >= goal):
                words = word
        return words


def figures(results: Results) -> Sequence[Figure]:
    """What is to be reached."""
    tuned = "Orthanc, TCP_NODELAY"
    stalls = _stalls(results)
    return (
        Figure("J2K CT: pipeline / ceiling", results.ratio(J2K_CT, FERRY, BARE), 0.75, 0.90),
        Figure("J2K CT: pipeline / Orthanc as installed", results.ratio(J2K_CT, FERRY, "Orthanc"), 3.5, 4.5),
        Figure("J2K CT: pipeline / Orthanc tuned", results.ratio(J2K_CT, FERRY, tuned), 1.35, 1.7),
        Figure("pass-through CT: pipeline / Orthanc tuned", results.ratio(PASSED_CT, FERRY, tuned), 1.3, 2.0),
        Figure("small MR, pass-through", results.rate(SMALL_MR, FERRY), 250, 600, "/s"),
        Figure("small MR: gaps of 40 ms at the sink, of 1,000", stalls, 0, None, "", most=True),
        Figure(
            "ingest: processor time of a 0.5 MB object",
            results.of_alone("ingest_then_forward", PASSED_CT, lambda found: found["ingest"]["cpu_ms"]),
            2, 1, "ms", most=True,
        ),
        Figure(
            "forward: processor time of a 0.5 MB object",
            results.of_alone("ingest_then_forward", PASSED_CT, lambda found: found["forward"]["cpu_ms"]),
            1.5, 1, "ms", most=True,
        ),
        Figure(
            "J2K CT: idle latency beyond the codec, p50",
            results.beyond_codec(J2K_CT, FERRY, 0.5), 60, 25, "ms", most=True,
        ),
        Figure("J2K CT: workers 1 to 2, alone", results.gain(J2K_CT, "rate"), 1.9, note=_beside(results)),
        Figure(
            "J2K CT: bytes written to disk / (received + rendition)",
            results.median(J2K_CT, FERRY, lambda run: _written(results, run, run["spared_bytes"])),
            1, most=True, note=_deleted_soon(results),
        ),
    )  # fmt: skip


def _beside(results: Results) -> str:
    """What the gain of a second worker is to be compared with, in words."""
    whole = results.ratio(J2K_CT, ferry_name(2), ferry_name(1))
    found = {
        "the bare codec": results.gain(J2K_CT, "bare"),
        f"the whole pipeline on these {cores()} cores": whole,
    }
    return "; ".join(f"{what}: {gain:.2f} x" for what, gain in found.items() if gain is not None)


def _stalls(results: Results) -> float | None:
    """Of a thousand gaps between arrivals."""
    return results.median(SMALL_MR, FERRY, lambda run: 1000 * run["stalls"] / run["objects"])


def _written(results: Results, run: dict[str, Any], spared: float) -> float:
    written: float = sum(run["written_bytes"].values()) - spared
    return written / (results.sent_bytes[J2K_CT] + run["arrived_bytes"])


def _deleted_soon(results: Results) -> str:
    """What the kernel counts before it knows that a page will never go to the disk (proc_pid_io(5))."""
    counted = results.median(J2K_CT, FERRY, lambda run: _written(results, run, 0.0))
    return f"with what was deleted before it went there: {counted:.2f} x" if counted is not None else ""
