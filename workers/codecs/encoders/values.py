"""What goes into an encoder besides the pixels, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workers.codecs.image import Image


@dataclass(frozen=True, slots=True)
class Quality:
    """What a lossy encoder is told; lossless ones ignore it."""

    quality: int = 90  # JPEG and JPEG XL: 1 (worst) to 100
    ratio: float = 10.0  # JPEG 2000 and HTJ2K: compressed to one part in so many
    near: int = 2  # JPEG-LS: how far a sample may be off


@dataclass(frozen=True, slots=True)
class Encoded:
    """One frame's codestream, and the photometric interpretation that the data set then must state."""

    codestream: bytes
    photometric: str


Encoder = Callable[[np.ndarray, Image, Quality], Encoded]


def unsigned(cells: np.ndarray, image: Image) -> np.ndarray:
    """Unsigned samples without the bits that extend the sign, of one byte each where they fit.

    For codecs that know no signed samples: DICOM writes the bits of two's complement, and Pixel
    Representation in the data set says what they are.
    """
    plain = cells.view(f"<u{cells.dtype.itemsize}")
    if image.signed:
        plain = plain & plain.dtype.type((1 << image.bits_stored) - 1)
    return plain.astype(np.uint8, copy=False) if image.bits_stored <= 8 else plain
