"""Room on the spool's disk, in bytes and in inodes, with a file system that says what the test wants."""

from pathlib import Path

import pytest

from dicomferry.settings import Ingest
from dicomferry.spool import durable
from dicomferry.spool.durable import FreeRoom
from dicomferry.spool.spool import Spool
from ingest.room import Counts, FreeSpace

MB = 1_000_000
PLENTY = 10_000 * MB


def free_space(monkeypatch: pytest.MonkeyPatch, said: FreeRoom, **keys: int) -> FreeSpace:
    monkeypatch.setattr(durable, "free_room", lambda _: said)
    return FreeSpace(Spool(Path("/nonexistent")), Ingest(**keys))


@pytest.mark.parametrize(
    ("said", "keys", "key"),
    [
        (FreeRoom(PLENTY, 1000, 100_000), {}, None),
        (FreeRoom(PLENTY, 999, 100_000), {}, "min_free_inodes"),
        (FreeRoom(PLENTY, 500, 2000), {}, None),  # a quarter of all is less than 1000
        (FreeRoom(PLENTY, 499, 2000), {}, "min_free_inodes"),
        (FreeRoom(PLENTY, 499, 2000), {"min_free_inodes": 100}, None),
        (FreeRoom(PLENTY, 4999, 6000), {"min_free_inodes": 5000}, "min_free_inodes"),
        (FreeRoom(PLENTY, 0, 6000), {"min_free_inodes": 0}, None),
        (FreeRoom(PLENTY, None, 0), {"min_free_inodes": 5000}, None),  # they are not counted, as by btrfs
        (FreeRoom(511 * MB, None, 0), {}, "min_free_mb"),
        (FreeRoom(511 * MB, 10, 6000), {}, "min_free_mb"),
    ],
)
def test_the_spool_takes_no_more_below_either_mark_and_names_the_key(
    monkeypatch: pytest.MonkeyPatch, said: FreeRoom, keys: dict[str, int], key: str | None
) -> None:
    shortage = free_space(monkeypatch, said, **keys).shortage()
    if key is None:
        assert shortage is None
    else:
        assert shortage is not None
        assert f"(ingest.{key})" in shortage
        assert len(shortage) <= 64  # Error Comment, VR LO


def test_an_instance_takes_its_inodes_and_two_for_each_delivery_between_two_looks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    looks = []

    def look(_: Path) -> FreeRoom:
        looks.append(None)
        return FreeRoom(PLENTY, 1020, 100_000)

    monkeypatch.setattr(durable, "free_room", look)
    space = FreeSpace(Spool(tmp_path), Ingest())
    # The first look comes after it was counted, so that only its two markers are left: then 16, 10 and so on.
    assert [space.shortage(deliveries=2) for _ in range(3)] == [None] * 3
    assert len(looks) == 1
    assert space.shortage(deliveries=2) is None  # too few by our count: the file system is asked
    assert len(looks) == 2


def test_two_inodes_are_kept_for_each_pending_delivery(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(durable, "free_room", lambda _: FreeRoom(PLENTY, 2000, 100_000))
    spool = Spool(tmp_path)
    space = FreeSpace(spool, Ingest())
    spool.write_status({"at": 1.0, "lanes": [{"pending": 300}, {"pending": 200}]})
    assert space.shortage() is None
    spool.write_status({"at": 2.0, "lanes": [{"pending": 300}, {"pending": 201}]})
    monkeypatch.setattr(space, "_measured_at", 0.0)
    assert space.shortage() == "spool has 2000 inodes left, wants 2002 (ingest.min_free_inodes)"
    spool.write_status({"at": 3.0, "lanes": [{"pending": 300}, {"pending": 0}]})
    assert space.shortage() is None
    monkeypatch.setattr(space, "_measured_at", 0.0)
    assert space.shortage(deliveries=200) is None
    assert space.shortage(deliveries=1) is not None  # while no dispatcher tells, what came is counted on


def test_processes_count_what_all_of_them_take_and_look_when_one_finds_too_little(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = [FreeRoom(600 * MB, None, 0)]
    monkeypatch.setattr(durable, "free_room", lambda _: found[-1])
    counts, looks = Counts(3), []
    one, two, three = (FreeSpace(Spool(tmp_path), Ingest(), counts, process) for process in range(3))
    assert [space.shortage() for space in (one, two, three)] == [None] * 3
    monkeypatch.setattr(durable, "free_room", lambda _: looks.append(None) or found[-1])
    assert one.shortage(40 * MB) is None
    assert two.shortage(40 * MB) is None
    assert looks == []
    assert one.shortage(10 * MB) is None  # too little by the count of all: so it looks
    assert len(looks) == 1
    found.append(FreeRoom(511 * MB, None, 0))
    assert one.shortage(90 * MB) is not None
    assert len(looks) == 2
    assert three.shortage() is not None
    assert len(looks) == 3
    found.append(FreeRoom(600 * MB, None, 0))
    assert [space.shortage() for space in (one, two, three)] == [None] * 3
    looks.clear()
    assert [space.shortage(1) for space in (one, two, three)] == [None] * 3
    assert looks == []


def test_a_process_goes_on_with_the_count_of_the_one_that_was_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(durable, "free_room", lambda _: FreeRoom(PLENTY, 2000, 100_000))
    spool, counts = Spool(tmp_path), Counts(2)
    spool.write_status({"at": 1.0, "lanes": [{"pending": 300}]})  # since then no dispatcher runs
    killed, other = (FreeSpace(spool, Ingest(), counts, process) for process in range(2))
    assert killed.shortage() is None
    assert other.shortage(deliveries=200) is None
    assert FreeSpace(spool, Ingest(), counts, 0).shortage() is None
    assert FreeSpace(spool, Ingest(), counts, 0).shortage(deliveries=1) is not None
    assert other.shortage() is not None


def test_a_file_system_without_inodes_to_count_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = durable.free_room(tmp_path)
    assert found.bytes > 0
    real = durable.os.statvfs(tmp_path)
    fields = list(real)
    fields[5] = fields[6] = fields[7] = 0  # f_files, f_ffree, f_favail
    monkeypatch.setattr(durable.os, "statvfs", lambda _: type(real)(fields))
    assert durable.free_room(tmp_path).inodes is None
    assert durable.has_room(tmp_path)
