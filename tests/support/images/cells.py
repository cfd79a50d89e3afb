"""Cells for the encoders, and the way back by our own decoders."""

from dataclasses import replace

import numpy as np

from workers.codecs.decoders import decode
from workers.codecs.encoders import Encoded
from workers.codecs.image import Image


def picture(
    bits: int,
    *,
    samples: int = 1,
    signed: bool = False,
    allocated: int | None = None,
    shape: tuple[int, int] = (37, 53),
) -> tuple[np.ndarray, Image]:
    """Cells with the extremes of `bits` in smooth noise, and their description."""
    random = np.random.default_rng(bits + samples)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    step = max(1, 1 << max(bits - 5, 0))
    steps = random.integers(-step, step + 1, (*shape, samples) if samples > 1 else shape)
    values = np.clip(np.cumsum(steps, axis=1) + (low + high) // 2, low, high)
    values.flat[0], values.flat[-1] = low, high
    size = allocated or (8 if bits <= 8 else 16)
    cells = values.astype(f"<{'i' if signed else 'u'}{size // 8}")
    photometric = "RGB" if samples == 3 else "MONOCHROME2"
    return cells, Image(*shape, samples, size, bits, bits - 1, signed, photometric)


def back(uid: str, encoded: Encoded, image: Image) -> np.ndarray:
    """By our own decoder, which must have nothing to remark on."""
    decoded = decode(uid, encoded.codestream, replace(image, photometric=encoded.photometric), rgb=True)
    assert decoded.notes == ()
    return decoded.samples
