"""Outlives a program that was killed with -9, and takes what it had started along.

The warden is a process of its own that reads ``+PGID`` and ``-PGID`` lines. Where its standard input ends,
its owner is gone: it kills the process groups that still stand (a part, and Celery's pool under it) and
removes the folders named as arguments.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# What is started behind the gate waits, on its standard input, until the warden knows of it; where its owner
# dies before, it never runs.
GATE = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "gate")


class Warden:
    """The owner's end. `folders` go with the owner; `locks` (file descriptors) are held until all is gone."""

    def __init__(self, folders: Sequence[Path] = (), locks: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gateway.local.warden", *map(str, folders)],
            bufsize=0,
            stdin=subprocess.PIPE,
            pass_fds=locks,
            start_new_session=True,  # neither Ctrl-C nor a closed terminal ends it before its owner
        )

    def admit(self, group: int, gate: int) -> None:
        """Take this process group along, then open its gate: the other end of its standard input."""
        self._tell(f"+{group}\n")
        with suppress(BrokenPipeError):
            os.write(gate, b"\n")
        os.close(gate)

    def forget(self, group: int) -> None:
        """Leave this process group: it has ended."""
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """Let it clean up now, and wait for it."""
        self._process.communicate()

    def _tell(self, line: str) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(line.encode())


def main() -> None:
    """Wait for the end of the owner, then clean up after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line.startswith("+") else groups.discard)(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    for folder in sys.argv[1:]:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
