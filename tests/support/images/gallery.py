"""One synthetic image of each kind that the engine must know, with its true samples.

`cells` are the pixel cells of PS3.5 8.1.1, frames x rows x columns (x samples, colour by pixel), whatever
planar configuration the file then has: the truth that every decoder must come back with.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from pydicom import Dataset, Sequence

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from tests.support.images.synthetic import dataset, write
from workers.codecs.image import Image

SECRET = "Zzyzx^Quetzalcoatl"  # the patient's name: no message may quote it


@dataclass(frozen=True)
class Picture:
    """A kind of image."""

    name: str
    bits: int
    allocated: int
    signed: bool = False
    samples: int = 1
    photometric: str = "MONOCHROME2"
    planar: int = 0
    frames: int = 1
    rows: int = 33
    columns: int = 35
    high_bit: int | None = None  # None: bits - 1
    overlay: bool = False  # a bit plane above Bits Stored (PS3.3 C.9.2, retired)
    palette: bool = False
    pixels: str = "PixelData"  # or FloatPixelData, DoubleFloatPixelData

    @property
    def subsampled(self) -> bool:
        """Whether chroma stands at every second column, in native pixel data too (PS3.3 C.7.6.3.1.2)."""
        return self.photometric == "YBR_FULL_422"

    @cached_property
    def cells(self) -> np.ndarray:
        """The truth."""
        seed = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "little")
        random = np.random.default_rng(seed)
        shape = (self.frames, self.rows, self.columns) + ((self.samples,) if self.samples > 1 else ())
        if self.pixels != "PixelData":
            return random.standard_normal(shape).astype("<f4" if self.allocated == 32 else "<f8")
        low, high = (
            (-(1 << self.bits - 1), (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)
        )
        step = max(1, 1 << self.bits >> 5)
        values = np.cumsum(random.integers(-step, step + 1, shape), axis=2) + (low + high + 1) // 2
        values = np.clip(values, low, high)
        values.reshape(self.frames, -1)[:, 0] = low
        values.reshape(self.frames, -1)[:, -1] = high
        if self.subsampled:
            values[:, :, 1::2, 1:] = values[:, :, 0::2, 1:][:, :, : self.columns // 2]
        width = max(self.allocated, 8)
        values = values << ((self.high_bit or self.bits - 1) - self.bits + 1)
        if self.overlay:
            values |= random.integers(0, 2, shape) << self.bits
        return values.astype(np.dtype(f"<{'i' if self.signed else 'u'}{width // 8}"))

    @property
    def native(self) -> bytes:
        """The value of the native pixel data, Little Endian, padded to even length."""
        cells = self.cells
        if self.allocated == 1:
            content = np.packbits(cells.ravel(), bitorder="little").tobytes()
        elif self.subsampled:
            # Y1 Y2 Cb Cr, the columns are even.
            pairs = cells.reshape(self.frames, self.rows, self.columns // 2, 2, 3)
            content = np.concatenate([pairs[..., 0], pairs[..., 0, 1:]], axis=-1).tobytes()
        elif self.samples == 3 and self.planar:
            content = cells.transpose(0, 3, 1, 2).tobytes()
        else:
            content = cells.tobytes()
        return content + b"\0" * (len(content) % 2)

    @property
    def described(self) -> Image:
        """The image as the engine sees it."""
        return Image(
            rows=self.rows, columns=self.columns, samples=self.samples, bits_allocated=self.allocated,
            bits_stored=self.bits, high_bit=self.bits - 1 if self.high_bit is None else self.high_bit,
            signed=self.signed, photometric=self.photometric, frames=self.frames,
        )  # fmt: skip

    def dataset(self) -> Dataset:
        """The object, without its pixels, with every sort of element that must survive around them."""
        made = dataset(
            self.cells.shape[1:], self.bits, signed=self.signed, PhotometricInterpretation=self.photometric,
            BitsAllocated=self.allocated, HighBit=self.described.high_bit, NumberOfFrames=self.frames,
            PatientName=SECRET, PatientID=SECRET, StudyID="1", StudyDate="", StudyTime="", SeriesNumber="1",
            InstanceNumber="1", AccessionNumber="", PatientBirthDate="", PatientSex="",
            ImageType=["ORIGINAL", "PRIMARY"],
            ReferringPhysicianName="", ConversionType="SYN", InstanceCreationDate="20260101",
        )  # fmt: skip
        if self.samples == 3:
            made.PlanarConfiguration = self.planar
        if self.pixels != "PixelData":
            del made.BitsStored, made.HighBit, made.PixelRepresentation
        elif self.samples == 1 and self.bits > 1:
            vr = "SS" if self.signed else "US"
            if self.allocated <= 16:
                made.add_new("SmallestImagePixelValue", vr, int(self.cells.min()) if not self.overlay else 0)
                made.add_new("PixelPaddingValue", vr, int(self.cells.min()) if not self.overlay else 0)
        if self.palette:
            entries = 1 << self.bits
            for name in ("Red", "Green", "Blue"):
                made.add_new(f"{name}PaletteColorLookupTableDescriptor", "US", [entries & 0xFFFF, 0, 16])
                made.add_new(
                    f"{name}PaletteColorLookupTableData", "OW", np.arange(entries, dtype="<u2").tobytes()
                )
        if self.overlay:
            made.add_new(0x60000010, "US", self.rows)
            made.add_new(0x60000011, "US", self.columns)
            made.add_new(0x60000040, "CS", "G")
            made.add_new(0x60000050, "SS", [1, 1])
            made.add_new(0x60000100, "US", self.allocated)
            made.add_new(0x60000102, "US", self.bits)
        surround(made)
        return made

    def write(self, path: Path, uid: str = EXPLICIT_LE) -> Path:
        """The native file, in Implicit or Explicit VR Little Endian."""
        made = self.dataset()
        vr = {"FloatPixelData": "OF", "DoubleFloatPixelData": "OD"}.get(
            self.pixels, "OB" if self.allocated <= 8 and uid == EXPLICIT_LE else "OW"
        )
        made.add_new(self.pixels, vr, self.native)
        return write(path, made, uid)


def surround(made: Dataset) -> None:
    """Elements of many sorts around the pixels: nested, private, odd text, unknown VR."""
    deep = Dataset()
    deep.add_new(0x00080100, "SH", "T-D1100")
    deep.add_new(0x00080104, "LO", "Kopf \u00e4\u00f6\u00fc")
    outer = Dataset()
    outer.add_new(0x00080100, "SH", "121311")
    outer.AnatomicRegionSequence = Sequence([deep])
    made.AnatomicRegionSequence = Sequence([outer])
    made.ImageComments = "Bemerkung \u00df"
    made.add_new(0x00090010, "LO", "FERRY TEST")
    made.add_new(0x00091001, "UN", b"\x01\x02\x03\x04")
    made.add_new(0x00091002, "OB", b"\x05\x06")
    made.add_new(0x00091003, "SQ", Sequence([deep]))
    made.add_new(0xFFFCFFFC, "OB", b"\0\0")  # Data Set Trailing Padding, after the pixels


_GREY = Picture("grey8", 8, 8)
PICTURES: tuple[Picture, ...] = (
    _GREY,
    replace(_GREY, name="grey8-signed", signed=True),
    replace(_GREY, name="grey8-inverted", photometric="MONOCHROME1", frames=2),
    replace(_GREY, name="grey8-one-pixel", rows=1, columns=1),
    replace(_GREY, name="grey8-row", rows=1, columns=67, frames=3),
    replace(_GREY, name="grey8-in-16", allocated=16),
    Picture("grey10", 10, 16, rows=31, columns=29),
    Picture("grey12", 12, 16, frames=2),
    Picture("grey12-signed", 12, 16, signed=True, frames=2),
    Picture("grey12-high-bit-15", 12, 16, high_bit=15),
    Picture("grey12-overlay", 12, 16, overlay=True, frames=2, columns=32),
    Picture("grey16", 16, 16, frames=30, rows=17, columns=19),
    Picture("grey16-one-pixel", 16, 16, rows=1, columns=1),
    Picture("grey16-signed", 16, 16, signed=True),
    Picture("grey16-large", 16, 16, rows=300, columns=257),
    Picture("grey32", 32, 32, frames=2),
    Picture("grey32-signed", 32, 32, signed=True),
    Picture("bit", 1, 1, frames=3),
    Picture("bit-in-8", 1, 8, frames=2),
    Picture("rgb8", 8, 8, samples=3, photometric="RGB"),
    Picture("rgb8-planar", 8, 8, samples=3, photometric="RGB", planar=1, frames=2),
    Picture("rgb16", 16, 16, samples=3, photometric="RGB", frames=2),
    Picture("ybr8", 8, 8, samples=3, photometric="YBR_FULL", frames=2),
    Picture("ybr8-planar", 8, 8, samples=3, photometric="YBR_FULL", planar=1),
    Picture("ybr8-422", 8, 8, samples=3, photometric="YBR_FULL_422", columns=36),
    Picture("palette8", 8, 8, photometric="PALETTE COLOR", palette=True),
    Picture("palette16", 16, 16, photometric="PALETTE COLOR", palette=True),
    Picture("float", 32, 32, pixels="FloatPixelData"),
    Picture("double", 64, 64, pixels="DoubleFloatPixelData"),
)
BY_NAME = {picture.name: picture for picture in PICTURES}
