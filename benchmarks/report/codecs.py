"""The table of benchmarks/codecs.py."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.measure.codecs import Row


def show(rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(
        "image",
        "syntax",
        "",
        "dicomferry",
        "verified",
        "bare",
        "x bare",
        "x with files",
        "gdcm",
        "dcmtk",
        "misses",
    )
    for row in rows:
        rates = [row.rate(who) for who in ("dicomferry", "verified", "bare", "gdcm", "dcmtk")]
        words = [f"{rate:.0f}" if rate is not None else "" for rate in rates]
        over = [f"{times:.2f}" if (times := row.ratio(who)) else "" for who in ("bare", "with files")]
        misses = ", ".join(row.misses)
        table.add_row(row.image, row.syntax, row.direction, *words[:3], *over, *words[3:], misses)
    console = Console()
    console = console if console.is_terminal else Console(width=150)
    console.print(table)
    missed = sum(bool(row.misses) for row in rows)
    console.print(f"MB/s of native bytes, medians. {len(rows)} rows, {missed} miss a goal.")
