"""The encoders that see bytes and no pixels: RLE (PS3.5 annex G), Deflated Image Frame (PS3.5 A.4.13)."""

import struct

import imagecodecs
import numpy as np

from workers.codecs.encoders.values import Encoded, Quality
from workers.codecs.image import Image

# libdeflate's levels 1 to 6 differ by 2 % in size; this one is the fastest that is not larger than zlib's 6.
_DEFLATE_LEVEL = 4


def rle(cells: np.ndarray, image: Image, _quality: Quality) -> Encoded:
    """A segment for each byte of each sample, most significant first, rows apart (PS3.5 G.3.1, G.5)."""
    size = image.bits_allocated // 8
    planes = cells.reshape(image.rows, image.columns, image.samples).view(f"<u{size}")
    segments = []
    for sample in range(image.samples):
        for byte in reversed(range(size)):
            plane = (planes[:, :, sample] >> 8 * byte).astype(np.uint8, copy=False)
            # A two-dimensional array is packed row by row: a run must not cross the end of a row.
            packed = imagecodecs.packbits_encode(plane)
            segments.append(packed + b"\x00" * (len(packed) % 2))
    offsets = [64]
    for segment in segments[:-1]:
        offsets.append(offsets[-1] + len(segment))
    header = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments)))
    return Encoded(header + b"".join(segments), image.photometric)


def deflated_frame(cells: np.ndarray, image: Image, _quality: Quality) -> Encoded:
    """The native bytes of the frame as one raw deflate stream (RFC 1951)."""
    codestream = imagecodecs.deflate_encode(cells.tobytes(), level=_DEFLATE_LEVEL, raw=True)
    return Encoded(bytes(codestream), image.photometric)
