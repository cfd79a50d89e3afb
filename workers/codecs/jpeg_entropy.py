"""Decoding a JPEG whose entropy-coded data are all there, and noticing one whose data are not.

libjpeg-turbo makes up what is missing, and imagecodecs swallows its warning. So 8-bit frames go through
simplejpeg, the same library with its warnings as errors; others are decoded as if they had more rows, which
show whether the data sufficed; and where neither settles it, the frame is decoded a second time with more
data before EOI: who needed none of them has the same samples again.
"""

from collections.abc import Callable

import imagecodecs
import numpy as np
import simplejpeg

from dicomferry.errors import Permanent
from workers.codecs.codestreams import FRAME_HEADERS, Header, segments

RGB, YCBCR, GREY = "RGB", "YCBCR", "GRAY"
# Entropy-coded data that mean nothing, without a marker. libjpeg-turbo makes up zeros and takes for zeros too
# what is no code, such as many ones: these begin with neither.
_MORE = bytes((0xA5 + number * 37) % 251 for number in range(250))
_RESTART = 0xDD
_LOSSLESS = 0xC3
_ONE_PASS = frozenset((0xC0, 0xC1, _LOSSLESS))  # sequential, by Huffman's code
_TALLEST = 65500  # rows that libjpeg-turbo decodes
_EOI = b"\xff\xd9"


def decode_whole(codestream: bytes, header: Header, stored: str | None, wanted: str | None) -> np.ndarray:
    """The samples of a JPEG frame, converted from the colour space `stored` to `wanted` (None: grey).

    Raises:
        Permanent: its entropy-coded data end early.
        RuntimeError: it cannot be decoded.
    """

    def decode(data: bytes) -> np.ndarray:
        return np.asarray(imagecodecs.jpeg8_decode(data, colorspace=stored, outcolorspace=wanted))

    values = _strictly(codestream, header, stored, wanted)
    if values is None:
        values = _taller(codestream, header, decode)
    if values is not None:
        return values
    values = decode(codestream)
    end = len(codestream[: codestream.rfind(_EOI)].rstrip(b"\xff"))
    if not np.array_equal(values, decode(b"".join((codestream[:end], _MORE, codestream[end:])))):
        raise Permanent("the entropy-coded data of a JPEG frame end early: it is truncated or damaged")
    return values


def _strictly(codestream: bytes, header: Header, stored: str | None, wanted: str | None) -> np.ndarray | None:
    """By the decoder that complains; None where it does, or would take another colour space than ours."""
    if header.lossless or header.precision != 8 or wanted == YCBCR:
        return None
    try:
        seen = simplejpeg.decode_jpeg_header(codestream)[2].upper()
        if seen != (stored or GREY):
            return None
        values = simplejpeg.decode_jpeg(codestream, colorspace=wanted or GREY, strict=True)
    except ValueError:
        return None
    return np.asarray(values[..., 0] if wanted is None else values)


def _taller(codestream: bytes, header: Header, decode: Callable[[bytes], np.ndarray]) -> np.ndarray | None:
    """The samples, decoded with a header that asks for more rows than there are; None if that proves nothing.

    Out of data, libjpeg-turbo makes every later block mid-grey, or every later row where it is lossless. So
    where anything else stands below the image, its last block had all that it needed.
    """
    found = segments(codestream)
    process, frame, end = next(segment for segment in found if segment[0] in FRAME_HEADERS)
    block = 1 if header.lossless else 8
    whole = -(-header.rows // block) * block
    if whole + block > _TALLEST or not _is_plain(process, frame, found):
        return None
    at = end - len(frame) + 1
    rows = (whole + block).to_bytes(2, "big")
    values = decode(b"".join((codestream[:at], rows, codestream[at + 2 :])))
    below = values[whole:] if header.lossless else values[whole:, :block]
    return values[: header.rows] if (below != 1 << header.precision - 1).any() else None


def _is_plain(process: int, frame: bytes, found: list[tuple[int, bytes, int]]) -> bool:
    """Whether more rows change nothing above them: as nearly every encoder makes it.

    One scan, no restart intervals, which forgive what is missing, no rows that share their colours, and no
    point transform, which would move the grey.
    """
    components, scan = frame[5], found[-1][1]
    return (
        process in _ONE_PASS
        and len(scan) == 4 + 2 * components
        and scan[0] == components
        and (process != _LOSSLESS or scan[-1] == 0)
        and all(factors & 15 == 1 for factors in frame[7 : 7 + 3 * components : 3])
        and all(marker != _RESTART for marker, _, _ in found)
    )
