"""`dicomferry demo`: runs a PACS, dicomferry and a workstation on this machine until one study is delivered.

The PACS sends sample images; the demo compares the pixels that arrive at the workstation with the source's.
"""

import signal
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicomferry.errors import FerryError
from gateway.demo.installation import Installation, running, work_folder
from gateway.demo.pacs import send
from gateway.demo.samples import Sample, make
from gateway.demo.table import STALLED, compare, print_rows
from gateway.demo.workstation import TITLE, Workstation, listening
from gateway.local.warden import Warden

_HISTORY_WITHIN = 60.0  # seconds for the dispatcher to note the last delivery
_TOLD_EVERY = 8  # images between two lines of progress where there is no terminal


def run(workers: int | None = None, keep: Path | None = None, *, keep_running: bool = False) -> int:
    """Run the demo; returns its exit code: 0 if every image arrived with its pixels.

    `workers` is the number of transcoding processes. `keep` is a folder in which all files stay; without it
    they are removed. With `keep_running` everything goes on after the table, until Ctrl-C or SIGTERM.
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console = Console(soft_wrap=True, highlight=False)
    try:
        with work_folder(keep) as (folder, warden), listening(folder / "received") as workstation:
            return _deliver_samples(console, folder, warden, workstation, workers, keep_running=keep_running)
    except FerryError as error:
        console.print(f"The demo failed: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 1


def _deliver_samples(
    console: Console,
    folder: Path,
    warden: Warden,
    workstation: Workstation,
    workers: int | None,
    *,
    keep_running: bool,
) -> int:
    console.print("Making the sample images, and starting every part of dicomferry: some 10 seconds.")
    samples = make()
    with running(folder, warden, workstation, workers) as site:
        console.print(
            f"A PACS sends {len(samples)} images to FERRY at 127.0.0.1:{site.ingest}. The "
            f"workstation {TITLE} at 127.0.0.1:{workstation.port} takes only uncompressed images."
        )
        console.print(f"Flower shows the batches while this runs: http://127.0.0.1:{site.flower}/")
        sent = _send_and_wait(console, samples, site, workstation)
        words = _history(site.folder / "spool" / "history.sqlite", samples)
        arrivals = workstation.arrivals()
        rows = [compare(s, sent, arrivals.get(s.uid), words.get(s.uid, "")) for s in samples]
        print_rows(console, rows)
        if keep_running:
            _hold(console, site)
    return 1 if any(row.fault for row in rows) else 0


def _hold(console: Console, site: Installation) -> None:
    """Let everything run until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        console.print(
            f"Everything keeps running. Look at http://127.0.0.1:{site.flower}/, send more to FERRY at "
            f"127.0.0.1:{site.ingest}, or type `dicomferry status --config {site.folder}/dicomferry.toml`. "
            "Ctrl-C stops it."
        )
        while True:  # signal.pause() would miss a signal that comes just before it
            time.sleep(0.5)


def _send_and_wait(
    console: Console, samples: Sequence[Sample], site: Installation, workstation: Workstation
) -> dict[str, float]:
    """Send all and wait for them; returns each C-STORE's start (time.monotonic()) by SOP Instance UID."""
    columns = TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    wanted = {sample.uid for sample in samples}
    # A pipe shows no bars: it gets a line now and then.
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        sending = progress.add_task("sent", total=len(samples))
        arriving = progress.add_task("delivered", total=len(samples))
        told = 0

        def count_arrived() -> int:
            nonlocal told
            number = len(wanted & workstation.arrivals().keys())
            progress.update(arriving, completed=number)
            if not console.is_terminal and number >= min(told + _TOLD_EVERY, len(samples)) > told:
                console.print(f"delivered {number} of {len(samples)}")
                told = number
            return number

        def on_stored() -> None:
            progress.advance(sending)
            count_arrived()

        sent = send(samples, site.ingest, on_stored)
        seen, moved = -1, time.monotonic()
        while seen < len(samples) and time.monotonic() - moved < STALLED:
            time.sleep(0.05)
            if (number := count_arrived()) != seen:
                seen, moved = number, time.monotonic()
    return sent


def _history(path: Path, samples: Sequence[Sample]) -> dict[str, str]:
    """The dispatcher's words on each delivery, by SOP Instance UID; waits, as it writes them later."""
    deadline = time.monotonic() + _HISTORY_WITHIN
    words: dict[str, str] = {}
    while len(words) < len(samples) and time.monotonic() < deadline:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            found = database.execute("SELECT sop_instance_uid, words FROM history WHERE what = 'delivered'")
            words = dict(found.fetchall())
        time.sleep(0.05)
    return words
