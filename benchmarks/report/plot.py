"""Bars of what benchmarks/pipeline.py has measured. Needs the extra `benchmarks`."""

from pathlib import Path

from benchmarks.peers.contenders import ferry_name, worker_counts
from benchmarks.peers.jobs import JOBS, Job
from benchmarks.report.results import BARE, Results, column_names

_BLUES = ("#a9cfe0", "#6aaac6", "#3886a8", "#1f6f8b", "#12526b")
_PAST = "#8e7cc3"  # another commit
_COLOURS = {
    BARE: "#b5bcc4",
    "Orthanc": "#f0b27a",
    "Orthanc, TCP_NODELAY": "#dc7633",
    "script": "#c9b458",
} | {ferry_name(count): _BLUES[min(n, 4)] for n, count in enumerate(worker_counts())}


def plot(results: Results, path: Path) -> None:
    """Write a PNG with a bar for each job and contender."""
    import matplotlib as mpl  # noqa: PLC0415  of the extra `benchmarks`

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    jobs = [job for job in JOBS if job.name in results.runs]
    names = column_names(results)
    columns = min(3, len(jobs))
    rows = -(-len(jobs) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 2.3 * rows), squeeze=False)
    for axis in axes.flat[len(jobs) :]:
        axis.set_axis_off()
    for place, (axis, job) in enumerate(zip(axes.flat, jobs, strict=False)):
        rates = [results.rate(job.name, name) or 0.0 for name in names]
        axis.barh(names, rates, color=[_COLOURS.get(name, _PAST) for name in names])
        for at, (name, rate) in enumerate(zip(names, rates, strict=True)):
            words = f"{rate:.0f}" if rate else _missing(results, job, name)
            axis.text(rate, at, f" {words}", va="center", fontsize=8)
        axis.set_title(f"{job.name}", fontsize=10)
        axis.set_xlim(0, max(rates, default=1) * 1.15 or 1)
        axis.invert_yaxis()
        axis.tick_params(labelsize=8, left=False, labelleft=place % columns == 0)
        axis.spines[["top", "right", "left"]].set_visible(False)
    machine = results.machine
    figure.suptitle(
        f"Objects a second from dcmsend to storescp; {machine['cores']} cores of {machine['processor']}",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _missing(results: Results, job: Job, name: str) -> str:
    """Why there is no bar, in a word."""
    if name in results.cannots.get(job.name, {}):
        return "cannot"
    if f"{job.name}: {name}" in results.failures:
        return "failed"
    return ""
