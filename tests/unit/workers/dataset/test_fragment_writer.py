"""Fragments and their tables, read back by pydicom."""

from pathlib import Path

import pytest
from pydicom.encaps import generate_frames, parse_basic_offsets

from dicomferry.errors import Permanent
from workers.dataset import fragment_writer, scratch
from workers.dataset.fragment_writer import Fragments
from workers.dataset.scratch import ScratchFile

FRAMES = [b"\x01" * 10, b"\x02" * 7, b"", b"\x03" * 12]


def made(folder: Path, frames: list[bytes]) -> Fragments:
    fragments = Fragments(ScratchFile(folder))
    for frame in frames:
        fragments.add(frame)
    return fragments


def test_each_frame_is_one_even_fragment_that_the_basic_offset_table_points_to(tmp_path: Path) -> None:
    frames = [frame for frame in FRAMES if frame]
    fragments = made(tmp_path, frames)
    value = b"".join(fragments.content())
    assert fragments.extended == {}
    assert parse_basic_offsets(value) == [0, 18, 34]
    assert list(generate_frames(value, number_of_frames=3)) == [frames[0], frames[1] + b"\x00", frames[2]]
    assert value.endswith(fragment_writer.DELIMITER)
    assert fragments.coded_length == 30


def test_offsets_over_32_bits_go_into_an_extended_table_and_the_basic_one_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragment_writer, "LAST_BASIC_OFFSET", 33)
    frames = [frame for frame in FRAMES if frame]
    fragments = made(tmp_path, frames)
    (vr, offsets), (_, lengths) = (fragments.extended[tag] for tag in (0x7FE00001, 0x7FE00002))
    value = b"".join(fragments.content())
    assert vr == b"OV"
    assert parse_basic_offsets(value) == []
    read = list(generate_frames(value, number_of_frames=3, extended_offsets=(offsets, lengths)))
    assert read == [frames[0], frames[1] + b"\x00", frames[2]]


def test_the_last_offset_that_32_bits_hold_still_goes_into_the_basic_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragment_writer, "LAST_BASIC_OFFSET", 18)
    assert made(tmp_path, [b"12" * 5, b"34"]).extended == {}


def test_what_outgrows_memory_waits_on_disk_and_comes_back_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch, "_IN_MEMORY", 1000)
    frames = [bytes([number]) * 500 for number in range(10)]
    fragments = made(tmp_path, frames)
    assert list(generate_frames(b"".join(fragments.content()), number_of_frames=10)) == frames
    assert list(tmp_path.iterdir()) == []  # its file has no name: nothing is left if we die


def test_a_frame_longer_than_a_fragment_can_say_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragment_writer, "_LONGEST_FRAGMENT", 6)
    with pytest.raises(Permanent, match="7 bytes"):
        made(tmp_path, [b"1234567"])
