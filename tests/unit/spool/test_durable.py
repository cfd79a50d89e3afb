"""Durable writes, where writing fails."""

import ctypes
import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomferry.spool import durable

# The kernel lets no file grow beyond a few bytes, once.
_TOO_LONG = """
import resource, sys
from pathlib import Path
from dicomferry.spool import durable
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
    durable.temporary_path(path).write_bytes(b"half of")
    durable.replace(path, b"all")
    assert path.read_bytes() == b"all"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", [durable._renameat2, None, lambda *_: ctypes.set_errno(errno.EINVAL) or -1])
def test_a_file_is_renamed_unless_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., int] | None
) -> None:
    monkeypatch.setattr(durable, "_renameat2", call)
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    assert durable.rename_new(tmp_path / "first", tmp_path / "final")
    assert not durable.rename_new(tmp_path / "second", tmp_path / "final")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "final": "first", "second": "second",
    }  # fmt: skip
    with pytest.raises(FileNotFoundError):
        durable.rename_new(tmp_path / "first", tmp_path / "other")


def flags_of(folder: Path) -> str:
    found = subprocess.run(["lsattr", "-d", str(folder)], capture_output=True, text=True, check=False)
    return found.stdout.partition(" ")[0]


def test_a_busy_folder_is_spread_where_that_is_known_and_left_alone_elsewhere(tmp_path: Path) -> None:
    before = flags_of(tmp_path)
    durable.spread_subfolders(tmp_path)
    file_system = subprocess.run(
        ["findmnt", "-no", "FSTYPE", "-T", str(tmp_path)], capture_output=True, text=True, check=False
    ).stdout.strip()
    journals = Path("/proc/fs/jbd2")
    if file_system == "ext4" and before and journals.exists() and not any(journals.iterdir()):
        assert "T" in flags_of(tmp_path)
    elif file_system != "ext4":
        assert flags_of(tmp_path) == before
    (tmp_path / "folder").mkdir()
    durable.spread_subfolders(tmp_path / "nowhere")  # no reason to fail


def test_a_folder_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    for name in ("plain", "deep"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "deep" / "deeper").mkdir()
    (tmp_path / "deep" / "deeper" / "file").touch()
    (tmp_path / "file").touch()
    for name in ("plain", "deep", "missing", "file"):
        durable.remove(tmp_path / name)
    assert not list(tmp_path.iterdir())
