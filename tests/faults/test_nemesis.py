"""A short soak: everything that can be done to a running system, by chance, for a minute and a half."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running.services import program

SOAK = Path(__file__).with_name("soak.py")


@pytest.mark.timeout(450)
def test_under_attack_nothing_is_lost_altered_or_doubled_without_need(tmp_path: Path) -> None:
    program("redis-server")
    folder = tmp_path / "soak"
    command = [
        sys.executable, str(SOAK), "--minutes", "1.5", "--seed", "2026", "--pause", "1.5", "--rate", "6",
        "--hurry", "--patience", "90", "--rest", "30", "--folder", str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=440, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    result = json.loads(done.stdout[done.stdout.index("\n{") :])
    assert result["violations"] == {}
    assert result["acknowledged"] == result["sent"] >= 50
    # It was attacked: else it has proved nothing.
    assert sum(result["faults"].values()) >= 20
    assert len(result["faults"]) >= 8
    assert result["hostile"] >= 10
