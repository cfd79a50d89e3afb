"""The encoders: one frame of native pixel cells into one codestream, and what no target can hold.

What each target holds stands in the table of transfer syntaxes; here it is held against an image, and the
cells against what the data set says of them, so that no encoder drops a bit in silence.
"""

import struct

import numpy as np

from dicomferry.dicom.syntaxes import BY_UID, Capability, label
from dicomferry.errors import Permanent, Unsuitable
from workers.codecs.codestreams import read_jpeg
from workers.codecs.decoders import Image
from workers.codecs.encoders import bytewise, jpeg, jpeg_xl, wavelets
from workers.codecs.encoders.values import Encoded, Encoder, Quality

__all__ = ["ENCODERS", "Encoded", "Quality", "encode", "recompress", "refusal"]

_JPEG = "1.2.840.10008.1.2.4."
_BASELINE = _JPEG + "50"
_RECOMPRESSED = _JPEG + "111"
_LARGE = 64 << 20  # bytes of a frame; OpenJPEG does not say that it had too little memory

ENCODERS: dict[str, Encoder] = {
    "1.2.840.10008.1.2.8.1": bytewise.deflated_frame,
    "1.2.840.10008.1.2.5": bytewise.rle,
    _BASELINE: jpeg.baseline,
    _JPEG + "51": jpeg.extended,
    _JPEG + "57": jpeg.lossless,
    _JPEG + "70": jpeg.lossless,
    _JPEG + "80": jpeg.jpeg_ls_lossless,
    _JPEG + "81": jpeg.jpeg_ls_near,
    _JPEG + "90": wavelets.jpeg_2000_lossless,
    _JPEG + "91": wavelets.jpeg_2000,
    _JPEG + "201": wavelets.htj2k_lossless,
    _JPEG + "202": wavelets.htj2k_lossless,
    _JPEG + "203": wavelets.htj2k,
    _JPEG + "110": jpeg_xl.lossless,
    _JPEG + "112": jpeg_xl.lossy,
}


def refusal(uid: str, image: Image) -> str | None:
    """Why the target `uid` cannot hold `image`, in words and with the clause; None if it can.

    `image.photometric` is what the native cells are. Native targets are not judged here: their one limit is
    the length of the whole pixel data.
    """
    if uid == _RECOMPRESSED:
        return f"{label(uid)} is made of JPEG frames alone, not of pixels (PS3.5 8.2.15)"
    syntax = BY_UID.get(uid)
    if syntax is None or syntax.capability is None:
        return f"workers cannot make {label(uid)}"
    found = _unheld(syntax.capability, image)
    return f"{syntax.label} cannot hold {found}" if found else None


def _unheld(holds: Capability, image: Image) -> str | None:
    """What of `image` does not fit, with the clause; the first that is found."""
    photometrics = holds.grey if image.samples == 1 else holds.colour if image.samples == 3 else ()
    grey_or_any = image.samples == 1 or holds.colour is None
    least, most = holds.stored
    bits = f"{holds.clause}; {holds.limits}" if holds.limits else holds.clause
    checks = (
        (
            photometrics is None or image.photometric in photometrics,
            f"{image.photometric or 'an unknown colour space'} of {image.samples} samples ({holds.clause})",
        ),
        (image.bits_allocated in holds.allocated, f"{image.bits_allocated} bits allocated ({bits})"),
        (
            least <= image.bits_stored <= min(most, image.bits_allocated),
            f"{image.bits_stored} bits stored ({bits})",
        ),
        (
            image.bits_allocated <= 8 or image.bits_stored >= holds.min_stored_16,
            f"{image.bits_stored} bits stored in {image.bits_allocated} ({bits})",
        ),
        (not image.signed or (holds.signed and grey_or_any), f"signed samples ({holds.clause})"),
        (
            holds.every_bit or image.high_bit == image.bits_stored - 1,
            f"High Bit {image.high_bit} with {image.bits_stored} bits stored (PS3.5 8.1.1)",
        ),
        (
            min(image.rows, image.columns) >= holds.min_side,
            f"{image.rows} rows and {image.columns} columns: {holds.min_side} are the least",
        ),
    )
    return next((words for fits, words in checks if not fits), None)


