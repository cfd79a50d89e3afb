"""Overlays inside pixel cells become Overlay Data, and no other bit is lost."""

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicomferry.errors import Unsuitable
from workers.codecs.image import Image
from workers.dataset.overlays import CellSeparator
from workers.dataset.scratch import ScratchFile

IMAGE = Image(3, 5, 1, 16, 12, 11, signed=False, photometric="MONOCHROME2")
RANDOM = np.random.default_rng(3)


def plane(position: int, group: int = 0x6000, *, allocated: int = 16, rows: int = 3) -> dict[int, bytes]:
    numbers = {0x0010: rows, 0x0011: 5, 0x0100: allocated, 0x0102: position}
    return {group << 16 | element: struct.pack("<H", number) for element, number in numbers.items()}


@pytest.fixture
def new_file(tmp_path: Path) -> Callable[[], ScratchFile]:
    return lambda: ScratchFile(tmp_path)


def overlay_data(cells: CellSeparator, group: int = 0x6000) -> bytes:
    vr, value = cells.changes()[group << 16 | 0x3000]
    assert vr == b"OW"
    assert isinstance(value, ScratchFile)
    assert value.length % 2 == 0
    return b"".join(value.chunks())


def bits_of(data: bytes, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[:count]


def test_an_overlay_above_the_stored_bits_moves_and_the_values_stay(
    new_file: Callable[[], ScratchFile],
) -> None:
    values = RANDOM.integers(0, 1 << 12, (3, 5)).astype("<u2")
    overlay = RANDOM.integers(0, 2, (3, 5)).astype("<u2")
    cells = CellSeparator(IMAGE, plane(12), new_file)
    assert (cells.separate(values | overlay << 12) == values).all()
    assert (bits_of(overlay_data(cells), 15) == overlay.reshape(-1)).all()
    changes = cells.changes()
    assert changes[0x60000100] == (b"US", b"\x01\x00")
    assert changes[0x60000102] == (b"US", b"\x00\x00")
    assert 0x60000015 not in changes
    assert "6000" in cells.notes[0]


def test_signed_values_get_their_sign_back_in_place_of_the_overlay(
    new_file: Callable[[], ScratchFile],
) -> None:
    values = RANDOM.integers(-(1 << 11), 1 << 11, (3, 5)).astype("<i2")
    overlay = RANDOM.integers(0, 2, (3, 5)).astype("<u2")
    cells = CellSeparator(replace(IMAGE, signed=True), plane(15), new_file)
    mixed = values.view("<u2") & 0x7FFF | overlay << 15
    assert (cells.separate(mixed.view("<i2")) == values).all()
    assert (bits_of(overlay_data(cells), 15) == overlay.reshape(-1)).all()


def test_the_bits_of_many_frames_follow_each_other_without_gaps(new_file: Callable[[], ScratchFile]) -> None:
    overlay = RANDOM.integers(0, 2, (7, 3, 5)).astype("<u2")
    cells = CellSeparator(replace(IMAGE, frames=7), plane(14), new_file)
    for one in overlay:
        cells.separate(one << 14)
    assert (bits_of(overlay_data(cells), overlay.size) == overlay.reshape(-1)).all()
    assert cells.changes()[0x60000015] == (b"IS", b"7 ")
    assert cells.changes()[0x60000051] == (b"US", b"\x01\x00")


def test_several_overlays_come_apart(new_file: Callable[[], ScratchFile]) -> None:
    first, second = RANDOM.integers(0, 2, (2, 3, 5)).astype("<u2")
    cells = CellSeparator(IMAGE, plane(12) | plane(13, 0x6002), new_file)
    assert not cells.separate(first << 12 | second << 13).any()
    assert (bits_of(overlay_data(cells), 15) == first.reshape(-1)).all()
    assert (bits_of(overlay_data(cells, 0x6002), 15) == second.reshape(-1)).all()


def test_bits_of_no_overlay_are_refused(new_file: Callable[[], ScratchFile]) -> None:
    values = np.full((3, 5), 5, "<u2")
    values[2, 4] |= 1 << 13
    with pytest.raises(Unsuitable, match="no overlay"):
        CellSeparator(IMAGE, plane(12), new_file).separate(values)
    with pytest.raises(Unsuitable, match="no overlay"):
        CellSeparator(replace(IMAGE, signed=True), {}, new_file).separate(values.view("<i2"))


@pytest.mark.parametrize("extended", [True, False])
def test_a_sign_may_be_extended_or_not(extended: bool, new_file: Callable[[], ScratchFile]) -> None:
    values = np.array([[-2048, -1, 0, 1, 2047]] * 3, "<i2")
    cells = values if extended else values & 0x0FFF
    assert (CellSeparator(replace(IMAGE, signed=True), {}, new_file).separate(cells) == values).all()


def test_a_value_in_the_high_bits_comes_down(new_file: Callable[[], ScratchFile]) -> None:
    values = RANDOM.integers(0, 1 << 12, (3, 5)).astype("<u2")
    overlay = RANDOM.integers(0, 2, (3, 5)).astype("<u2")
    cells = CellSeparator(replace(IMAGE, high_bit=15), plane(0), new_file)
    assert cells.separated.high_bit == 11
    assert (cells.separate(values << 4 | overlay) == values).all()
    assert (bits_of(overlay_data(cells), 15) == overlay.reshape(-1)).all()


def test_an_overlay_with_data_of_its_own_is_left_alone(new_file: Callable[[], ScratchFile]) -> None:
    cells = CellSeparator(IMAGE, plane(0, allocated=1) | {0x60003000: b"\x00\x00"}, new_file)
    assert cells.changes() == {}
    with pytest.raises(Unsuitable):
        cells.separate(np.full((3, 5), 1 << 12, "<u2"))


def test_an_overlay_of_another_size_is_refused(new_file: Callable[[], ScratchFile]) -> None:
    with pytest.raises(Unsuitable, match="4 rows"):
        CellSeparator(IMAGE, plane(12, rows=4), new_file)


@pytest.mark.parametrize(
    "wrong", [{"bits_stored": 17}, {"bits_stored": 0}, {"high_bit": 16}, {"high_bit": 3}]
)
def test_bits_that_contradict_each_other_are_refused(
    wrong: dict[str, int], new_file: Callable[[], ScratchFile]
) -> None:
    with pytest.raises(Unsuitable, match="contradict"):
        CellSeparator(replace(IMAGE, **wrong), {}, new_file)
