"""Whether pixel values fit Bits Stored, and which High Bit they need where they do not. Pure.

A codestream has a precision of its own, and a cell more bits than Bits Stored: some objects use them. Of
both the pixel data is right (PS3.5 8.2.1): Bits Stored and High Bit grow with the values, and nothing is cut
off. Overlays in the cells (retired, PS3.3 C.9.2) and an extended sign are no values.
"""

from collections.abc import Mapping

import numpy as np

from workers.codecs.image import Image
from workers.dataset import overlays


class StoredBits:
    """Measures the frames of one image, whose overlays are in `values`."""

    def __init__(self, image: Image, values: Mapping[int, bytes]) -> None:
        self._image = image
        planes = [position for _, position in overlays.positions(image, values)]
        above = -1 << image.high_bit + 1
        self._lowest_plane = min((p for p in planes if p > image.high_bit), default=image.bits_allocated)
        self._unclaimed = above & ((1 << image.bits_allocated) - 1) & ~sum(1 << p for p in planes)
        # Attributes that contradict each other are refused where cells are taken apart.
        self._extended = self._empty = False  # whether signs were seen extended, and perhaps left out
        self._spare = image.has_field and image.high_bit + 1 < image.bits_allocated

    def high_bit(self, cells: np.ndarray) -> int:
        """The High Bit that the values in `cells` need: the image's own where they fit."""
        image = self._image
        if not self._spare:
            return image.high_bit
        raw = cells.view(f"<u{cells.dtype.itemsize}")
        if not int(raw.max()) >> image.high_bit + 1:
            return image.high_bit
        if image.signed:
            return self._high_bit_of_signed(raw)
        stray = raw & raw.dtype.type(self._unclaimed)
        return max(image.high_bit, int(stray.max()).bit_length() - 1)

    def _high_bit_of_signed(self, raw: np.ndarray) -> int:
        """The same; some files extend the sign, others leave the bits above the value empty."""
        high_bit = self._image.high_bit
        numbers = raw.view(f"<i{raw.dtype.itemsize}")
        needed = max(int(numbers.max()), ~int(numbers.min())).bit_length()
        if needed <= high_bit:
            return high_bit
        unclaimed = raw.dtype.type(self._unclaimed)
        stray = raw & unclaimed
        negative = (raw >> high_bit & 1).astype(bool)
        extension = np.where(negative, unclaimed, raw.dtype.type(0))
        if ((stray == 0) | (stray == extension)).all():
            return high_bit
        self._extended |= bool((numbers < 0).any())
        self._empty |= bool((negative & (stray == 0)).any())
        return needed

    def can_grow(self, high_bit: int) -> bool:
        """Whether no overlay stands below that High Bit, nor, in signed cells, in their sign.

        Nor may the bits above signed values be empty: longer values would be no longer negative. And where
        High Bit is not Bits Stored - 1, nothing tells whether that or the values are wrong.
        """
        if self._image.high_bit != self._image.bits_stored - 1:
            return False
        if self._empty and not self._extended:
            return False
        limit = self._image.bits_allocated - 1 if self._image.signed else high_bit
        return self._lowest_plane > limit
