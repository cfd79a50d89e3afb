"""Decodes a JPEG if its entropy-coded data is complete, and refuses one whose data ends early.

libjpeg-turbo fills in missing data, and imagecodecs drops its warning. There are three checks, the cheapest
first: 8-bit frames go through simplejpeg, the same library with warnings as errors; other frames are decoded
with extra rows, which show whether the data sufficed; where neither decides, the frame is decoded again with
extra data before EOI: a complete frame has the same samples again.
"""

from collections.abc import Callable

import imagecodecs
import numpy as np
import simplejpeg

from dicomferry.dicom.signatures import FRAME_HEADERS
from dicomferry.errors import Permanent
from workers.codecs.codestreams import Header, segments
from workers.codecs.jpeg_tables import with_known_symbols

RGB, YCBCR, GREY = "RGB", "YCBCR", "GRAY"
# Arbitrary entropy-coded data without a marker. It begins with neither zeros nor ones: libjpeg-turbo fills in
# zeros, and reads an invalid code, such as many ones, as zeros too.
_EXTRA_DATA = bytes((0xA5 + number * 37) % 251 for number in range(250))
_RESTART = 0xDD
_LOSSLESS = 0xC3
_ONE_PASS = frozenset((0xC0, 0xC1, _LOSSLESS))  # sequential, Huffman coding
_MAX_ROWS = 65500  # of libjpeg-turbo
_EOI = b"\xff\xd9"
_LARGEST_CATEGORY = {False: 15, True: 16}  # of a DC difference, by whether the process is lossless


def decode_complete(codestream: bytes, header: Header, stored: str | None, target: str | None) -> np.ndarray:
    """The samples of a JPEG frame, converted from the colour space `stored` to `target` (None: grey).

    Raises:
        Permanent: its entropy-coded data ends early.
        RuntimeError: it cannot be decoded.
    """
    largest = _LARGEST_CATEGORY[header.lossless]
    known = with_known_symbols(codestream, largest, 0)
    values = _decode_checked(known, header, stored, target)
    if known is codestream:
        return values
    # An unused symbol makes no difference. A used one does: of 0, 1 and 15 bits follow, of other differences.
    for substitute in (1, 15):
        known = with_known_symbols(codestream, largest, substitute)
        if not np.array_equal(values, _decode_checked(known, header, stored, target)):
            raise Permanent(f"a JPEG frame uses DC categories above {largest} (T.81 F.1.2.1, H.1.2)")
    return values


def _decode_checked(codestream: bytes, header: Header, stored: str | None, target: str | None) -> np.ndarray:
    def decode(data: bytes) -> np.ndarray:
        return np.asarray(imagecodecs.jpeg8_decode(data, colorspace=stored, outcolorspace=target))

    values = _decode_strictly(codestream, header, stored, target)
    if values is None:
        values = _decode_with_extra_rows(codestream, header, decode)
    if values is not None:
        return values
    values = decode(codestream)
    end = len(codestream[: codestream.rfind(_EOI)].rstrip(b"\xff"))
    if not np.array_equal(values, decode(b"".join((codestream[:end], _EXTRA_DATA, codestream[end:])))):
        raise Permanent("the entropy-coded data of a JPEG frame end early: it is truncated or damaged")
    return values


def _decode_strictly(
    codestream: bytes, header: Header, stored: str | None, target: str | None
) -> np.ndarray | None:
    """Decode with warnings as errors; None if there is one, or if it assumes another colour space."""
    if header.lossless or header.precision != 8 or target == YCBCR:
        return None
    try:
        seen = simplejpeg.decode_jpeg_header(codestream)[2].upper()
        if seen != (stored or GREY):
            return None
        values = simplejpeg.decode_jpeg(codestream, colorspace=target or GREY, strict=True)
    except ValueError:
        return None
    return np.asarray(values[..., 0] if target is None else values)


def _decode_with_extra_rows(
    codestream: bytes, header: Header, decode: Callable[[bytes], np.ndarray]
) -> np.ndarray | None:
    """Decode with more rows in the header than there are; None if that proves nothing.

    Out of data, libjpeg-turbo makes every later block mid-grey, or every later row of a lossless image. If
    the extra rows are anything else, the last block of the image was complete.
    """
    found = segments(codestream)
    process, frame, end = next(segment for segment in found if segment[0] in FRAME_HEADERS)
    block = 1 if header.lossless else 8
    padded_rows = -(-header.rows // block) * block
    if padded_rows + block > _MAX_ROWS or not _allows_extra_rows(process, frame, found):
        return None
    at = end - len(frame) + 1
    rows = (padded_rows + block).to_bytes(2, "big")
    values = decode(b"".join((codestream[:at], rows, codestream[at + 2 :])))
    below = values[padded_rows:] if header.lossless else values[padded_rows:, :block]
    return values[: header.rows] if (below != 1 << header.precision - 1).any() else None


def _allows_extra_rows(process: int, frame: bytes, found: list[tuple[int, bytes, int]]) -> bool:
    """Whether extra rows leave those above unchanged, as in nearly every JPEG.

    It has one scan; no restart intervals, which hide missing data; no rows that share colours; and no point
    transform, which would shift the grey.
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
