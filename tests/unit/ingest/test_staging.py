"""The folders in which objects arrive."""

from pathlib import Path

from ingest import staging
from ingest.staging import Staging


def test_folders_change_and_go_when_what_arrived_there_has_left(tmp_path: Path) -> None:
    places = Staging(tmp_path, "receiver")
    slow = places.new_path()
    slow.touch()
    seen = {places.new_path().parent for _ in range(3 * staging._FILES)}
    assert len(seen) == 4
    assert len(list(tmp_path.iterdir())) == 2  # the one of now, and the one where something still arrives
    assert all(folder.name.startswith("receiver") for folder in tmp_path.iterdir())
    slow.unlink()
    places.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_has_gone_is_replaced(tmp_path: Path) -> None:
    places = Staging(tmp_path / "incoming", "receiver")
    assert not places.new_path().parent.exists()  # opening a file there tells why
    (tmp_path / "incoming").mkdir()
    first = places.new_path()
    first.parent.rmdir()
    places.renew()
    places.new_path().touch()
