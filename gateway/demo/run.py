"""`dicomferry demo`: runs a PACS, dicomferry and a workstation on this machine until one study is delivered.

The PACS sends sample images; the demo compares the pixels that arrive at the workstation with the source's.
"""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dicomferry.dicom.syntaxes import GROUPS, label
from dicomferry.errors import FerryError
from gateway.commands.words import aligned, width, wrapped
from gateway.demo.pacs import send
from gateway.demo.samples import Sample, make
from gateway.demo.workstation import TITLE, Arrival, Workstation, listening
from gateway.local.warden import WAIT_FOR_GO, Warden

_STALLED = 120.0  # seconds without progress
_STOPPED_WITHIN = 60.0  # seconds
_HISTORY_WITHIN = 60.0  # seconds for the dispatcher to note the last delivery
_TOLD_EVERY = 8  # images between two lines of progress where there is no terminal
_LAST_LINES = 30

_CONFIGURATION = """\
spool = "spool"

[ingest]
port = {ingest}

[worker]
{concurrency}

[flower]
port = {flower}

[[ae]]
title = "FERRY"

[[destination]]
name = "workstation"
title = "{title}"
host = "127.0.0.1"
port = {workstation}
transfer_syntaxes = ["uncompressed"]

[[route]]
to = ["workstation"]
"""


@dataclass(frozen=True, slots=True)
class _Installation:
    """A running dicomferry."""

    folder: Path
    ingest: int  # port
    flower: int  # port


@dataclass(frozen=True, slots=True)
class _Row:
    """The result for one sample."""

    sample: Sample
    arrival: Arrival | None
    seconds: float  # from the start of its C-STORE to its arrival
    why: str  # the dispatcher's reason for the transfer syntax
    fault: str  # empty where the pixels are right


def run(workers: int | None = None, keep: Path | None = None, *, keep_running: bool = False) -> int:
    """Run the demo; returns its exit code: 0 if every image arrived with its pixels.

    `workers` is the number of transcoding processes. `keep` is a folder in which all files stay; without it
    they are removed. With `keep_running` everything goes on after the table, until Ctrl-C or SIGTERM.
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console = Console(soft_wrap=True, highlight=False)
    try:
        with _work_folder(keep) as (folder, warden), listening(folder / "received") as workstation:
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
    with _running(folder, warden, workstation, workers) as site:
        console.print(
            f"A PACS sends {len(samples)} images to FERRY at 127.0.0.1:{site.ingest}. The "
            f"workstation {TITLE} at 127.0.0.1:{workstation.port} takes only uncompressed images."
        )
        console.print(f"Flower shows the batches while this runs: http://127.0.0.1:{site.flower}/")
        sent = _send_and_wait(console, samples, site, workstation)
        words = _history(site.folder / "spool" / "history.sqlite", samples)
        arrivals = workstation.arrivals()
        rows = [_compare(s, sent, arrivals.get(s.uid), words.get(s.uid, "")) for s in samples]
        _print_rows(console, rows)
        if keep_running:
            _hold(console, site)
    return 1 if any(row.fault for row in rows) else 0


def _hold(console: Console, site: _Installation) -> None:
    """Let everything run until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        console.print(
            f"Everything keeps running. Look at http://127.0.0.1:{site.flower}/, send more to FERRY at "
            f"127.0.0.1:{site.ingest}, or type `dicomferry status --config {site.folder}/dicomferry.toml`. "
            "Ctrl-C stops it."
        )
        while True:  # signal.pause() would miss a signal that comes just before it
            time.sleep(0.5)


