"""What a part asks of the kernel, seen by strace."""

import os
import signal
import subprocess
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.running.processes import DICOMFERRY, alive
from tests.support.running.services import program

_UNFINISHED = " <unfinished ...>"  # another thread's call came between its beginning and its end


@contextmanager
def traced(
    trace: Path, part: str, config: Path, shown: Sequence[str] = ("-y", "-s", "0", "-e", "signal=none")
) -> Iterator[None]:
    """Run a part under strace; what it asked the kernel for stands in `trace` afterwards, as `shown`."""
    command = [
        program("strace"), "-f", *shown, "-o", str(trace),
        *DICOMFERRY, part, "--config", str(config),
    ]  # fmt: skip
    with trace.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    children: list[int] = []
    try:
        yield
        children = stop_traced(process)
    finally:
        for child in children:
            if alive(child):
                os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()


def stop_traced(process: subprocess.Popen[bytes]) -> list[int]:
    """End what `process`, an strace, runs, and wait for both; its children."""
    # strace passes no signal on: its child is the one to stop.
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    children = [int(pid) for pid in listed.split()]
    for child in children:
        os.kill(child, signal.SIGTERM)
    process.wait(60)
    return children


def calls_in(text: str, when_begun: Collection[str] = ()) -> Iterator[tuple[int, str]]:
    """Each call's thread and its whole line, in the order in which they ended.

    Those named in `when_begun` stand where they began, without their result if another thread's call came
    between: what is sent has left by the time its call ends.
    """
    begun: dict[str, str] = {}
    for line in text.splitlines():
        pid, _, call = line.partition(" ")
        call = call.lstrip()
        if call.endswith(_UNFINISHED):
            call = call.removesuffix(_UNFINISHED)
            if call.partition("(")[0] in when_begun:
                yield int(pid), call
            else:
                begun[pid] = call
        elif call.startswith("<... "):
            if pid in begun:
                yield int(pid), begun.pop(pid) + call.partition(" resumed>")[2]
        else:
            yield int(pid), call
