"""The bare call of the library that the engine uses: one frame, nothing read, checked or written."""

import zlib
from collections.abc import Callable

import imagecodecs
import jpeg_ls
import numpy as np
import openjpeg
from rle import rle

from workers.codecs.decoders import Image


def _rle(codestream: bytes, image: Image) -> None:
    # decode_frame: PackBits alone leaves the byte planes apart.
    rle.decode_frame(codestream, image.rows * image.columns, image.bits_allocated, "<")


def _jpeg(codestream: bytes, image: Image) -> None:
    space = {"colorspace": "YCBCR", "outcolorspace": "YCBCR"} if image.samples == 3 else {}
    imagecodecs.jpeg8_decode(codestream, **space)


def _jpeg_lossless(codestream: bytes, image: Image) -> None:
    space = {"colorspace": "RGB", "outcolorspace": "RGB"} if image.samples == 3 else {}
    imagecodecs.jpeg8_decode(codestream, **space)


def _openjpeg(codestream: bytes, _image: Image) -> None:
    openjpeg.utils.decode(codestream, 0, reshape=False)


DECODE: dict[str, Callable[[bytes, Image], object]] = {
    "RLELossless": _rle,
    "JPEGBaseline8Bit": _jpeg,
    "JPEGExtended12Bit": _jpeg,
    "JPEGLosslessSV1": _jpeg_lossless,
    "JPEGLSLossless": lambda codestream, _: imagecodecs.jpegls_decode(codestream),
    "JPEG2000Lossless": _openjpeg,
    "JPEG2000": _openjpeg,
    "HTJ2KLossless": _openjpeg,
    "JPEGXLLossless": lambda codestream, _: imagecodecs.jpegxl_decode(codestream, numthreads=1),
    "DeflatedImageFrameCompression": lambda codestream, _: zlib.decompress(codestream, -15),
}


def _pack(cells: np.ndarray, image: Image) -> None:
    planes = cells.reshape(image.rows, image.columns, image.samples, 1).view(np.uint8)
    for sample in range(image.samples):
        for byte in range(cells.itemsize):
            imagecodecs.packbits_encode(np.ascontiguousarray(planes[:, :, sample, byte]))


def _encode_jpeg_lossless(cells: np.ndarray, image: Image) -> None:
    space = {"colorspace": "RGB", "outcolorspace": "RGB"} if image.samples == 3 else {}
    imagecodecs.jpeg8_encode(
        cells.view(f"u{cells.itemsize}"), lossless=True, predictor=1, bitspersample=image.bits_stored, **space
    )


def _encode_jpeg_ls(cells: np.ndarray, image: Image) -> None:
    options = {"planar_configuration": 0} if image.samples == 3 else {}
    jpeg_ls.encode_pixel_data(
        cells.tobytes(),
        lossy_error=0,
        rows=image.rows,
        columns=image.columns,
        samples_per_pixel=image.samples,
        bits_stored=image.bits_stored,
        **options,
    )


def _encode_openjpeg(cells: np.ndarray, image: Image, ratios: list[float] | None = None) -> None:
    colour = image.samples == 3
    openjpeg.utils.encode_array(
        cells,
        bits_stored=image.bits_stored,
        photometric_interpretation=1 if colour else 0,
        use_mct=colour,
        compression_ratios=ratios,
    )


ENCODE: dict[str, Callable[[np.ndarray, Image], object]] = {
    "RLELossless": _pack,
    "JPEGBaseline8Bit": lambda cells, _: imagecodecs.jpeg8_encode(cells, level=90),
    "JPEGExtended12Bit": lambda cells, _: imagecodecs.jpeg8_encode(cells, level=90, bitspersample=12),
    "JPEGLosslessSV1": _encode_jpeg_lossless,
    "JPEGLSLossless": _encode_jpeg_ls,
    "JPEG2000Lossless": _encode_openjpeg,
    "JPEG2000": lambda cells, image: _encode_openjpeg(cells, image, [10.0]),
    "HTJ2KLossless": lambda cells, image: imagecodecs.htj2k_encode(
        cells, reversible=True, rgb=image.samples == 3, resolutions=5, tlm=True
    ),
    "JPEGXLLossless": lambda cells, image: imagecodecs.jpegxl_encode(
        cells.view(f"u{cells.itemsize}"),
        lossless=True,
        effort=1,
        bitspersample=image.bits_stored,
        usecontainer=False,
        numthreads=1,
    ),
    "DeflatedImageFrameCompression": lambda cells, _: imagecodecs.deflate_encode(
        cells.tobytes(), level=4, raw=True
    ),
}
