"""JPEG 2000 (T.800) by OpenJPEG and HTJ2K (T.814) by OpenJPH, both with the precision of Bits Stored."""

import math

import imagecodecs
import numpy as np
import openjpeg

from dicomferry.errors import Unsuitable
from workers.codecs.encoders.values import Encoded, Quality
from workers.codecs.image import RGB, Image

_LEVELS = 5
_MAX_LEVELS = 32  # T.800 table A.15
_THUMBNAIL = 64  # PS3.5 10.18
# OpenJPH has no rate control: the quantisation step, a fraction of the samples' range, is searched between
# these, in so many trials.
_FINEST, _COARSEST, _TRIALS = 2.0**-20, 0.5, 8
_SIZ_COMPONENTS = (
    40  # offset of Csiz behind SOC; Ssiz, XRsiz and YRsiz of each component follow (T.800 A.5.1)
)


def jpeg_2000_lossless(cells: np.ndarray, image: Image, _quality: Quality) -> Encoded:
    """Reversible; RGB through the reversible component transform (PS3.5 8.2.4)."""
    transform = image.photometric == RGB
    samples = _unpacked(cells, image)
    if min(image.rows, image.columns) < 1 << _LEVELS:
        # pylibjpeg-openjpeg always asks for five levels, which OpenJPEG refuses for so small an image.
        codestream = imagecodecs.jpeg2k_encode(
            samples,
            codecformat="j2k",
            bitspersample=image.bits_stored,
            reversible=True,
            resolutions=min(image.rows, image.columns).bit_length(),
            mct=transform,
            numthreads=1,
        )
    else:
        codestream = _openjpeg(samples, image, transform=transform)
    return Encoded(bytes(codestream), "YBR_RCT" if transform else image.photometric)


def jpeg_2000(cells: np.ndarray, image: Image, quality: Quality) -> Encoded:
    """Irreversible, one layer with the ratio asked for, relative to bits stored."""
    transform = image.photometric == RGB
    if min(image.rows, image.columns) < 1 << _LEVELS:
        raise Unsuitable(
            f"an image of less than {1 << _LEVELS} rows or columns is not worth a lossy JPEG 2000"
        )
    codestream = _openjpeg(cells, image, transform=transform, ratios=[float(quality.ratio)])
    return Encoded(codestream, "YBR_ICT" if transform else image.photometric)


def _openjpeg(
    samples: np.ndarray, image: Image, *, transform: bool, ratios: list[float] | None = None
) -> bytes:
    return bytes(
        openjpeg.utils.encode_array(
            samples,
            bits_stored=image.bits_stored,
            photometric_interpretation=1 if transform else 0,
            use_mct=transform,
            compression_ratios=ratios,
        )
    )


def htj2k_lossless(cells: np.ndarray, image: Image, _quality: Quality) -> Encoded:
    """Reversible HTJ2K; the same stream serves HTJ2K Lossless and Lossless RPCL.

    It is RPCL with TLM, and its lowest resolution has at most 64 rows and columns (PS3.5 10.18).
    """
    longest = max(image.rows, image.columns)
    levels = max(_LEVELS, math.ceil(math.log2(longest / _THUMBNAIL)) if longest > _THUMBNAIL else 0)
    transform = image.photometric == RGB
    codestream = imagecodecs.htj2k_encode(
        _centred(_unpacked(cells, image), image),
        reversible=True,
        rgb=transform,
        resolutions=min(levels, _MAX_LEVELS),
        tlm=True,
    )
    return Encoded(_with_precision(codestream, image), "YBR_RCT" if transform else image.photometric)


def htj2k(cells: np.ndarray, image: Image, quality: Quality) -> Encoded:
    """Irreversible HTJ2K with the finest quantisation step found that reaches the ratio, in bits stored.

    A step is a fraction of the nominal range (T.800 E.1.1), so the samples are scaled up to the 8 or 16 bits
    that OpenJPH assumes; stating their true precision scales them back. Quantisation may push a sample over
    the end of the range, and the decoder must clip it (T.800 G.1.2): OpenJPEG does, imagecodecs' OpenJPH lets
    it wrap around.
    """
    transform = image.photometric == RGB
    spare = image.bits_allocated - image.bits_stored
    scaled = _centred(cells, image) << spare
    target = cells.size * image.bits_stored / 8 / quality.ratio
    low, high = math.log2(_FINEST), math.log2(_COARSEST)
    best: bytes | bytearray = b""
    for _ in range(_TRIALS):
        middle = (low + high) / 2
        codestream = imagecodecs.htj2k_encode(
            scaled, level=2.0**middle, reversible=False, rgb=transform, resolutions=_LEVELS, tlm=True
        )
        if len(codestream) > target:
            low = middle
        else:
            high, best = middle, codestream
    if not best:
        raise Unsuitable(f"HTJ2K does not compress this image to one part in {quality.ratio:g}")
    return Encoded(_with_precision(best, image), "YBR_ICT" if transform else image.photometric)


def _centred(cells: np.ndarray, image: Image) -> np.ndarray:
    """Signed samples: the level shift of T.800 G.1, made with the true precision."""
    signed = f"<i{cells.dtype.itemsize}"
    if image.signed:
        return cells.view(signed)
    shifted: np.ndarray = cells - cells.dtype.type(1 << image.bits_stored - 1)
    return shifted.view(signed)


def _with_precision(codestream: bytes | bytearray, image: Image) -> bytes:
    """State the true precision and sign in SIZ.

    OpenJPH got samples that were level-shifted already, as signed ones of 8 or 16 bits: it shifted nothing.
    A decoder that reads the true precision undoes our shift. Precision has no other effect in a reversible
    stream: the number of bit planes is in QCD (T.800 E.1), where a surplus is allowed.
    """
    stated = bytearray(codestream)
    components = int.from_bytes(stated[_SIZ_COMPONENTS : _SIZ_COMPONENTS + 2], "big")
    for number in range(components):
        stated[_SIZ_COMPONENTS + 2 + 3 * number] = image.bits_stored - 1 | (0x80 if image.signed else 0)
    return bytes(stated)


def _unpacked(cells: np.ndarray, image: Image) -> np.ndarray:
    """Samples of one byte each where the cells are single bits."""
    if image.bits_allocated > 1:
        return cells
    count = image.rows * image.columns
    samples: np.ndarray = np.unpackbits(cells, count=count, bitorder="little")
    return samples.reshape(image.rows, image.columns)
