"""Bits of a pixel cell outside of its value: overlays in them are moved; other bits are never dropped.

Until 2004 an overlay could use bits outside of Bits Stored (60xx,0100 Overlay Bits Allocated of the
image, 60xx,0102 Overlay Bit Position). No codestream carries them, so they move to Overlay Data, their
place in the standard today (PS3.3 C.9.2, PS3.5 8.1.2).
"""

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from dicomferry.errors import Unsuitable
from workers.codecs.image import Image
from workers.dataset.attributes import number
from workers.dataset.scratch import ScratchFile

GROUPS = range(0x6000, 0x6020, 2)
_ROWS, _COLUMNS, _FRAMES, _FRAME_ORIGIN = 0x0010, 0x0011, 0x0015, 0x0051
_ALLOCATED, _POSITION, _DATA = 0x0100, 0x0102, 0x3000
DESCRIBING = frozenset(
    group << 16 | element
    for group in GROUPS
    for element in (_ROWS, _COLUMNS, _FRAMES, _FRAME_ORIGIN, _ALLOCATED, _POSITION, _DATA)
)


class BitPacker:
    """Packs bits into bytes, the first bit in the least significant place (PS3.5 8.1.1, 8.1.2)."""

    def __init__(self, file: ScratchFile) -> None:
        self._file = file
        self._rest = np.empty(0, np.uint8)

    def add(self, bits: np.ndarray) -> None:
        """Add bits: an array of zeros and ones."""
        pending = np.concatenate((self._rest, bits.reshape(-1))) if self._rest.size else bits.reshape(-1)
        whole = pending.size // 8 * 8
        self._file.write(np.packbits(pending[:whole], bitorder="little").tobytes())
        self._rest = pending[whole:].astype(np.uint8)

    def finish(self) -> ScratchFile:
        """Everything added, padded to whole words."""
        if self._rest.size:
            self._file.write(np.packbits(self._rest, bitorder="little").tobytes())
            self._rest = np.empty(0, np.uint8)
        if self._file.length % 2:
            self._file.write(b"\x00")
        return self._file


@dataclass(frozen=True, slots=True)
class Plane:
    """An overlay inside the pixel cells."""

    group: int
    position: int  # of its bit
    bits: BitPacker


class CellSeparator:
    """Separates pixel values from the overlays in the same cells, frame by frame.

    `separated` describes the cells that come out.

    Raises:
        Unsuitable: an overlay in the cells is not of the image's size, or the numbers of bits contradict
            each other.
    """

    def __init__(
        self, image: Image, values: Mapping[int, bytes], new_file: Callable[[], ScratchFile]
    ) -> None:
        if not image.has_field:
            raise Unsuitable(
                f"{image.bits_stored} bits stored up to bit {image.high_bit} of {image.bits_allocated} "
                "allocated contradict each other (PS3.5 8.1.1)"
            )
        self._image = image
        self._low = image.high_bit - image.bits_stored + 1
        self._planes = [
            Plane(group, position, BitPacker(new_file())) for group, position in _embedded(image, values)
        ]
        self._mask = (1 << image.bits_stored) - 1
        claimed = sum(1 << plane.position for plane in self._planes)
        self._stray_mask = ((1 << image.bits_allocated) - 1) & ~(self._mask << self._low) & ~claimed
        # The bits above the value that no overlay claims: a sign extended into them is no information.
        self._sign_mask = self._stray_mask & ~((1 << image.high_bit) - 1)
        self.separated = replace(image, high_bit=image.bits_stored - 1)

    def separate(self, cells: np.ndarray) -> np.ndarray:
        """Return the pixel values of one frame in whole cells, with the sign of signed values extended.

        Raises:
            Unsuitable: some bits belong neither to a value nor to an overlay.
        """
        image = self._image
        if image.bits_stored < image.bits_allocated:
            raw = cells.view(f"<u{cells.dtype.itemsize}")
            for plane in self._planes:
                plane.bits.add((raw >> plane.position & 1).astype(np.uint8))
        return self.values(cells)

    def values(self, cells: np.ndarray) -> np.ndarray:
        """The same without keeping the overlays; pure.

        Raises:
            Unsuitable: some bits belong neither to a value nor to an overlay.
        """
        image = self._image
        if image.bits_stored == image.bits_allocated:
            return cells
        raw = cells.view(f"<u{cells.dtype.itemsize}")
        if not image.signed and not self._low and not (raw & ~raw.dtype.type(self._mask)).any():
            return cells
        values = raw >> self._low & self._mask
        self._check_stray(raw, values)
        if not image.signed:
            return values
        spare = image.bits_allocated - image.bits_stored
        return (values << spare).view(f"<i{cells.dtype.itemsize}") >> spare

    def _check_stray(self, raw: np.ndarray, values: np.ndarray) -> None:
        stray = raw & self._stray_mask
        if not stray.any():
            return
        if self._image.signed:
            extended = (values >> self._image.bits_stored - 1).astype(raw.dtype) * raw.dtype.type(
                self._sign_mask
            )
            if not ((stray != 0) & (stray != extended)).any():
                return
        raise Unsuitable(
            f"there are bits outside of the {self._image.bits_stored} stored that belong to no overlay, "
            "and no codestream keeps them (PS3.5 8.1.1)"
        )

    @property
    def notes(self) -> list[str]:
        """One sentence per overlay that moved."""
        return [
            f"overlay {plane.group:04X} moved from bit {plane.position} to Overlay Data"
            for plane in self._planes
        ]

    def changes(self) -> dict[int, tuple[bytes, bytes | ScratchFile]]:
        """VR and value, by tag, of the elements that change; every frame was separated before."""
        changed: dict[int, tuple[bytes, bytes | ScratchFile]] = {}
        for plane in self._planes:
            group = plane.group << 16
            changed[group | _ALLOCATED] = (b"US", b"\x01\x00")
            changed[group | _POSITION] = (b"US", b"\x00\x00")
            changed[group | _DATA] = (b"OW", plane.bits.finish())
            if self._image.frames > 1:
                # PS3.3 C.9.2: each frame had its own bits.
                text = str(self._image.frames).encode()
                changed[group | _FRAMES] = (b"IS", text + b" " * (len(text) % 2))
                changed[group | _FRAME_ORIGIN] = (b"US", struct.pack("<H", 1))
        return changed


def positions(image: Image, values: Mapping[int, bytes]) -> list[tuple[int, int]]:
    """Group and bit position of each overlay in the cells."""
    low = image.high_bit - image.bits_stored + 1
    found = []
    for group in GROUPS:
        base = group << 16
        if base | _DATA in values or base | _POSITION not in values:
            continue
        position = number(values, base | _POSITION, 0)
        inside = low <= position <= image.high_bit or position >= image.bits_allocated
        if number(values, base | _ALLOCATED, 0) == image.bits_allocated and not inside:
            found.append((group, position))
    return found


def _embedded(image: Image, values: Mapping[int, bytes]) -> list[tuple[int, int]]:
    """The same, if each overlay can be moved."""
    found = positions(image, values)
    for group, _ in found:
        base = group << 16
        size = (number(values, base | _ROWS, image.rows), number(values, base | _COLUMNS, image.columns))
        if size != (image.rows, image.columns):
            raise Unsuitable(
                f"overlay {group:04X} of {size[0]} rows and {size[1]} columns stands in the bits of an image "
                f"of {image.rows} and {image.columns}: it cannot be moved"
            )
    return found
