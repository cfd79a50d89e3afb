"""Decoders that prove an encoder's work: of another library than the encoder's where there is one.

They never decode what was received, since they trust the header of a codestream.
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
class ProofDecoder:
    """A decoder and the name of its library."""

    library: str
    decode: Callable[[bytes, Image], np.ndarray]


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
        # Unexpected input ends in a panic of Rust, which is not an Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("a segment is longer than the image") from error
    planes = np.frombuffer(content, kind).reshape(-1, image.rows, image.columns)
    return np.moveaxis(planes, 0, -1) if image.samples == 3 else planes[0]


def _table_decoder(uid: str) -> Callable[[bytes, Image], np.ndarray]:
    def decode(codestream: bytes, image: Image) -> np.ndarray:
        # Encoders take colour by pixel, whatever the source's Planar Configuration.
        described = replace(image, planar=0)
        return decoders.decode(uid, codestream, described, rgb=image.photometric == RGB).samples

    return decode


_CHARLS = ProofDecoder(f"CharLS {imagecodecs.jpegls_version().split()[-1]} (imagecodecs)", _jpeg_ls)
_OPENJPEG = ProofDecoder(f"OpenJPEG {imagecodecs.jpeg2k_version().split()[-1]} (imagecodecs)", _jpeg_2000)
_JPEG_SOF3 = ProofDecoder("jpegsof3 (imagecodecs)", _sof3)

# HTJ2K needs no row: OpenJPH encodes, and the table's decoder is OpenJPEG.
PROOF_DECODERS: dict[str, ProofDecoder] = {
    "1.2.840.10008.1.2.5": ProofDecoder("pylibjpeg-rle", _rle),
    **dict.fromkeys((_JPEG + "57", _JPEG + "70"), _JPEG_SOF3),
    **dict.fromkeys((_JPEG + "80", _JPEG + "81"), _CHARLS),
    **dict.fromkeys((_JPEG + "90", _JPEG + "91"), _OPENJPEG),
}


def proof_decoder(uid: str) -> ProofDecoder:
    """The decoder that proves the encoder of `uid`: that of the codec table where there is no other."""
    library = getattr(BY_UID[uid], "decoder", "") or "the decoder in use"
    return PROOF_DECODERS.get(uid) or ProofDecoder(library, _table_decoder(uid))
