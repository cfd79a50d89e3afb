"""What goes into an encoder besides the pixels, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workers.codecs.image import Image


@dataclass(frozen=True, slots=True)
class Quality:
    """The parameters of lossy encoders; lossless ones ignore them."""

    quality: int = 90  # JPEG and JPEG XL: 1 (worst) to 100
    ratio: float = 10.0  # JPEG 2000 and HTJ2K: size before divided by size after
    near: int = 2  # JPEG-LS: largest error of a sample


@dataclass(frozen=True, slots=True)
class Encoded:
    """One frame's codestream, and the photometric interpretation that the data set then must state."""

    codestream: bytes
    photometric: str


Encoder = Callable[[np.ndarray, Image, Quality], Encoded]


def unsigned(cells: np.ndarray, image: Image) -> np.ndarray:
    """Unsigned samples without the bits that extend the sign, of one byte each if they fit.

    For codecs without signed samples: they get the bits of two's complement, and the data set's Pixel
    Representation states the sign.
    """
    samples = cells.view(f"<u{cells.dtype.itemsize}")
    if image.signed:
        samples = samples & samples.dtype.type((1 << image.bits_stored) - 1)
    return samples.astype(np.uint8, copy=False) if image.bits_stored <= 8 else samples
