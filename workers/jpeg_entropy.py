"""Decoding a JPEG whose entropy-coded data are all there, and noticing one whose data are not.

libjpeg-turbo makes up what is missing, and imagecodecs swallows its warning. So 8-bit frames go through
simplejpeg, the same library with its warnings as errors; the bits of a lossless frame are counted; and where
neither settles it, the frame is decoded a second time with more data before EOI: who needed none of them has
the same samples again.
"""

from collections.abc import Mapping
from functools import cache

import imagecodecs
import numpy as np
import simplejpeg

from dicomferry.errors import Permanent
from workers.codestreams import Header, segments

RGB, YCBCR, GREY = "RGB", "YCBCR", "GRAY"
# Entropy-coded data that mean nothing: no marker, no long run of equal bits.
_MORE = bytes(number * 37 % 251 for number in range(1, 251))
_TABLES, _SCAN, _RESTART = 0xC4, 0xDA, 0xDD
_LOSSLESS = 0xC3
_EOI = b"\xff\xd9"


def decode_whole(codestream: bytes, header: Header, stored: str | None, wanted: str | None) -> np.ndarray:
    """The samples of a JPEG frame, converted from the colour space `stored` to `wanted` (None: grey).

    Raises:
        Permanent: its entropy-coded data end early.
        RuntimeError: it cannot be decoded.
    """
    strict = _strictly(codestream, header, stored, wanted)
    if strict is not None:
        return strict
    colours = {"colorspace": stored, "outcolorspace": wanted}
    values = np.asarray(imagecodecs.jpeg8_decode(codestream, **colours))  # type: ignore[arg-type]
    if header.lossless and _counts_agree(codestream, header, values):
        return values
    end = len(codestream[: codestream.rfind(_EOI)].rstrip(b"\xff"))
    longer = b"".join((codestream[:end], _MORE, codestream[end:]))
    if not np.array_equal(values, imagecodecs.jpeg8_decode(longer, **colours)):  # type: ignore[arg-type]
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


def _counts_agree(codestream: bytes, header: Header, values: np.ndarray) -> bool:
    """Whether encoding `values` takes exactly the bits that the scan has; False where it cannot be told.

    Told for what nearly every encoder makes: one scan, predictor 1, no point transform, no restart intervals
    (T.81 annex H).
    """
    found = segments(codestream)
    scan, start = found[-1][1], found[-1][2]
    frame = next(content for marker, content, _ in found if marker == _LOSSLESS)
    components = header.components
    whole_scan = len(scan) == 4 + 2 * components and scan[0] == components
    if not whole_scan or scan[-3] != 1 or scan[-1] != 0 or any(marker == _RESTART for marker, _, _ in found):
        return False
    if any(frame[7 + 3 * number] != 0x11 for number in range(components)):  # sampling factors
        return False
    entropy = codestream[start : codestream.rfind(_EOI)].rstrip(b"\xff")
    stuffed = entropy.count(b"\xff\x00")
    if entropy.count(b"\xff") != stuffed:
        return False
    tables = _huffman_lengths(found)
    planes = values[..., None] if components == 1 else values
    used = 0
    for number in range(components):
        lengths = tables.get(scan[2 + 2 * number] >> 4)
        if lengths is None:
            return False
        used += int(_costs(lengths)[_differences(planes[..., number], header.precision)].sum(dtype=np.int64))
    return 0 <= 8 * (len(entropy) - stuffed) - used < 8


def _differences(plane: np.ndarray, precision: int) -> np.ndarray:
    """What predictor 1 leaves, modulo 2^16 (T.81 H.1.2.1)."""
    samples = plane.astype(np.uint16)
    left = np.empty_like(samples)
    left[:, 1:] = samples[:, :-1]
    left[1:, 0] = samples[:-1, 0]
    left[0, 0] = 1 << precision - 1
    return samples - left


def _huffman_lengths(found: list[tuple[int, bytes, int]]) -> Mapping[int, tuple[int, ...]]:
    """By table (of class 0): the length of the code of each category 0 to 16, 0 where it has none."""
    tables = {}
    for marker, content, _ in found:
        at = 0
        while marker == _TABLES and at + 17 <= len(content):
            counts = content[at + 1 : at + 17]
            codes = [length for length, count in enumerate(counts, 1) for _ in range(count)]
            by_category = dict(zip(content[at + 17 : at + 17 + len(codes)], codes, strict=False))
            if content[at] >> 4 == 0:
                tables[content[at] & 15] = tuple(by_category.get(category, 0) for category in range(17))
            at += 17 + len(codes)
    return tables


@cache
def _categories() -> np.ndarray:
    """The category of each difference modulo 2^16 (T.81 table H.2)."""
    sizes = np.abs(np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int32))
    categories: np.ndarray = np.ceil(np.log2(sizes + 1)).astype(np.uint8)
    return categories


def _costs(lengths: tuple[int, ...]) -> np.ndarray:
    """Bits that each difference takes: its category's code, and as many more, but for category 16."""
    bits = [length + (category if category < 16 else 0) for category, length in enumerate(lengths)]
    costs: np.ndarray = np.array(bits, np.uint8)[_categories()]
    return costs
