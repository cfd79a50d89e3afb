"""Objects made on the spot, for what no shipped file has: any codestream in any frame of a data set."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset
from pydicom.uid import UID, generate_uid

from dicomferry.dicom.part10 import file_header

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def image(
    rows: int, columns: int, bits: int, *, samples: int = 1, signed: bool = False, seed: int = 0
) -> np.ndarray:
    """Smooth noise that uses the whole range of `bits`, extremes included."""
    random = np.random.default_rng(seed)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    shape = (rows, columns, samples) if samples > 1 else (rows, columns)
    steps = random.integers(-(1 << bits - 4), (1 << bits - 4) + 1, shape)
    values = np.clip(np.cumsum(steps, axis=1) + (low + high) // 2, low, high)
    values.flat[0], values.flat[-1] = low, high
    size = 8 if bits <= 8 else 16
    return values.astype(np.dtype(f"{'i' if signed else 'u'}{size // 8}"))


def dataset(shape: tuple[int, ...], bits: int, *, signed: bool = False, **elements: Any) -> Dataset:
    """The attributes of an image without its pixels; `elements` are set last, by keyword."""
    samples = shape[2] if len(shape) == 3 else 1
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 100"
    made.SOPClassUID = SECONDARY_CAPTURE
    made.SOPInstanceUID = generate_uid(entropy_srcs=[str(shape), str(bits), str(sorted(elements))])
    made.StudyInstanceUID = made.SeriesInstanceUID = generate_uid(entropy_srcs=["study"])
    made.Modality = "OT"
    made.SamplesPerPixel = samples
    made.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    made.Rows, made.Columns = shape[:2]
    made.BitsAllocated = 8 if bits <= 8 else 16
    made.BitsStored, made.HighBit = bits, bits - 1
    made.PixelRepresentation = int(signed)
    if samples == 3:
        made.PlanarConfiguration = 0
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def write(path: Path, made: Dataset, transfer_syntax_uid: str) -> Path:
    """Write `made` as ingest would have received it."""
    uid = UID(transfer_syntax_uid)
    buffer = BytesIO()
    stream = DicomIO(buffer)
    stream.is_implicit_VR = uid.is_implicit_VR
    stream.is_little_endian = uid.is_little_endian
    write_dataset(stream, made)
    path.write_bytes(file_header(made.SOPClassUID, made.SOPInstanceUID, uid) + buffer.getvalue())
    return path


def encapsulated(
    path: Path, made: Dataset, transfer_syntax_uid: str, codestreams: list[bytes], **options: Any
) -> Path:
    """Write an object whose frames are `codestreams`; `options` go to pydicom's encapsulate."""
    if len(codestreams) > 1 and "NumberOfFrames" not in made:
        made.NumberOfFrames = len(codestreams)
    return with_pixel_data(path, made, transfer_syntax_uid, encapsulate(codestreams, **options))


def with_pixel_data(path: Path, made: Dataset, transfer_syntax_uid: str, value: bytes) -> Path:
    """The same, with every item of the pixel data as given."""
    made.add_new("PixelData", "OB", value)
    made["PixelData"].is_undefined_length = True
    return write(path, made, transfer_syntax_uid)


def item(content: bytes = b"") -> bytes:
    """One item of encapsulated pixel data."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
