"""A part that Celery runs, in a process of its own, with what a test changes in it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dicomferry.messages.broker import celery_app
from dicomferry.settings import Settings
from tests.support.running.processes import wait_until


@contextmanager
def celery_process(program: str, settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `program`, which finds the settings in its first argument as JSON, once it answers a ping."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", program, settings.model_dump_json()],
            cwd="/", stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    app = celery_app(settings)
    try:
        wait_until(lambda: app.control.ping(timeout=0.3) or process.poll() is not None, "Celery", 40)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        app.close()
