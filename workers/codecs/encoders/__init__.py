"""The encoders: one frame of native pixel cells becomes one codestream, unless the target cannot hold it.

The table of transfer syntaxes states what each target can hold. Here an image is checked against it, and its
cells against the data set, so that no encoder drops a bit silently.
"""

import struct

import numpy as np

from dicomferry.dicom.syntaxes import BY_UID, Capability, label
from dicomferry.errors import Permanent, Unsuitable
from workers.codecs.codestreams import read_jpeg
from workers.codecs.encoders import bytewise, jpeg, jpeg_xl, wavelets
from workers.codecs.encoders.values import Encoded, Encoder, Quality
from workers.codecs.image import Image

__all__ = ["ENCODERS", "Encoded", "Quality", "encode", "recompress", "refusal"]

_JPEG = "1.2.840.10008.1.2.4."
_BASELINE = _JPEG + "50"
_RECOMPRESSED = _JPEG + "111"
_LARGE = 64 << 20  # bytes of a frame; OpenJPEG does not report that memory was short

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
    """Why the target `uid` cannot hold `image`, with the clause; None if it can.

    `image.photometric` is that of the native cells. Native targets are not checked here: their only limit is
    the length of all pixel data.
    """
    if uid == _RECOMPRESSED:
        return f"{label(uid)} is made of JPEG frames alone, not of pixels (PS3.5 8.2.15)"
    syntax = BY_UID.get(uid)
    if syntax is None or syntax.capability is None:
        return f"workers cannot make {label(uid)}"
    found = _mismatch(syntax.capability, image)
    return f"{syntax.label} cannot hold {found}" if found else None


def _mismatch(capability: Capability, image: Image) -> str | None:
    """The first property of `image` that the target cannot hold, with the clause."""
    photometrics = capability.grey if image.samples == 1 else capability.colour if image.samples == 3 else ()
    grey_or_any = image.samples == 1 or capability.colour is None
    least, most = capability.stored
    clause = capability.clause
    bits = f"{clause}; {capability.limits}" if capability.limits else clause
    checks = (
        (
            photometrics is None or image.photometric in photometrics,
            f"{image.photometric or 'an unknown colour space'} of {image.samples} samples ({clause})",
        ),
        (image.bits_allocated in capability.allocated, f"{image.bits_allocated} bits allocated ({bits})"),
        (
            least <= image.bits_stored <= min(most, image.bits_allocated),
            f"{image.bits_stored} bits stored ({bits})",
        ),
        (
            image.bits_allocated <= 8 or image.bits_stored >= capability.min_stored_16,
            f"{image.bits_stored} bits stored in {image.bits_allocated} ({bits})",
        ),
        (not image.signed or (capability.signed and grey_or_any), f"signed samples ({clause})"),
        (
            capability.every_bit or image.high_bit == image.bits_stored - 1,
            f"High Bit {image.high_bit} with {image.bits_stored} bits stored (PS3.5 8.1.1)",
        ),
        (
            min(image.rows, image.columns) >= capability.min_side,
            f"{image.rows} rows and {image.columns} columns: {capability.min_side} are the least",
        ),
    )
    return next((words for fits, words in checks if not fits), None)


def encode(uid: str, cells: np.ndarray, image: Image, quality: Quality) -> Encoded:
    """Encode one frame: `cells` as in `Decoded.samples`, in `image.photometric`.

    Raises:
        Unsuitable: the target cannot hold the image (see `refusal`) or these values, or the library fails;
            another target may do.
        Permanent: the cells do not have the size of `image`.
    """
    reason = refusal(uid, image)
    if reason:
        raise Unsuitable(reason)
    capability = BY_UID[uid].capability
    assert capability is not None  # noqa: S101  what has none was refused
    checked = _check_cells(cells, image, every_bit=capability.every_bit)
    try:
        return ENCODERS[uid](checked, image, quality)
    except (RuntimeError, ValueError, struct.error) as error:
        hint = "; perhaps for want of memory ([worker] memory_mb)" if image.frame_length > _LARGE else ""
        raise Unsuitable(f"a {label(uid)} frame cannot be encoded: {str(error)[:200]}{hint}") from error


def _check_cells(cells: np.ndarray, image: Image, *, every_bit: bool) -> np.ndarray:
    """Return the cells in the byte order and type that encoders take, with the sign extended.

    Raises:
        Permanent: they do not have the image's shape.
        Unsuitable: they hold bits above Bits Stored that would be lost.
    """
    if image.bits_allocated == 1:
        if cells.dtype.itemsize != 1 or cells.size != image.frame_length:
            raise Permanent(f"{cells.nbytes} bytes are not a frame of {image.frame_length}")
        return np.ascontiguousarray(cells.view(np.uint8).reshape(-1))
    if cells.shape != image.shape or cells.dtype.itemsize * 8 != image.bits_allocated:
        raise Permanent(f"cells of {cells.shape} {cells.dtype} are not a frame of {image.shape} as described")
    kind = f"<{'i' if image.signed else 'u'}{cells.dtype.itemsize}"
    values = np.ascontiguousarray(cells.astype(cells.dtype.newbyteorder("<"), copy=False)).view(kind)
    spare = image.bits_allocated - image.bits_stored
    if every_bit or not spare:
        return values
    if not image.signed:
        if int(values.max()) >> image.bits_stored:
            raise Unsuitable("bits above Bits Stored (an overlay?) would be lost")
        return values
    top = 1 << image.bits_stored - 1
    if int(values.min()) >= -top and int(values.max()) < top:
        return values
    # Some files have signed values whose sign is not extended: those lose nothing either.
    raw = values.view(f"<u{cells.dtype.itemsize}")
    extended = (values << spare) >> spare
    if not (((raw >> image.bits_stored) == 0) | (extended == values)).all():
        raise Unsuitable("bits above Bits Stored that do not extend the sign (an overlay?) would be lost")
    return np.asarray(extended)


def recompress(codestream: bytes, source_uid: str, target_uid: str) -> bytes | None:
    """A JPEG in its JPEG XL form (.50 to .111), or restored from it; None for any other pair.

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
