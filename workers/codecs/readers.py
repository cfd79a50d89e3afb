"""Who decodes back what an encoder made: another library than the encoder's where there is one.

These readers prove encoders and nothing else: a received codestream is never given to them, since they trust
its header.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import imagecodecs
import numpy as np
from rle import rle

from dicomferry.dicom.syntaxes import BY_UID
from workers.codecs import decoders
from workers.codecs.codestreams import read_jpeg
from workers.codecs.image import RGB, Image

_JPEG = "1.2.840.10008.1.2.4."


@dataclass(frozen=True, slots=True)
class Reader:
    """A decoder that proves an encoder's work, and the name of its library."""

    library: str
    read: Callable[[bytes, Image], np.ndarray]


def _sof3(codestream: bytes, _image: Image) -> np.ndarray:
    read_jpeg(codestream)  # or a cut one would pass
    return np.asarray(imagecodecs.jpegsof3_decode(codestream))


def _jpeg_ls(codestream: bytes, _image: Image) -> np.ndarray:
    read_jpeg(codestream)  # CharLS takes seconds to find that the end is missing
    return np.asarray(imagecodecs.jpegls_decode(codestream))


def _jpeg_2000(codestream: bytes, _image: Image) -> np.ndarray:
    return np.asarray(imagecodecs.jpeg2k_decode(codestream))


def _rle(codestream: bytes, image: Image) -> np.ndarray:
    pixels, kind = image.rows * image.columns, f"<u{image.bits_allocated // 8}"
    try:
        content = rle.decode_frame(codestream, pixels, image.bits_allocated, "<")
    except BaseException as error:
        # What it does not expect ends in a panic of Rust's, which is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("a segment is longer than the image") from error
    planes = np.frombuffer(content, kind).reshape(-1, image.rows, image.columns)
    return np.moveaxis(planes, 0, -1) if image.samples == 3 else planes[0]


def _own(uid: str) -> Callable[[bytes, Image], np.ndarray]:
    def read(codestream: bytes, image: Image) -> np.ndarray:
        # Encoders are given colour by pixel, however the source had it.
        described = replace(image, planar=0)
        return decoders.decode(uid, codestream, described, rgb=image.photometric == RGB).samples

    return read


_CHARLS = Reader(f"CharLS {imagecodecs.jpegls_version().split()[-1]} (imagecodecs)", _jpeg_ls)
_OPENJPEG = Reader(f"OpenJPEG {imagecodecs.jpeg2k_version().split()[-1]} (imagecodecs)", _jpeg_2000)
_JPEG_SOF3 = Reader("jpegsof3 (imagecodecs)", _sof3)

# HTJ2K needs no row: OpenJPH encodes, and the codec table's decoder is OpenJPEG.
READERS: dict[str, Reader] = {
    "1.2.840.10008.1.2.5": Reader("pylibjpeg-rle", _rle),
    **dict.fromkeys((_JPEG + "57", _JPEG + "70"), _JPEG_SOF3),
    **dict.fromkeys((_JPEG + "80", _JPEG + "81"), _CHARLS),
    **dict.fromkeys((_JPEG + "90", _JPEG + "91"), _OPENJPEG),
}


def reader_of(uid: str) -> Reader:
    """Who decodes back what was encoded into `uid`: the codec table's own decoder where nobody else can."""
    return READERS.get(uid) or Reader(getattr(BY_UID[uid], "decoder", "") or "the decoder in use", _own(uid))
