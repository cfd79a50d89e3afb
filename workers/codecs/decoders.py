"""The codec table: which library decodes which transfer syntax, and what is checked before.

A decoder takes one frame's codestream and the data set's description of the image. It returns the samples as
native pixel cells (PS3.5 8.1.1), colour by pixel. The libraries' own checks are not enough: imagecodecs
returns pixels for a truncated JPEG, and all of them allocate what a header asks for. So the header of the
codestream is read first and must agree with the data set.
"""

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress

import imagecodecs
import numpy as np
import openjpeg

from dicomferry.dicom.syntaxes import BY_UID
from dicomferry.errors import Permanent
from workers.codecs.codestreams import Header, read_jpeg
from workers.codecs.image import RGB, YBR, YBR_422, Decoded, Image
from workers.codecs.j2k_header import check_work, read_j2k, without_jp2
from workers.codecs.jpeg_entropy import decode_complete
from workers.codecs.jxl_header import read_jxl

_JPEG = "1.2.840.10008.1.2.4."
_DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
_WAVELETS = tuple(_JPEG + suffix for suffix in ("90", "91", "201", "202", "203"))
# Syntaxes that may have one bit allocated: PS3.5 tables 8.2.4-1 and 8.2.14-1, 8.2.16.
_SINGLE_BITS = frozenset((_DEFLATED_FRAME, *_WAVELETS))


Decoder = Callable[[bytes, Image, bool], Decoded]


def decode(transfer_syntax_uid: str, codestream: bytes, image: Image, *, rgb: bool) -> Decoded:
    """Decode one frame. With `rgb`, a decoder that can converts YCbCr; else the caller does.

    The caller has checked the image's size against the ceilings.

    Raises:
        Permanent: the frame is damaged, contradicts the data set, or no decoder knows the syntax.
    """
    decoder = DECODERS.get(transfer_syntax_uid)
    if decoder is None:
        raise Permanent(f"no decoder for transfer syntax {transfer_syntax_uid}")
    _check_description(image, transfer_syntax_uid)
    try:
        return decoder(codestream, image, rgb)
    except (RuntimeError, ValueError, struct.error) as error:
        # imagecodecs raises RuntimeErrors; their text is about the codestream, never about the patient.
        label = BY_UID[transfer_syntax_uid].label
        raise Permanent(f"a {label} frame cannot be decoded: {str(error)[:200]}") from error


def _check_description(image: Image, uid: str) -> None:
    if not (image.rows and image.columns and image.samples in (1, 3)):
        raise Permanent(
            f"no image has {image.rows} rows, {image.columns} columns and {image.samples} samples"
        )
    known = (8, 16, 32, *((1,) if uid in _SINGLE_BITS else ()), *((64,) if uid == _DEFLATED_FRAME else ()))
    if image.bits_allocated not in known or not 1 <= image.bits_stored <= image.bits_allocated:
        raise Permanent(
            f"compressed pixel data cannot have {image.bits_allocated} bits allocated "
            f"and {image.bits_stored} stored"
        )
    if image.bits_allocated == 1 and image.samples != 1:
        raise Permanent(f"{image.samples} samples of a single bit are no image")


def _check_agreement(header: Header, image: Image) -> None:
    if (header.rows, header.columns) != (image.rows, image.columns):
        raise Permanent(
            f"the codestream has {header.rows} rows and {header.columns} columns, "
            f"the data set says {image.rows} and {image.columns}"
        )
    if header.components != image.samples:
        raise Permanent(
            f"the codestream has {header.components} components, the data set says {image.samples}"
        )
    if header.precision > image.bits_allocated:
        raise Permanent(
            f"samples of {header.precision} bits do not fit the {image.bits_allocated} bits allocated"
        )
    if image.high_bit != image.bits_stored - 1 and header.precision <= image.bits_stored:
        raise Permanent(
            f"High Bit {image.high_bit} with {image.bits_stored} bits stored: the codestream's "
            f"{header.precision} bits could stand in either place"
        )


def _jpeg(codestream: bytes, image: Image, rgb: bool) -> Decoded:
    """JPEG, any process of libjpeg-turbo, which never chooses the colour space."""
    header = read_jpeg(codestream)
    _check_agreement(header, image)
    if image.samples == 1:
        values, notes = _unwrapped(decode_complete(codestream, header, None, None), header, image)
        return _as_cells(values, header, image, image.photometric, notes)
    colour, notes = _jpeg_colour(header, image)
    if header.lossless or colour == RGB:
        # Equal input and output colour spaces: no conversion.
        values, wrapped = _unwrapped(decode_complete(codestream, header, RGB, RGB), header, image)
        notes += wrapped
    else:
        colour_out = RGB if rgb else "YCBCR"
        values = decode_complete(codestream, header, "YCBCR", colour_out)
        colour = RGB if rgb else YBR
    return _as_cells(values, header, image, colour, notes)


