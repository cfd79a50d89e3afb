"""Seats on a real file system, against processes of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dicomferry.spool.seats import Seats, sweep

SIT = """
import sys
from pathlib import Path
from dicomferry.spool.seats import Seats
with Seats(Path(sys.argv[1]), int(sys.argv[2])).seated():
    print("seated", flush=True)
    sys.stdin.read()
"""


def sitting(folder: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SIT, str(folder), str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "seated\n"
    return process


@pytest.mark.parametrize("batches", range(4))
def test_there_are_never_more_helpers_than_seats_without_a_batch(batches: int, tmp_path: Path) -> None:
    seats = Seats(tmp_path, 3)
    others = [sitting(tmp_path, 3) for _ in range(batches)]
    try:
        loans = [loan for _ in range(5) if (loan := seats.borrow()) is not None]
        assert len(loans) == 3 - batches
        assert not any(loan.wanted() for loan in loans)
    finally:
        for other in others:
            other.communicate("")


def test_a_batch_takes_a_seat_that_nobody_has_before_that_of_a_helper(tmp_path: Path) -> None:
    seats = Seats(tmp_path, 2)
    loan = seats.borrow()
    assert loan is not None
    with seats.seated():
        assert not loan.wanted()
        with seats.seated():
            assert loan.wanted(), "the helper has the only seat that was left"
            with seats.seated():
                assert seats.borrow() is None
        os.close(loan.descriptor)
        assert not loan.wanted()
        again = seats.borrow()
        assert again is not None
        os.close(again.descriptor)


def test_a_batch_without_a_seat_is_done_all_the_same(tmp_path: Path) -> None:
    with Seats(tmp_path / "missing", 2).seated():
        assert Seats(tmp_path / "missing", 2).borrow() is None


def test_the_seat_of_a_killed_process_is_free_again(tmp_path: Path) -> None:
    seats = Seats(tmp_path, 1)
    batch = sitting(tmp_path, 1)
    assert seats.borrow() is None
    os.kill(batch.pid, signal.SIGKILL)
    batch.communicate()
    loan = seats.borrow()
    assert loan is not None
    os.close(loan.descriptor)


def test_hosts_that_share_a_spool_have_seats_of_their_own(tmp_path: Path) -> None:
    with Seats(tmp_path, 1, "one").seated():
        loan = Seats(tmp_path, 1, "other").borrow()
        assert loan is not None
        os.close(loan.descriptor)


def test_sweeping_leaves_the_seats_that_somebody_has(tmp_path: Path) -> None:
    seats = Seats(tmp_path, 2)
    for path in ("old-0", "old-0.helper"):
        (tmp_path / path).touch()
    with seats.seated():
        loan = seats.borrow()
        assert loan is not None
        sweep(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["-0", "-1.helper"]
        assert seats.borrow() is None
        os.close(loan.descriptor)
