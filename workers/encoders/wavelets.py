"""JPEG 2000 (T.800) by OpenJPEG."""

import numpy as np
import openjpeg

from workers.codecs import RGB, Image
from workers.encoders.values import Encoded, Quality


def jpeg_2000_lossless(cells: np.ndarray, image: Image, _quality: Quality) -> Encoded:
    """Reversible; colour through the reversible component transform (PS3.5 8.2.4)."""
    transform = image.photometric == RGB
    codestream = openjpeg.utils.encode_array(
        cells,
        bits_stored=image.bits_stored,
        photometric_interpretation=1 if transform else 0,
        use_mct=transform,
    )
    return Encoded(codestream, "YBR_RCT" if transform else image.photometric)
