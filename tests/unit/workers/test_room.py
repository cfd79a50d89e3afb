"""What renditions may have of a disk, as a table, and who holds them to it."""

import multiprocessing
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO

import pytest

from dicomferry.spool.durable import leftover_temporaries
from tests.support.running.mounts import small_file_system
from workers import room
from workers.room import LARGE, Claim, NoRoom, Room, TooLarge

MB = 1_000_000
GB = 1000 * MB


def disk(monkeypatch: pytest.MonkeyPatch, free: int, total: int, standing: int = 0) -> None:
    """Let every file system look like this."""
    found = os.statvfs_result((1, 1, total, free, free, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: found)
    monkeypatch.setattr(room, "_size_of", lambda _: standing)


# Free, total, standing renditions, [worker] renditions_mb, bytes wanted; None: they fit.
TABLE: list[tuple[int, int, int, int | None, int, type[NoRoom] | None]] = [
    (100 * GB, 200 * GB, 0, None, 40 * GB, None),
    (100 * GB, 200 * GB, 0, None, 60 * GB, NoRoom),  # ingest would be left with less than renditions take
    (100 * GB, 200 * GB, 0, None, 101 * GB, TooLarge),  # more than half of the whole disk
    (50 * GB, 200 * GB, 50 * GB, None, 1 * GB, NoRoom),  # they have their half
    (512 * MB, 200 * GB, 0, None, 200 * MB, None),  # at ingest's mark: what it has taken must get out
    (512 * MB, 200 * GB, 0, None, 300 * MB, NoRoom),
    (400 * MB, 200 * GB, 200 * MB, None, 100 * MB, NoRoom),
    (65 * MB, 200 * GB, 0, None, 2 * MB, NoRoom),  # the last bytes are for markers, leases and history
    (1 * GB, 2 * GB, 0, None, 4 * GB, TooLarge),
    (100 * GB, 200 * GB, 0, 1000, 900 * MB, None),
    (100 * GB, 200 * GB, 500 * MB, 1000, 900 * MB, NoRoom),
    (100 * GB, 200 * GB, 0, 1000, 1100 * MB, TooLarge),
]  # fmt: skip


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_renditions_leave_ingest_its_part_of_the_disk(
    row: tuple[int, int, int, int | None, int, type[NoRoom] | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free, total, standing, most, wanted, refused = row
    disk(monkeypatch, free, total, standing)
    asked = Room(tmp_path, shared=True, reserve_mb=512, most_mb=most)
    if refused is None:
        asked.check(wanted)
        return
    with pytest.raises(NoRoom) as error:
        asked.check(wanted)
    assert type(error.value) is refused
    key = "renditions_mb" if most else "min_free_mb"
    assert key in str(error.value) if refused is TooLarge else "are free" in str(error.value)


def test_that_there_is_no_room_is_news_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Room(tmp_path, shared=True, reserve_mb=512)
    first = []
    for free in (1 * MB, 1 * MB, 10 * GB, 1 * MB):
        disk(monkeypatch, free, 100 * GB)
        try:
            asked.check(2 * MB)
        except NoRoom as error:
            first.append(error.first)
    assert first == [True, False, True]


def test_without_a_spool_a_rendition_may_have_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, 100 * MB, 200 * MB)
    Room(tmp_path).check(99 * MB)
    with pytest.raises(NoRoom, match="100 MB are free"):
        Room(tmp_path).check(101 * MB)
    with pytest.raises(TooLarge, match="the disk is too small"):
        Room(tmp_path).check(201 * MB)


def made(folder: Path, name: str) -> Path:
    path = folder / "boot" / "instance" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_two_processes_are_never_promised_the_same_bytes(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", 200 << 20) as folder:
        ours, theirs = (Room(folder, shared=True, most_mb=100) for _ in range(2))
        with made(folder, ".a.tmp").open("w+b") as first, made(folder, ".b.tmp").open("w+b") as second:
            Claim(ours).allocate(60 * MB, first)
            with pytest.raises(NoRoom):
                Claim(theirs).allocate(60 * MB, second)
            first.truncate(0)  # as if it had been delivered
            Claim(theirs).allocate(60 * MB, second)


def test_the_file_of_a_killed_worker_counts_until_it_is_removed(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", 200 << 20) as folder:
        left = made(folder, ".a.tmp")
        pid = os.fork()
        if pid == 0:
            Claim(Room(folder, shared=True, most_mb=100)).allocate(60 * MB, left.open("w+b"))
            os._exit(9)  # its claim, lock and all
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
        ours = Room(folder, shared=True, most_mb=100)
        with made(folder, ".b.tmp").open("w+b") as file, pytest.raises(NoRoom):
            Claim(ours).allocate(60 * MB, file)
        left.unlink()
        with made(folder, ".b.tmp").open("w+b") as file:
            Claim(ours).allocate(60 * MB, file)


def test_what_grows_is_stopped_before_it_fills_the_disk(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", 200 << 20) as folder:
        room = Room(folder, shared=True, most_mb=40)
        written = 0

        def write(file: IO[bytes], claim: Claim) -> None:
            nonlocal written
            while written < 100 << 20:
                claim.grow(1 << 20)
                written += file.write(bytes(1 << 20))

        with (
            tempfile.TemporaryFile(dir=folder, buffering=0) as nameless,
            room.claim(made(folder, "uid-hash.dcm")) as claim,
            pytest.raises(TooLarge, match="renditions_mb"),
        ):
            write(nameless, claim)
        assert written <= 40 * MB + LARGE


def test_others_see_what_nameless_files_hold_and_that_they_are_gone(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", 400 << 20) as folder:
        target = made(folder, "uid-hash.dcm")
        with Room(folder, shared=True, most_mb=100).claim(target) as claim:
            claim.grow(60 * MB)
            with pytest.raises(NoRoom):
                Room(folder, shared=True, most_mb=100).check(60 * MB)
            assert len(leftover_temporaries(target)) == 1  # which somebody removes if it is killed
        Room(folder, shared=True, most_mb=100).check(60 * MB)
        assert leftover_temporaries(target) == []


@pytest.mark.parametrize("count", [1, 1000])
def test_a_small_rendition_costs_a_look_at_the_free_space(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def measure(folder: Path) -> int:
        measured.append(folder)
        return 0

    monkeypatch.setattr(room, "_size_of", measure)
    asked = Room(tmp_path, shared=True)
    for _ in range(count):
        claim = Claim(asked)
        claim.grow(LARGE // 4)
        claim.allocate(LARGE // 4, None)
    assert len(measured) == 1


def test_a_second_attempt_does_not_count_the_nameless_files_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    target = tmp_path / "boot" / "rendition.dcm"

    def standing() -> list[int]:
        return [path.stat().st_size for path in target.parent.iterdir()]

    with Room(tmp_path, shared=True).claim(target) as claim:
        with claim.attempt():
            claim.grow(LARGE)
            assert standing() == [LARGE]
        assert standing() == []
        claim.grow(2 * LARGE)  # a data set, inflated: it stays for both attempts
        for _ in range(2):
            with claim.attempt():
                claim.grow(LARGE)
                assert standing() == [3 * LARGE]
        assert standing() == [2 * LARGE]
    assert standing() == []


def test_however_many_grow_together_a_small_disk_keeps_ingests_part(tmp_path: Path) -> None:
    """Renditions of 160 MB with a mark of 40 have 60; what each process wrote unseen is small beside that."""
    processes = multiprocessing.get_context("fork")
    begin, full, end = processes.Barrier(4), processes.Barrier(5), processes.Barrier(5)
    with small_file_system(tmp_path / "disk", 160 * MB) as folder:

        def fill() -> None:
            room = Room(folder, shared=True, reserve_mb=40)
            with (
                tempfile.TemporaryFile(dir=folder, buffering=0) as nameless,
                room.claim(folder / f"{os.getpid()}.dcm") as claim,
            ):
                begin.wait(60)
                with suppress(NoRoom):
                    while True:
                        claim.grow(MB)
                        nameless.write(bytes(MB))
                full.wait(60)
                end.wait(60)

        growing = [processes.Process(target=fill) for _ in range(4)]
        for process in growing:
            process.start()
        full.wait(60)
        found = os.statvfs(folder)
        end.wait(60)
        for process in growing:
            process.join()
        assert found.f_bavail * found.f_frsize > 80 * MB
