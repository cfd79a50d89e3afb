"""Images like those of modalities: smooth shapes, texture, and noise in the bits that each kind has."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pynetdicom  # noqa: F401  it adds the newest syntaxes to pydicom's table
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import generate_uid

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from workers.codecs.decoders import Image

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@dataclass(frozen=True)
class Kind:
    """A kind of image; `noise` is the standard deviation of each sample, in its unit."""

    name: str
    rows: int
    columns: int
    bits: int
    noise: float
    samples: int = 1
    frames: int = 1
    signed: bool = False

    @property
    def described(self) -> Image:
        """The image as the codecs see it."""
        return Image(
            rows=self.rows,
            columns=self.columns,
            samples=self.samples,
            bits_allocated=8 if self.bits <= 8 else 16,
            bits_stored=self.bits,
            high_bit=self.bits - 1,
            signed=self.signed,
            photometric="RGB" if self.samples == 3 else "MONOCHROME2",
            frames=self.frames,
        )


KINDS: tuple[Kind, ...] = (
    Kind("CT 512 12 bit", 512, 512, 12, 12.0),
    Kind("CT 512 16 bit signed", 512, 512, 16, 12.0, signed=True),
    Kind("CT 512 12 bit, 20 frames", 512, 512, 12, 12.0, frames=20),
    Kind("MR 256 12 bit", 256, 256, 12, 20.0),
    Kind("CR 2048 12 bit", 2048, 2048, 12, 6.0),
    Kind("US 480x640 RGB, 10 frames", 480, 640, 8, 1.5, samples=3, frames=10),
    Kind("small 64", 64, 64, 12, 12.0),
)


def frames_of(kind: Kind) -> list[np.ndarray]:
    """The native cells of each frame, all different."""
    random = np.random.default_rng(42)
    return [_frame(kind, random, number / max(kind.frames, 1)) for number in range(kind.frames)]


def _frame(kind: Kind, random: np.random.Generator, phase: float) -> np.ndarray:
    """A body in air: an ellipse with organs and texture, and the noise of a detector."""
    y, x = np.mgrid[-1 : 1 : kind.rows * 1j, -1 : 1 : kind.columns * 1j]
    top = (1 << min(kind.bits, 12)) - 1
    body = (x / 0.85) ** 2 + (y / 0.7) ** 2 < 1
    values = np.where(body, 0.35 + 0.05 * np.cos(3 * x + phase) * np.sin(2 * y), 0.0)
    for _ in range(12):
        cx, cy, size, level = random.uniform((-0.6, -0.45, 0.03, -0.2), (0.6, 0.45, 0.25, 0.35))
        values += body * level / (1 + np.exp((np.hypot(x - cx, y - cy + 0.1 * phase) - size) * 120))
    planes = [
        values * scale * top + random.normal(0, kind.noise, values.shape) * np.where(body, 1, 0.2)
        for scale in ((1.0, 0.9, 0.75)[: kind.samples])
    ]
    cells = np.stack(planes, axis=-1) if kind.samples == 3 else planes[0]
    low = -1024 if kind.signed else 0
    cell_type = f"{'int' if kind.signed else 'uint'}{8 if kind.bits <= 8 else 16}"
    return np.clip(cells + low, low, top + low).astype(cell_type)


def write(
    path: Path, kind: Kind, uid: str, frames: Sequence[bytes], photometric: str, **elements: Any
) -> Path:
    """Write an object of `kind`: native bytes in Explicit VR Little Endian, else a codestream a frame.

    `elements` are set last, by keyword.
    """
    made = Dataset()
    made.SOPClassUID = _SECONDARY_CAPTURE
    made.SOPInstanceUID = generate_uid()
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(), generate_uid()
    made.Modality = "OT"
    made.SamplesPerPixel = kind.samples
    made.PhotometricInterpretation = photometric
    if kind.samples == 3:
        made.PlanarConfiguration = 0
    if kind.frames > 1:
        made.NumberOfFrames = kind.frames
    image = kind.described
    made.Rows, made.Columns = kind.rows, kind.columns
    made.BitsAllocated, made.BitsStored, made.HighBit = image.bits_allocated, kind.bits, kind.bits - 1
    made.PixelRepresentation = int(kind.signed)
    if uid == EXPLICIT_LE:
        made.add_new("PixelData", "OB" if kind.bits <= 8 else "OW", b"".join(frames))
    else:
        made.add_new("PixelData", "OB", encapsulate(list(frames)))
        made["PixelData"].is_undefined_length = True
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    made.ensure_file_meta()
    made.file_meta.TransferSyntaxUID = uid
    made.save_as(path, enforce_file_format=True)
    return path
