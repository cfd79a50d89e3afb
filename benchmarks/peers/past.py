"""Another commit of this project, to be measured beside the present one."""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.machine.programs import Failure

_ROOT = Path(__file__).parents[2]


def install(commit: str, folder: Path) -> Path:
    """Check a commit out below `folder` and install it there; returns its program `dicomferry`.

    Raises:
        Failure: there is no such commit, or it cannot be installed.
    """
    source = folder / "against"
    _run("git", "clone", "--quiet", "--shared", str(_ROOT), str(source))
    _run("git", "-C", str(source), "checkout", "--quiet", "--detach", commit)
    _run("sh", str(source / "scripts/setup.sh"))
    return source / ".venv/bin/dicomferry"


def _run(*command: str) -> None:
    # In the venv of this process `python3` would be ours.
    environment = os.environ | {"PYTHON": getattr(sys, "_base_executable", sys.executable)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failure(f"{' '.join(command)}: {done.stderr.strip()}")
