"""JPEG-LS (T.87) by CharLS."""

import jpeg_ls
import numpy as np

from workers.codecs import Image
from workers.encoders.values import Encoded, Quality


def jpeg_ls_lossless(cells: np.ndarray, image: Image, _quality: Quality) -> Encoded:
    """JPEG-LS with the precision of Bits Stored (PS3.5 8.2.3)."""
    return Encoded(_jpeg_ls(cells, image, 0), image.photometric)


def bits_stored_only(cells: np.ndarray, image: Image) -> np.ndarray:
    """Unsigned cells without the bits that extend the sign: what codecs without signed samples are given.

    Pixel Representation in the data set, not the codestream, then says that the values are signed.
    """
    plain = cells.view(f"<u{cells.dtype.itemsize}")
    return plain & ((1 << image.bits_stored) - 1) if image.signed else plain


def _jpeg_ls(cells: np.ndarray, image: Image, near: int) -> bytes:
    options = {"planar_configuration": 0} if image.samples == 3 else {}
    return bytes(
        jpeg_ls.encode_pixel_data(
            bits_stored_only(cells, image).tobytes(),
            lossy_error=near,
            rows=image.rows,
            columns=image.columns,
            samples_per_pixel=image.samples,
            bits_stored=image.bits_stored,
            **options,
        )
    )
