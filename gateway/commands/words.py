"""Numbers, ages and times in words, and how the commands print what a peer may have written."""

import time
from datetime import UTC, datetime

import typer
from rich.text import Text

from dicomferry.text import shown


def say(text: str) -> None:
    """Print one line."""
    typer.echo(shown(text))


def plain(*lines: str) -> Text:
    """For rich: `lines` without markup, emoji and control characters."""
    return Text("\n".join(map(shown, lines)))


def counted(number: int, what: str) -> str:
    """A number of things: "1 delivery", "2 deliveries"."""
    plural = what[:-1] + "ies" if what.endswith("y") else what + "s"
    return f"{number} {what if number == 1 else plural}"


def ago(at: float) -> str:
    """How long ago `at` (seconds since the epoch) was, in its two largest units."""
    rest = max(0, round(time.time() - at))
    words: list[str] = []
    for unit, seconds in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        number, rest = divmod(rest, seconds)
        if number or (unit == "s" and not words):
            words.append(f"{number} {unit}")
    return " ".join(words[:2])


def local_time(at: float | None) -> str:
    """`at` (seconds since the epoch) in the local time zone, to the millisecond."""
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(" ", "milliseconds") if at else "unknown"
