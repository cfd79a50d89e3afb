"""`dicomferry transcode` at the terminal: a progress bar while it runs, then the results.

File names are the user's own and are shown; the content of files is not.
"""

import signal
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from dicomferry.text import shown
from gateway.commands.words import plain
from workers import limits
from workers.files.folder import Job, Kind, Order, Outcome
from workers.files.parallel import run


def convert(jobs: Sequence[Job], order: Order, processes: int | None, *, verbose: bool = False) -> bool:
    """Do all jobs and print the results; returns whether none failed. `processes` None is one per core.

    What was noted, skipped or left is counted, and with `verbose` named file by file.
    """
    signal.signal(signal.SIGTERM, _end)  # so that child processes end and leave no temporary files
    began = time.monotonic()
    outcomes = list(_with_progress(run(jobs, order, processes or limits.cores()), len(jobs)))
    seconds = time.monotonic() - began
    console = Console(highlight=False, soft_wrap=True)
    failed = sorted((o for o in outcomes if o.kind is Kind.FAILED), key=lambda o: o.job.source)
    told = [o for o in outcomes if o.kind is not Kind.FAILED and o.words]
    if verbose:
        for outcome in sorted(told, key=lambda o: o.job.source):
            console.print(plain(f"{outcome.job.source}: {outcome.kind.value}: {outcome.words}"))
    else:
        for words, count in Counter(map(_counted_words, told)).most_common():
            console.print(plain(f"{_files(count)}: {words}"))
    if failed:
        _print_failures(console, failed)
    console.print(plain(_summary(outcomes, seconds)))
    return not failed


def _counted_words(outcome: Outcome) -> str:
    if outcome.kind in {Kind.MADE, Kind.COPIED}:
        return outcome.words
    return f"{outcome.kind.value}: {outcome.words}"


def _with_progress(outcomes: Iterable[Outcome], total: int) -> Iterable[Outcome]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Transcoding", total=total)
        failed = 0
        for outcome in outcomes:
            failed += outcome.kind is Kind.FAILED
            progress.update(
                task, advance=1, description=f"Transcoding, {failed} failed" if failed else "Transcoding"
            )
            yield outcome


def _print_failures(console: Console, failed: Sequence[Outcome]) -> None:
    if not console.is_terminal:
        # For grep: one line each, however long.
        for outcome in failed:
            console.print(Text(shown(f"failed: {outcome.job.source}: {outcome.words}")))
        return
    table = Table("file", "reason", title="failed", title_justify="left")
    for outcome in failed:
        table.add_row(Text(shown(str(outcome.job.source)), overflow="fold"), Text(shown(outcome.words)))
    console.print(table, soft_wrap=False)


def _summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """One line of counts, sizes and speed; the speed is that of the files read."""
    counted = Counter(outcome.kind for outcome in outcomes)
    done = [outcome for outcome in outcomes if outcome.kind in {Kind.MADE, Kind.COPIED}]
    read, written = sum(o.job.size for o in done), sum(o.written for o in done)
    parts = [f"{counted[kind]} {kind.value}" for kind in Kind if counted[kind] or kind is Kind.FAILED]
    return (
        f"{_files(len(outcomes))}: {', '.join(parts)}; {_megabytes(read)} became {_megabytes(written)} "
        f"in {seconds:.1f} s, {read / seconds / 1e6:.1f} MB/s"
    )


def _files(count: int) -> str:
    return f"{count} file" if count == 1 else f"{count} files"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _end(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)
