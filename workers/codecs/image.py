"""The values that codecs and data sets exchange: an image, one frame of its samples, their colours."""

from dataclasses import dataclass

import numpy as np

# Photometric interpretations (PS3.3 C.7.6.3.1.2).
RGB = "RGB"
YBR = "YBR_FULL"
YBR_422 = "YBR_FULL_422"  # two pixels share their colour


@dataclass(frozen=True, slots=True)
class Image:
    """A data set's description of its pixel data (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    frames: int = 1
    planar: int = 0  # Planar Configuration of native samples; decoded samples are always colour by pixel

    @property
    def has_field(self) -> bool:
        """Whether the numbers of bits agree on where in a cell its value stands (PS3.5 8.1.1)."""
        return 1 <= self.bits_stored <= self.high_bit + 1 <= self.bits_allocated

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one frame's array of samples."""
        return (self.rows, self.columns, 3) if self.samples == 3 else (self.rows, self.columns)

    @property
    def frame_bits(self) -> int:
        """Bits of one native frame."""
        return self.rows * self.columns * self.samples * self.bits_allocated

    @property
    def frame_length(self) -> int:
        """Bytes of one native frame; its last byte may be partly filled."""
        return (self.frame_bits + 7) // 8

    @property
    def native_length(self) -> int:
        """Bytes of all native frames, one after the other bit by bit (PS3.5 8.1.1), padded to even length."""
        length = (self.frame_bits * self.frames + 7) // 8
        return length + length % 2


@dataclass(frozen=True, slots=True)
class Decoded:
    """One frame's samples: rows x columns (x 3), little endian pixel cells of Bits Allocated.

    Cells of a single bit stay packed in a flat array of bytes, the first cell in the least significant bit
    (PS3.5 8.1.1).
    """

    samples: np.ndarray
    colour: str  # their photometric interpretation
    notes: tuple[str, ...] = ()  # where codestream and data set disagree, and which of them was followed
    surplus: int = 0  # bytes behind the codestream, which were left out


def to_rgb(samples: np.ndarray, bits_stored: int) -> np.ndarray:
    """YBR_FULL to RGB, the inverse of PS3.3 C.7.6.3.1.2, rounded to the nearest."""
    centre, top = 1 << bits_stored - 1, (1 << bits_stored) - 1
    y, cb, cr = (samples[..., index].astype(np.float32) for index in range(3))
    cb -= centre
    cr -= centre
    planes = (y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb)
    return np.stack([np.clip(np.rint(p), 0, top) for p in planes], axis=-1).astype(samples.dtype)
