"""Durable writes, where writing fails."""

import subprocess
import sys
from pathlib import Path

from dicomferry import durable

# The kernel lets no file grow beyond a few bytes, once.
_TOO_LONG = """
import resource, sys
from pathlib import Path
from dicomferry import durable
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
try:
    durable.replace(path, b"more than there is room for")
except OSError:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    durable.replace(path, b"once there is room")
"""


def test_a_full_disk_leaves_nothing_behind_and_the_next_attempt_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "marker.json"
    subprocess.run([sys.executable, "-c", _TOO_LONG, str(path)], check=True, timeout=30)
    assert path.read_bytes() == b"once there is room"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_of_the_same_number_left_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "marker.json"
    durable.unpublished(path).write_bytes(b"half of")
    durable.replace(path, b"all")
    assert path.read_bytes() == b"all"
    assert list(tmp_path.iterdir()) == [path]
