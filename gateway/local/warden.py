"""Cleans up after a program that was killed with SIGKILL: ends the processes that it had started.

The warden is a process of its own that reads ``+PGID`` and ``-PGID`` lines. The end of its standard input
means that its owner is gone. It then kills the process groups that are left (a part, and Celery's pool under
it) and removes the folders named as arguments.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# Prefix of a command: it waits for a line on standard input, which `register` writes once the warden knows of
# it. If its owner dies before that, the command never runs.
WAIT_FOR_GO = ("/bin/sh", "-c", 'read -r go && exec "$@" </dev/null', "gate")


class Warden:
    """The owner's end. The warden removes `folders`, and holds `locks` (file descriptors) until it ends."""

    def __init__(self, folders: Sequence[Path] = (), locks: Sequence[int] = ()) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gateway.local.warden", *map(str, folders)],
            bufsize=0,
            stdin=subprocess.PIPE,
            pass_fds=locks,
            start_new_session=True,  # neither Ctrl-C nor a closed terminal ends it before its owner
        )

    def register(self, group: int, go: int) -> None:
        """Take charge of a process group, then let it run; `go` is the other end of its standard input."""
        self._write(f"+{group}\n")
        with suppress(BrokenPipeError):
            os.write(go, b"\n")
        os.close(go)

    def forget(self, group: int) -> None:
        """Drop a process group that has ended."""
        self._write(f"-{group}\n")

    def close(self) -> None:
        """Make the warden clean up now, and wait for it."""
        self._process.communicate()

    def _write(self, line: str) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.write(line.encode())


def main() -> None:
    """Wait for the end of the owner, then clean up."""
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
