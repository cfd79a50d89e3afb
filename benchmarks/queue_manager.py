"""How the queue manager scales: simulated hospitals of growing size, in virtual time.

    python -m benchmarks.queue_manager [--deliveries 10000 1000000] [--lanes 1000] [--off 300] [--json FILE]

Each size runs in a process of its own, so that its memory is its own.
"""

import argparse
import json
import multiprocessing
import resource
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.support.hospital import Hospital


def measure(size: tuple[int, int, int]) -> dict[str, Any]:
    """Run one hospital: its report, and the process's memory in MiB before and at most."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = Hospital(*size).run()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"microseconds_an_event": report.microseconds_an_event}
    return asdict(report) | figures | {"mib_before": before / 1024, "mib": after / 1024}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deliveries", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--lanes", type=int, default=1000)
    parser.add_argument("--off", type=int, default=300)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    table = Table(
        "deliveries", "lanes", "off", "read, s", "events", "us an event", "MiB", "longest gap, virtual s",
        "batches at most", "unstarted at most", "ahead at most",
    )  # fmt: skip
    rows = []
    for deliveries in asked.deliveries:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row = pool.apply(measure, ((deliveries, asked.lanes, asked.off),))
        rows.append(row)
        table.add_row(
            str(row["deliveries"]), str(row["lanes"]), str(row["lanes_off"]), f"{row['reading']:.1f}",
            str(row["events"]), f"{row['microseconds_an_event']:.1f}", f"{row['mib']:.0f}",
            f"{row['virtual_gap']:.0f}", str(row["most_outstanding"]), str(row["most_unstarted"]),
            str(row["most_ahead"]),
        )  # fmt: skip
    Console().print(table)
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