def encode(uid: str, cells: np.ndarray, image: Image, quality: Quality) -> Encoded:
    """Encode one frame: `cells` as `codecs.Decoded.samples` has them, in `image.photometric`.

    Raises:
        Unsuitable: the target cannot hold the image (see `refusal`) or these values of it, or the library
            fails; another target may do.
        Permanent: the cells are not of the size that `image` says.
    """
    reason = refusal(uid, image)
    if reason:
        raise Unsuitable(reason)
    holds = BY_UID[uid].capability
    assert holds is not None  # noqa: S101  what has none was refused
    checked = _checked(cells, image, every_bit=holds.every_bit)
    try:
        return ENCODERS[uid](checked, image, quality)
    except (RuntimeError, ValueError, struct.error) as error:
        hint = "; perhaps for want of memory ([worker] memory_mb)" if image.frame_length > _LARGE else ""
        raise Unsuitable(f"a {label(uid)} frame cannot be encoded: {str(error)[:200]}{hint}") from error


def _checked(cells: np.ndarray, image: Image, *, every_bit: bool) -> np.ndarray:
    """The cells in the order, type and size that the encoders take; values with their sign extended.

    Raises:
        Permanent: they are not of the image's shape.
        Unsuitable: they hold bits above Bits Stored that would be lost.
    """
    if image.bits_allocated == 1:
        if cells.dtype.itemsize != 1 or cells.size != image.frame_length:
            raise Permanent(f"{cells.nbytes} bytes are not a frame of {image.frame_length}")
        return np.ascontiguousarray(cells.view(np.uint8).reshape(-1))
    shape = (image.rows, image.columns, 3) if image.samples == 3 else (image.rows, image.columns)
    if cells.shape != shape or cells.dtype.itemsize * 8 != image.bits_allocated:
        raise Permanent(f"cells of {cells.shape} {cells.dtype} are not a frame of {shape} as described")
    kind = f"<{'i' if image.signed else 'u'}{cells.dtype.itemsize}"
    plain = np.ascontiguousarray(cells.astype(cells.dtype.newbyteorder("<"), copy=False)).view(kind)
    spare = image.bits_allocated - image.bits_stored
    if every_bit or not spare:
        return plain
    if not image.signed:
        if int(plain.max()) >> image.bits_stored:
            raise Unsuitable("bits above Bits Stored (an overlay?) would be lost")
        return plain
    top = 1 << image.bits_stored - 1
    if int(plain.min()) >= -top and int(plain.max()) < top:
        return plain
    # Some write signed values without extending the sign: nothing is lost of those either.
    bare = plain.view(f"<u{cells.dtype.itemsize}")
    extended = (plain << spare) >> spare
    if not (((bare >> image.bits_stored) == 0) | (extended == plain)).all():
        raise Unsuitable("bits above Bits Stored that do not extend the sign (an overlay?) would be lost")
    return np.asarray(extended)


def recompress(codestream: bytes, source_uid: str, target_uid: str) -> bytes | None:
    """A JPEG in its JPEG XL form (.50 to .111) or back, bit for bit; None between any other two.

    A byte that pads a fragment to even length is kept as part of the JPEG.

    Raises:
        Permanent: the frame is damaged.
        Unsuitable: libjxl cannot restore what it holds.
    """
    try:
        if (source_uid, target_uid) == (_BASELINE, _RECOMPRESSED):
            read_jpeg(codestream)
            recompressed = jpeg_xl.from_jpeg(codestream)
            if jpeg_xl.to_jpeg(recompressed) != codestream:
                raise Unsuitable("JPEG XL would not restore this JPEG bit for bit")
            return recompressed
        if (source_uid, target_uid) == (_RECOMPRESSED, _BASELINE):
            restored = jpeg_xl.to_jpeg(codestream)
            read_jpeg(restored)
            return restored
    except (RuntimeError, ValueError) as error:
        text = str(error)[:200]
        raise Unsuitable(f"{label(source_uid)} cannot become {label(target_uid)}: {text}") from error
    return None
