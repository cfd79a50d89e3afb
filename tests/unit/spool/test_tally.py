"""A folder's objects are counted with their bytes, and each is looked at once."""

import shutil
from pathlib import Path

from dicomferry.spool.tally import Tally


def keep(folder: Path, name: str, size: int) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "received.dcm").write_bytes(bytes(size))


def test_what_comes_and_goes_is_counted_with_its_bytes(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "quarantine")
    assert tally.count() == (0, 0)
    keep(tmp_path / "quarantine", "a", 100)
    keep(tmp_path / "quarantine", "b", 20)
    assert tally.count() == (2, 120)
    shutil.rmtree(tmp_path / "quarantine/a")
    keep(tmp_path / "quarantine", "c", 3)
    (tmp_path / "quarantine/d").mkdir()  # discarded at this moment
    assert tally.count() == (3, 23)


def test_what_was_counted_is_not_looked_at_again(tmp_path: Path) -> None:
    keep(tmp_path, "a", 100)
    tally = Tally(tmp_path)
    tally.count()
    (tmp_path / "a/received.dcm").unlink()
    assert tally.count() == (1, 100)
