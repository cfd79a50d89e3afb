"""The encoders that see bytes and no pixels: RLE (PS3.5 annex G)."""

import struct

import imagecodecs
import numpy as np

from workers.codecs import Image
from workers.encoders.values import Encoded, Quality


def rle(cells: np.ndarray, image: Image, _quality: Quality) -> Encoded:
    """A segment for each byte of each sample, most significant first, rows apart (PS3.5 G.3.1, G.5)."""
    size = image.bits_allocated // 8
    planes = cells.reshape(image.rows, image.columns, image.samples, 1).view(np.uint8)
    segments = []
    for sample in range(image.samples):
        for byte in reversed(range(size)):
            # A two-dimensional array is packed row by row: a run must not cross the end of a row.
            packed = imagecodecs.packbits_encode(np.ascontiguousarray(planes[:, :, sample, byte]))
            segments.append(packed + b"\x00" * (len(packed) % 2))
    offsets = [64]
    for segment in segments[:-1]:
        offsets.append(offsets[-1] + len(segment))
    header = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments)))
    return Encoded(header + b"".join(segments), image.photometric)
