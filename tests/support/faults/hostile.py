"""Objects that cost others dearly if they may: bombs of layers, pixels and deflate, and tiny ones in numbers.

Each has a SOP Instance UID of its own. Whatever becomes of them, they end delivered or parked, and healthy
objects do not wait for them. Nobody decodes them here.
"""

import struct
import zlib
from functools import cache
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

from dicomferry.dicom.part10 import dataset_offset, file_header
from tests.support.faults.history import HOSTILE, HOSTILE_ROOT
from tests.support.faults.traffic import Sending, digest_of
from tests.support.images import synthetic

SC = synthetic.SECONDARY_CAPTURE
_CASES = Path(__file__).parents[2] / "data/cases/hostile"
_INFLATED = 150_000_000  # bytes: more than the soak's whole disk
_BOMBS = {"layers": ("j2k_65535_layers_8_frames", 2048, 8), "black": ("j2k_black_62_frames_4_GB", 8000, 62)}
KINDS = ("layers", "black", "deflated", "tiny")


def make(folder: Path, number: int, seed: int) -> Sending:
    """The hostile object of that number; the kinds take turns."""
    kind = KINDS[number % len(KINDS)]
    uid = str(generate_uid(HOSTILE_ROOT, entropy_srcs=[str(seed), str(number)]))
    path = folder / f"hostile-{number:06}.dcm"
    if kind == "tiny":
        syntax = str(ExplicitVRLittleEndian)
        path.write_bytes(file_header(SC, uid, syntax) + _element(0x16, SC) + _element(0x18, uid))
    elif kind == "deflated":
        syntax = str(DeflatedExplicitVRLittleEndian)
        path.write_bytes(file_header(SC, uid, syntax) + _deflated(path, uid))
    else:
        syntax = str(JPEG2000Lossless)
        name, side, frames = _BOMBS[kind]
        made = _described(uid, side, frames)
        synthetic.encapsulated(path, made, JPEG2000Lossless, [_codestream(name)] * frames)
    content = path.read_bytes()[dataset_offset(path) :]
    return Sending(path, uid, syntax, SC, digest_of(content), HOSTILE)


def _described(uid: str, side: int, frames: int) -> Dataset:
    return synthetic.dataset((side, side), 8, SOPClassUID=SC, SOPInstanceUID=uid, NumberOfFrames=frames)


def _element(element: int, uid: str) -> bytes:
    value = uid.encode() + b"\0" * (len(uid) % 2)
    return struct.pack("<HH2sH", 8, element, b"UI", len(value)) + value


@cache
def _codestream(name: str) -> bytes:
    read = dcmread(_CASES / f"{name}.dcm")
    return next(generate_frames(read.PixelData, number_of_frames=int(read.NumberOfFrames)))


def _deflated(path: Path, uid: str) -> bytes:
    """A small head, flushed so that what follows does not depend on it, and always the same zeros."""
    made = _described(uid, 10_000, 1)
    made.Columns = _INFLATED // 10_000
    synthetic.write(path, made, ExplicitVRLittleEndian)
    head = path.read_bytes()[dataset_offset(path) :] + struct.pack(
        "<HH2sHI", 0x7FE0, 0x10, b"OB", 0, _INFLATED
    )
    compressor = zlib.compressobj(wbits=-15)
    content = compressor.compress(head) + compressor.flush(zlib.Z_FULL_FLUSH) + _zeros()
    return content + b"\0" * (len(content) % 2)


@cache
def _zeros() -> bytes:
    compressor = zlib.compressobj(1, wbits=-15)
    parts = [compressor.compress(bytes(1_000_000)) for _ in range(_INFLATED // 1_000_000)]
    return b"".join(parts) + compressor.flush()
