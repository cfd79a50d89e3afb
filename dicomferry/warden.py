"""Outlives a supervisor that was killed with -9, and takes what it had started along.

Reads ``+PGID`` and ``-PGID`` lines from the supervisor. Where its standard input ends, no supervisor is
left: it kills the process groups that still stand (a part, and Celery's pool under it) and removes the
folders named as arguments.
"""

import os
import shutil
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Wait for the end of the supervisor, then clean up after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # It ends with its supervisor, not with its terminal.
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