def _unwrapped(values: np.ndarray, header: Header, image: Image) -> tuple[np.ndarray, tuple[str, ...]]:
    """Samples as precision or Bits Stored allow: differences are taken modulo 2^16 (T.81 H.1.2.1).

    Some encoders let them wrap at the precision instead: the bits above mean nothing, and GDCM cuts them too.
    Others state a precision of 12 for 16 bits: these are samples if Bits Stored says so.
    """
    bits = _bits_in_use(header, image)
    if not header.lossless or not int(values.max()) >> bits:
        return values, ()
    note = f"differences of the lossless JPEG wrap: what they left above {bits} bits was cut off"
    return values & values.dtype.type((1 << bits) - 1), (note,)


def _bits_in_use(header: Header, image: Image) -> int:
    """Bits of a cell, from the lowest one, that the codestream or the data set claims for values."""
    return min(max(header.precision, image.bits_stored, image.high_bit + 1), image.bits_allocated)


def _jpeg_colour(header: Header, image: Image) -> tuple[str, tuple[str, ...]]:
    """The colours of the stream: its markers overrule the data set; lossless JPEG has no transform."""
    if header.lossless:
        return _untransformed_colour(image), ()
    stated = RGB if image.photometric == RGB else YBR
    if header.transformed is None:
        return stated, ()
    found = YBR if header.transformed else RGB
    if found == stated:
        return found, ()
    return found, (f"the JPEG is {found} though the data set says {image.photometric}",)


def _jpeg_ls(codestream: bytes, image: Image, _rgb: bool) -> Decoded:
    header = read_jpeg(codestream)
    _check_agreement(header, image)
    values = imagecodecs.jpegls_decode(codestream)
    return _as_cells(values, header, image, _untransformed_colour(image))


def _jpeg_2000(codestream: bytes, image: Image, _rgb: bool) -> Decoded:
    """JPEG 2000 and HTJ2K by OpenJPEG, which undoes the component transform and refuses truncated streams."""
    stripped = without_jp2(codestream)
    notes: tuple[str, ...] = (
        () if stripped is codestream else ("a JP2 file stood in place of the codestream",)
    )
    header = read_j2k(stripped)
    _check_agreement(header, image)
    check_work(stripped, header.components)
    colour = image.photometric
    if image.samples == 3:
        colour = RGB if header.transformed else _untransformed_colour(image)
        if header.transformed is not image.photometric.startswith(("YBR_RCT", "YBR_ICT")):
            transform = "a" if header.transformed else "no"
            notes += (f"the codestream has {transform} component transform: {image.photometric} is {colour}",)
    if image.signed and not header.signed:
        notes += ("the codestream is unsigned, the data set signed: its bits were kept",)
    size = header.precision + 7 >> 3
    kind = f"<{'i' if header.signed else 'u'}{4 if size == 3 else size}"
    values = openjpeg.utils.decode(stripped, 0, reshape=False).view(kind)
    if image.bits_allocated == 1:
        return Decoded(np.packbits(values, bitorder="little"), colour, notes)
    return _as_cells(values.reshape(image.shape), header, image, colour, notes)


def _jpeg_xl(codestream: bytes, image: Image, _rgb: bool) -> Decoded:
    """JPEG XL by libjxl, which converts XYB to RGB and refuses truncated streams."""
    header = read_jxl(codestream)
    _check_agreement(header, image)
    colour = RGB if header.transformed and image.samples == 3 else _untransformed_colour(image)
    return _as_cells(imagecodecs.jpegxl_decode(codestream, numthreads=1), header, image, colour)


def _recompressed_jpeg(codestream: bytes, image: Image, rgb: bool) -> Decoded:
    """Restore the JPEG that was recompressed, and decode that."""
    _check_agreement(read_jxl(codestream), image)
    return _jpeg(bytes(imagecodecs.jpegxl_decode_jpeg(codestream, numthreads=1)), image, rgb)


def _deflated_frame(codestream: bytes, image: Image, _rgb: bool) -> Decoded:
    """Native bytes in a raw deflate stream, which a byte may pad to even length (PS3.5 A.4.13)."""
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        native = decompressor.decompress(codestream, image.frame_length + 1)
    except zlib.error as error:
        raise Permanent("a deflated frame is damaged") from error
    if len(native) != image.frame_length or not decompressor.eof:
        raise Permanent(f"a deflated frame does not hold {image.frame_length} bytes: it is cut or damaged")
    if len(decompressor.unused_data) > 1 and decompressor.unused_data.strip(b"\x00"):
        raise Permanent("a deflated frame is followed by another in the same fragment, which would be lost")
    if image.bits_allocated == 1:
        return Decoded(np.frombuffer(native, np.uint8), image.photometric)
    cells = np.frombuffer(native, f"<u{image.bits_allocated // 8}")
    if image.samples == 3 and image.planar:
        planes = cells.reshape(3, image.rows, image.columns)
        return Decoded(np.ascontiguousarray(planes.transpose(1, 2, 0)), _untransformed_colour(image))
    return Decoded(cells.reshape(image.shape), _untransformed_colour(image))


