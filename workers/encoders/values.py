"""What goes into an encoder besides the pixels, and what comes out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from workers.codecs import Image


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
