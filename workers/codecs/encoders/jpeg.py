"""JPEG (T.81) by libjpeg-turbo and JPEG-LS (T.87) by CharLS.

Neither knows signed samples (PS3.5 8.2.1, 8.2.3); see `values.unsigned`.
"""

import imagecodecs
import jpeg_ls
import numpy as np

from dicomferry.errors import Unsuitable
from workers.codecs.encoders.values import Encoded, Quality, unsigned
from workers.codecs.image import RGB, YBR_422, Image

_YCBCR = "YCBCR"


def baseline(cells: np.ndarray, image: Image, quality: Quality) -> Encoded:
    """JPEG process 1; colour as YCbCr with half the chroma columns (PS3.5 table 8.2.1-1)."""
    if image.samples == 1:
        return Encoded(bytes(imagecodecs.jpeg8_encode(cells, level=quality.quality)), image.photometric)
    codestream = imagecodecs.jpeg8_encode(
        cells,
        level=quality.quality,
        colorspace=RGB if image.photometric == RGB else _YCBCR,
        outcolorspace=_YCBCR,
        subsampling="422",
    )
    return Encoded(bytes(codestream), YBR_422)


def extended(cells: np.ndarray, image: Image, quality: Quality) -> Encoded:
    """JPEG process 4: 12 bits."""
    codestream = imagecodecs.jpeg8_encode(cells, level=quality.quality, bitspersample=12)
    return Encoded(bytes(codestream), image.photometric)


def lossless(cells: np.ndarray, image: Image, _quality: Quality) -> Encoded:
    """JPEG process 14 with selection value 1, precision of Bits Stored; serves .57 as well as .70."""
    # Equal colour spaces: libjpeg-turbo must convert nothing.
    space = RGB if image.samples == 3 else None
    codestream = imagecodecs.jpeg8_encode(
        unsigned(cells, image),
        lossless=True,
        predictor=1,
        bitspersample=image.bits_stored,
        colorspace=space,
        outcolorspace=space,
    )
    return Encoded(bytes(codestream), image.photometric)


def jpeg_ls_lossless(cells: np.ndarray, image: Image, _quality: Quality) -> Encoded:
    """JPEG-LS with the precision of Bits Stored (PS3.5 8.2.3)."""
    return Encoded(_jpeg_ls(unsigned(cells, image), image, 0), image.photometric)


def jpeg_ls_near(cells: np.ndarray, image: Image, quality: Quality) -> Encoded:
    """JPEG-LS with errors up to `quality.near` (T.87 C.2.3: at most 255 and half the range).

    Raises:
        Unsuitable: `near` is out of range, or signed samples are so close to the end of their range that an
            error may change their sign.
    """
    most = min(255, (1 << image.bits_stored) - 1 >> 1)
    if not 0 <= quality.near <= most:
        raise Unsuitable(
            f"JPEG-LS of {image.bits_stored} bits takes a near of 0 to {most}, not {quality.near}"
        )
    if image.signed and quality.near:
        edge = (1 << image.bits_stored - 1) - quality.near
        if int(cells.max()) >= edge or int(cells.min()) < -edge:
            raise Unsuitable(
                "signed samples at the end of their range may change their sign in a lossy JPEG-LS"
            )
    return Encoded(_jpeg_ls(unsigned(cells, image), image, quality.near), image.photometric)


def _jpeg_ls(samples: np.ndarray, image: Image, near: int) -> bytes:
    options = {"planar_configuration": 0} if image.samples == 3 else {}
    return bytes(
        jpeg_ls.encode_pixel_data(
            samples.tobytes(),
            lossy_error=near,
            rows=image.rows,
            columns=image.columns,
            samples_per_pixel=image.samples,
            bits_stored=image.bits_stored,
            **options,
        )
    )
