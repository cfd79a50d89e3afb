"""JPEG XL (ISO/IEC 18181) by libjxl: lossless, lossy, and recompressed JPEG."""

import imagecodecs
import numpy as np

from workers.codecs.encoders.values import Encoded, Quality, unsigned
from workers.codecs.image import RGB, Image

_EFFORT_LOSSLESS = 1  # ten times faster than the next, and some percent larger
_EFFORT_LOSSY = 4


def lossless(cells: np.ndarray, image: Image, _quality: Quality) -> Encoded:
    """Modular, without XYB; signed samples as the bits of two's complement."""
    codestream = imagecodecs.jpegxl_encode(
        unsigned(cells, image),
        lossless=True,
        effort=_EFFORT_LOSSLESS,
        bitspersample=image.bits_stored,
        usecontainer=False,
        numthreads=1,
    )
    return Encoded(bytes(codestream), image.photometric)


def lossy(cells: np.ndarray, image: Image, quality: Quality) -> Encoded:
    """Colour as XYB, which the data set must then state (PS3.3 C.7.6.3.1.2)."""
    codestream = imagecodecs.jpegxl_encode(
        unsigned(cells, image),
        lossless=False,
        distance=_distance(quality.quality),
        effort=_EFFORT_LOSSY,
        bitspersample=image.bits_stored,
        usecontainer=False,
        numthreads=1,
    )
    return Encoded(bytes(codestream), "XYB" if image.photometric == RGB else image.photometric)


def _distance(quality: int) -> float:
    """Libjxl's distance for a JPEG quality; never 0, which is lossless."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def from_jpeg(codestream: bytes) -> bytes:
    """The JPEG XL form of a JPEG, from which it can be restored bit for bit."""
    return bytes(imagecodecs.jpegxl_encode_jpeg(codestream, usecontainer=True, numthreads=1))


def to_jpeg(codestream: bytes) -> bytes:
    """The JPEG that `from_jpeg` recompressed."""
    return bytes(imagecodecs.jpegxl_decode_jpeg(codestream, numthreads=1))
