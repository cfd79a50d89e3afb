"""Runs `dicomferry up` for the demo, in a folder of its own."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dicomferry.errors import FerryError
from gateway.demo.workstation import TITLE, Workstation
from gateway.local.warden import WAIT_FOR_GO, Warden

_READY_WITHIN = 120.0  # seconds
_STOPPED_WITHIN = 60.0  # seconds
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
class Installation:
    """A running dicomferry."""

    folder: Path
    ingest: int  # port
    flower: int  # port


@contextmanager
def work_folder(keep: Path | None) -> Iterator[tuple[Path, Warden]]:
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
def running(
    folder: Path, warden: Warden, workstation: Workstation, workers: int | None
) -> Iterator[Installation]:
    """Run `dicomferry up` in `folder`; yields once it is ready."""
    site = Installation(folder, *_free_ports(2))
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
    deadline = time.monotonic() + _READY_WITHIN
    while not ready.wait(0.1):
        if program.poll() is not None:
            raise FerryError(f"`up` ended with code {program.returncode}\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise FerryError(f"`up` was not ready within {_READY_WITHIN:g} s\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LAST_LINES:])


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
