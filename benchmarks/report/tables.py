"""The tables of benchmarks/pipeline.py."""

from rich.console import Console
from rich.table import Table

from benchmarks.peers.contenders import ferry_name
from benchmarks.peers.jobs import JOBS
from benchmarks.report.results import BARE, FERRY, Results, column_names, figures


def show(results: Results) -> None:
    """Print all tables, and what failed."""
    console = Console()
    console = console if console.is_terminal else Console(width=150)
    jobs = [job.name for job in JOBS if job.name in results.runs]
    names = column_names(results)
    table = Table("objects/s, medians", *names)
    for job in jobs:
        cells = []
        for name in names:
            rate = results.rate(job, name)
            why = results.cannots.get(job, {}).get(name)
            cells.append(f"{rate:.1f}" if rate else "cannot" if why else "")
        table.add_row(job, *cells)
    console.print(table)
    for job, found in results.cannots.items():
        for name, why in found.items():
            console.print(f"{job}: {name} cannot: {why}", highlight=False)
    console.print(_parts(results, jobs))
    console.print(_latency(results))
    console.print(_stages(results))
    console.print(_figures(results))
    for what, why in results.failures.items():
        console.print(f"Failed: {what}: {why}", highlight=False)
    machine = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    console.print(machine, highlight=False)


def _parts(results: Results, jobs: list[str]) -> Table:
    parts = ("ingest", "dispatcher", "worker", "forwarder", "redis", "flower", "up")
    table = Table(f"{FERRY}: CPU ms an object / peak MiB", *parts, "sum", "other contenders, CPU ms")
    for job in jobs:
        runs = results.runs[job].get(FERRY)
        if not runs:
            continue
        cells, total = [], 0.0
        for part in parts:
            cpu = results.median(job, FERRY, lambda run, part=part: run["cpu_ms"].get(part, 0.0)) or 0.0
            total += cpu
            cells.append(f"{cpu:.2f} / {max(run['peak_mib'].get(part, 0) for run in runs):.0f}")
        others = [
            f"{name}: {sum(results.runs[job][name][-1]['cpu_ms'].values()):.1f}"
            for name in column_names(results)
            if name in results.runs[job] and not name.startswith(("dicomferry, ", BARE))
        ]
        table.add_row(job, *cells, f"{total:.2f}", "; ".join(others))
    return table


def _latency(results: Results) -> Table:
    table = Table("idle latency beyond the codec, ms", "job", "p50", "p95")
    for job, found in results.latency.items():
        for name in found:
            halves = [results.beyond_codec(job, name, share) or 0.0 for share in (0.5, 0.95)]
            table.add_row(name, job, *(f"{ms:.0f}" for ms in halves))
    return table


def _stages(results: Results) -> Table:
    table = Table("by itself", "objects/s", "CPU ms an object", "")
    for job, runs in results.alone.get("ingest_then_forward", {}).items():
        ingest, forward = runs[-1]["ingest"], runs[-1]["forward"]
        table.add_row(f"ingest, {job}", f"{ingest['rate']:.0f}", f"{ingest['cpu_ms']:.2f}", "")
        words = f"{forward['until_first']:.2f} s until the first, then {forward['rate_from_first']:.0f}/s"
        table.add_row(f"forward, {job}", f"{forward['rate']:.0f}", f"{forward['cpu_ms']:.2f}", words)
    for job, runs in results.alone.get("associations", {}).items():
        for row in runs[-1]:
            what = f"ingest, {job}, {row['associations']} at once"
            if "failed" in row:
                table.add_row(what, "", "", f"failed: {row['failed']}")
            else:
                table.add_row(
                    what, f"{row['rate']:.0f}", f"{row['cpu_ms']:.2f}", f"{row['peak_mib']:.0f} MiB"
                )
    for job, rounds in results.alone.get("transcoding", {}).items():
        for row in rounds[-1]:
            what = f"{ferry_name(row['workers']).partition(', ')[2]}, {job}"
            words = (
                f"bare codec {row['bare']:.0f}/s; Redis {row['redis_cpu_ms']:.2f} ms, "
                f"{row['redis_commands']:.1f} commands"
            )
            table.add_row(what, f"{row['rate']:.0f}", f"{row['cpu_ms']:.2f}", words)
    return table


def _figures(results: Results) -> Table:
    table = Table("figure", "measured", "to reach", "aim", "", "")
    for figure in figures(results):
        value = "" if figure.value is None else f"{figure.value:.2f} {figure.unit}"
        aim = "" if figure.aim is None else f"{figure.aim:g} {figure.unit}"
        table.add_row(figure.what, value, f"{figure.reach:g} {figure.unit}", aim, figure.verdict, figure.note)
    return table
