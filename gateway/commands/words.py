"""Numbers, ages and times in words, and how the commands print what a peer may have written."""

import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import typer
from rich.text import Text

from dicomferry.text import shown

_NARROWEST = 30  # columns that a sentence needs


def say(text: str) -> None:
    """Print one line."""
    typer.echo(shown(text))


def plain(*lines: str) -> Text:
    """For rich: `lines` without markup, emoji and control characters."""
    return Text("\n".join(map(shown, lines)))


def counted(number: int, what: str) -> str:
    """A number of things: "1 delivery", "2 deliveries"."""
    plural = what[:-1] + "ies" if what.endswith("y") else what + ("es" if what.endswith("ch") else "s")
    return f"{number} {what if number == 1 else plural}"


def ago(at: float) -> str:
    """How long ago `at` (seconds since the epoch) was, in its two largest units."""
    return lasting(time.time() - at)


def lasting(seconds: float) -> str:
    """A time in its two largest units."""
    rest = max(0, round(seconds))
    words: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, length)
        if number or (unit == "s" and not words):
            words.append(f"{number} {unit}")
    return " ".join(words[:2])


def since(at: float) -> str:
    """Since when, and how long that is: "14:05 (2 h 3 min)"; with the date where it is not today's."""
    moment, today = datetime.fromtimestamp(at, UTC).astimezone(), datetime.now(UTC).astimezone()
    form = "%H:%M" if moment.date() == today.date() else "%Y-%m-%d %H:%M"
    return f"{moment.strftime(form)} ({ago(at)})"


def local_time(at: float | None) -> str:
    """`at` (seconds since the epoch) in the local time zone, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(" ", "milliseconds") if at else "unknown"


def width() -> int | None:
    """Columns of the terminal that we print to; None where it is a pipe or a file, which get whole lines."""
    return max(shutil.get_terminal_size().columns, _NARROWEST) if sys.stdout.isatty() else None


def wrapped(text: str, columns: int | None, indent: str = "") -> str:
    """The text, fit to be shown, in lines of so many columns, later ones behind `indent`; UIDs stay whole."""
    text = shown(text)
    if columns is None:
        return text
    return textwrap.fill(
        text, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def aligned(rows: Sequence[Sequence[str]], columns: int | None) -> list[str]:
    """Rows as lines, their cells under each other.

    The last cell is wrapped into what is left of so many columns; where that is little, it goes below.
    """
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*(row[:-1] for row in rows), strict=True)]
    lines: list[str] = []
    for row in rows:
        head = "".join(cell.ljust(size) + "  " for cell, size in zip(row[:-1], widths, strict=True))
        left = _NARROWEST if columns is None else columns - len(head)
        if len(row[-1]) > left and left < _NARROWEST:
            lines.append(head.rstrip())
            head = "    "
        lines += wrapped((head + row[-1]).rstrip(), columns, " " * len(head)).splitlines()
    return lines