def _rle(codestream: bytes, image: Image, _rgb: bool) -> Decoded:
    """RLE (PS3.5 annex G): a segment for each byte of each sample, most significant first."""
    cell = image.bits_allocated // 8
    count = image.samples * cell
    if len(codestream) < 64 or int.from_bytes(codestream[:4], "little") != count:
        raise Permanent(f"an RLE frame has not the {count} segments of this image (PS3.5 G.5)")
    offsets = (*struct.unpack_from(f"<{count}I", codestream, 4), len(codestream))
    pixels = image.rows * image.columns
    values = np.empty((pixels, image.samples), f"<u{cell}")
    room = np.empty(pixels + _RLE_EXCESS, np.uint8)
    for index in range(count):
        start, end = offsets[index : index + 2]
        if not 64 <= start < end <= len(codestream):
            raise Permanent("the segment offsets of an RLE frame are wrong: it is damaged or truncated")
        segment = _packbits(codestream[start:end], room)
        sample, less_significant = divmod(index, cell)
        if less_significant:
            values[:, sample] <<= 8
            values[:, sample] |= segment
        else:
            values[:, sample] = segment
    return Decoded(values.reshape(image.shape), _untransformed_colour(image))


_RLE_EXCESS = 128  # bytes: old encoders write one run too many at the end


def _packbits(segment: bytes, room: np.ndarray) -> np.ndarray:
    """Unpack one byte per pixel into `room`, whose size is the number of pixels and `_RLE_EXCESS`.

    A byte that pads a segment to even length is not data (PS3.5 G.3.1). Nor are zeros behind it, however
    many, which unpack to zeros.
    """
    pixels = room.size - _RLE_EXCESS
    if len(segment) * 64 < pixels:
        raise Permanent("an RLE segment is too short for the image: it is truncated")
    zeros = len(segment) - len(segment.rstrip(b"\0"))
    for extra in (0, zeros):
        roomy = np.empty(room.size + extra, np.uint8) if extra else room
        for content in (segment, segment[:-1]):
            with suppress(RuntimeError):
                unpacked = np.asarray(imagecodecs.packbits_decode(content, out=roomy.data))
                return _first(unpacked, pixels)
    raise Permanent(f"an RLE segment is damaged, or holds more than the {pixels} bytes of the image")


def _first(unpacked: np.ndarray, pixels: int) -> np.ndarray:
    if len(unpacked) < pixels:
        raise Permanent(f"an RLE segment holds {len(unpacked)} bytes of {pixels}: it is truncated")
    if unpacked[pixels + _RLE_EXCESS :].any():
        raise Permanent(f"an RLE segment holds more than the {pixels} bytes of the image: it is damaged")
    return unpacked[:pixels]


def _untransformed_colour(image: Image) -> str:
    """The colours of samples if the codestream has no transform: RGB, where the data set names no others.

    Raises:
        Permanent: they are of a retired form that only native samples have.
    """
    if image.samples == 1 or image.photometric == "HSV":
        return image.photometric
    if image.photometric.startswith("YBR_PARTIAL"):
        raise Permanent(
            f"{image.photometric}, retired, is not decoded: its colours would be taken for others"
        )
    return YBR if image.photometric in (YBR, YBR_422) else RGB


def _as_cells(
    values: np.ndarray, header: Header, image: Image, colour: str, notes: tuple[str, ...] = ()
) -> Decoded:
    """Put decoded values into pixel cells as the data set describes them (PS3.5 8.1.1).

    The data set's Pixel Representation decides: if the codestream has another, its bits are kept as they are.
    Bits above Bits Stored are kept if the codestream carries them; above its precision they extend the sign.
    """
    if values.shape != image.shape:
        raise Permanent(f"the decoder returned an image of {values.shape} for one of {image.shape}")
    cells = np.ascontiguousarray(values).astype(f"<u{image.bits_allocated // 8}", copy=False)
    if header.signed and not image.signed:
        cells = cells & ((1 << header.precision) - 1)
        notes += ("the codestream is signed, the data set is not: its bits were kept",)
    elif image.signed and not header.signed:
        spare = image.bits_allocated - _bits_in_use(header, image)
        kind = f"<i{image.bits_allocated // 8}"
        cells = (cells << spare).view(kind) >> spare if spare else cells
    return Decoded(cells, colour, notes)


DECODERS: dict[str, Decoder] = {
    "1.2.840.10008.1.2.5": _rle,
    **dict.fromkeys((_JPEG + "50", _JPEG + "51", _JPEG + "57", _JPEG + "70"), _jpeg),
    **dict.fromkeys((_JPEG + "80", _JPEG + "81"), _jpeg_ls),
    **dict.fromkeys(_WAVELETS, _jpeg_2000),
    **dict.fromkeys((_JPEG + "110", _JPEG + "112"), _jpeg_xl),
    _JPEG + "111": _recompressed_jpeg,
    _DEFLATED_FRAME: _deflated_frame,
}