@contextmanager
def _work_folder(keep: Path | None) -> Iterator[tuple[Path, Warden]]:
    """The folder for all files, and a warden, which removes the folder unless `keep` names it."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        warden = Warden()
        try:
            yield keep.absolute(), warden
        finally:
            warden.close()
        return
    folder = Path(tempfile.mkdtemp(prefix="dicomferry-demo-"))
    warden = Warden([folder])
    try:
        yield folder, warden
    finally:
        warden.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(
    folder: Path, warden: Warden, workstation: Workstation, workers: int | None
) -> Iterator[_Installation]:
    """Run `dicomferry up` in `folder`; yields once it is ready."""
    site = _Installation(folder, *_free_ports(2))
    config = folder / "dicomferry.toml"
    config.write_text(
        _CONFIGURATION.format(
            ingest=site.ingest,
            flower=site.flower,
            workstation=workstation.port,
            title=TITLE,
            concurrency=f"concurrency = {workers}" if workers else "",
        )
    )
    # Variables that an operator has set for a real dicomferry must not affect the demo.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DICOMFERRY_")}
    log = folder / "up.log"
    waiting, go = os.pipe()
    with log.open("wb") as stderr:
        # In its own session, so that Ctrl-C reaches only us and we stop it in order.
        program = subprocess.Popen(
            [*WAIT_FOR_GO, sys.executable, "-P", "-m", "gateway.cli", "up", "--config", str(config)],
            stdin=waiting,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            start_new_session=True,
        )
    os.close(waiting)
    warden.register(program.pid, go)
    try:
        _wait_ready(program, log)
        yield site
    finally:
        program.terminate()
        try:
            program.communicate(timeout=_STOPPED_WITHIN)
        except subprocess.TimeoutExpired:
            raise FerryError(f"`up` did not stop within {_STOPPED_WITHIN:g} s\n{_tail(log)}") from None
        warden.forget(program.pid)


def _wait_ready(program: subprocess.Popen[bytes], log: Path) -> None:
    ready = threading.Event()

    def read_output() -> None:
        for line in program.stdout or ():
            if line.strip() == b"ready":
                ready.set()

    threading.Thread(target=read_output, daemon=True).start()
    deadline = time.monotonic() + _STALLED
    while not ready.wait(0.1):
        if program.poll() is not None:
            raise FerryError(f"`up` ended with code {program.returncode}\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise FerryError(f"`up` was not ready within {_STALLED:g} s\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])


def _send_and_wait(
    console: Console, samples: Sequence[Sample], site: _Installation, workstation: Workstation
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
        while seen < len(samples) and time.monotonic() - moved < _STALLED:
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


def _compare(sample: Sample, sent: dict[str, float], arrival: Arrival | None, words: str) -> _Row:
    if arrival is None:
        return _Row(sample, None, 0, words, f"not delivered within {_STALLED:g} s without progress")
    why = words.partition(": ")[2] or words
    delivered = dcmread(arrival.path)
    fault = sample.difference(delivered)
    if arrival.syntax not in GROUPS["uncompressed"]:
        fault = f"delivered as {label(arrival.syntax)}"
    elif delivered.SOPInstanceUID != sample.uid:
        fault = f"became another instance, {delivered.SOPInstanceUID}"
    return _Row(sample, arrival, arrival.at - sent[sample.uid], why, fault)


def _print_rows(console: Console, rows: Sequence[_Row]) -> None:
    """A line an image, then each reason once, then what is wrong."""
    table = [("image", "received as", "delivered as", "time", "pixels")]
    table += [
        (
            row.sample.name,
            label(row.sample.syntax),
            label(row.arrival.syntax) if row.arrival else "-",
            f"{row.seconds:6.2f} s" if row.arrival else "-",
            "MISSED" if row.fault else _likeness(row.sample),
        )
        for row in rows
    ]
    for line in aligned(table, None):
        console.print(line, markup=False)
    for why, syntaxes in _reasons(rows).items():
        console.print(wrapped(f"{', '.join(syntaxes)}: {why}", width(), "  "), markup=False)
    for row in rows:
        if row.fault:
            console.print(f"Missed: {row.sample.name} ({row.sample.uid}): {row.fault}", markup=False)
    if not any(row.fault for row in rows):
        near = sum(bool(row.sample.tolerance) for row in rows)
        text = (
            f"All {len(rows)} images were delivered, with the pixels that were sent: {len(rows) - near} are "
            f"equal, and {near} that came compressed with loss differ no more than right decoders do from "
            "each other."
        )
        console.print(wrapped(text, width()), markup=False)


def _likeness(sample: Sample) -> str:
    return f"within {sample.tolerance}" if sample.tolerance else "equal"


def _reasons(rows: Sequence[_Row]) -> dict[str, list[str]]:
    """The syntaxes in which images came, by the reason for what they became, without their names in it."""
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        received = label(row.sample.syntax)
        reasons.setdefault(row.why.replace(received, "it") or "not delivered", {})[received] = None
    return {why: list(syntaxes) for why, syntaxes in reasons.items()}


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
