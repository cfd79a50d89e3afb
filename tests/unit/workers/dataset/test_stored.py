"""Which High Bit values need: those that fit keep theirs, whatever stands in the bits above."""

import struct

import numpy as np
import pytest

from workers.codecs.image import Image
from workers.dataset.stored import StoredBits


def image(stored: int, *, high: int | None = None, signed: bool = False, allocated: int = 16) -> Image:
    high = stored - 1 if high is None else high
    return Image(1, 4, 1, allocated, stored, high, signed=signed, photometric="MONOCHROME2")


def overlay(position: int, *, allocated: int = 16) -> dict[int, bytes]:
    numbers = {0x0010: 1, 0x0011: 4, 0x0100: allocated, 0x0102: position}
    return {0x60000000 | element: struct.pack("<H", number) for element, number in numbers.items()}


UNSIGNED, SIGNED, SHIFTED = image(12), image(12, signed=True), image(10, high=11)


@pytest.mark.parametrize(
    ("described", "values", "cells", "high_bit"),
    [
        (UNSIGNED, {}, [0, 1, 4095, 7], 11),
        (UNSIGNED, {}, [0, 1, 4096, 7], 12),
        (UNSIGNED, {}, [0, 65535, 4096, 7], 15),
        (UNSIGNED, overlay(12), [0, 4096, 4095, 8191], 11),
        (UNSIGNED, overlay(14), [0, 4096, 16384, 7], 12),
        (UNSIGNED, overlay(12, allocated=1), [0, 4096, 0, 7], 12),  # Overlay Data, not in the cells
        (SIGNED, {}, [-2048, 2047, -1, 0], 11),
        (SIGNED, {}, [0x0800, 0x0FFF, 5, 0], 11),  # the bits above left empty
        (SIGNED, {}, [0x0800, -1, 5, 0], 11),  # and both
        (SIGNED, {}, [-2049, 0, 0, 0], 12),
        (SIGNED, {}, [0, 5000, 0, -3], 13),
        (SIGNED, {}, [-32768, 5000, 0, -3], 15),
        (SIGNED, overlay(15), [-32768, 5, 0, 3], 11),
        (SHIFTED, {}, [0x0FFC, 3, 0, 0], 11),  # bits below the value are no value
        (SHIFTED, {}, [0x1FFC, 3, 0, 0], 12),
        (image(16), {}, [65535, 0, 0, 0], 15),
        (image(12, high=20), {}, [65535, 0, 0, 0], 20),  # contradictory: refused elsewhere
        (image(8, allocated=8), {}, [255, 0, 0, 0], 7),
        (image(5, allocated=8), {}, [64, 0, 0, 0], 6),
        (image(20, allocated=32), {}, [1 << 31, 0, 0, 0], 31),
        (image(20, allocated=32, signed=True), {}, [-(1 << 20), 0, 0, 0], 20),
    ],
)
def test_the_high_bit_is_that_of_the_largest_value(
    described: Image, values: dict[int, bytes], cells: list[int], high_bit: int
) -> None:
    kind = np.dtype(f"<u{described.bits_allocated // 8}")
    raw = (np.array(cells, np.int64) & ((1 << described.bits_allocated) - 1)).astype(kind)
    assert StoredBits(described, values).high_bit(raw) == high_bit


@pytest.mark.parametrize(
    ("described", "values", "high_bit", "possible"),
    [
        (UNSIGNED, {}, 15, True),
        (UNSIGNED, overlay(14), 13, True),
        (UNSIGNED, overlay(14), 14, False),
        (UNSIGNED, overlay(12), 13, False),
        (SIGNED, overlay(15), 12, False),  # its sign would stand in the overlay's bit
        (SHIFTED, {}, 12, False),  # the place of its values is in doubt
    ],
)
def test_bits_stored_grows_up_to_the_lowest_overlay(
    described: Image, values: dict[int, bytes], high_bit: int, possible: bool
) -> None:
    assert StoredBits(described, values).can_grow(high_bit) == possible
