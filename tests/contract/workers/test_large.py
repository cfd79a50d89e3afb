"""Pixel data that 32 bits cannot number, for real: 15 GB of disk, so run only when asked for (-m large)."""

import hashlib
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.pixels import pixel_array

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from tests.support.images.synthetic import dataset, write

pytestmark = [pytest.mark.large, pytest.mark.timeout(3600)]

RLE = "1.2.840.10008.1.2.5"
SIDE = 1024
FRAME = SIDE * SIDE * 2
FRAMES = 2047  # the most of this size that a native element can hold: RLE makes noise longer than 4 GiB
MAX_MB = 300  # of private memory, and of all resident memory: pages of the files that it maps, too
RUN = """
import sys
from pathlib import Path
from dicomferry.spool.instance import RenditionSpec
from workers import limits
from workers.transcode import transcode
limits.limit_process(int(sys.argv[4]))
transcode(Path(sys.argv[1]), Path(sys.argv[2]), RenditionSpec(sys.argv[3]))
status = Path("/proc/self/status").read_text()
print(*(" ".join(x.split()) for x in status.splitlines() if x.startswith(("VmHWM", "Rss", "VmData"))))
"""


def frame(number: int, noise: bytes) -> bytes:
    """Noise that is another for each frame."""
    at = number * 7 % FRAME
    return struct.pack("<I", number) + (noise[at:] + noise[:at])[4:]


@pytest.fixture
def noise() -> bytes:
    return np.random.default_rng(4).bytes(FRAME)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    if shutil.disk_usage(tmp_path).free < 20 << 30:
        pytest.skip("less than 20 GiB of free disk")
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()


def transcode(source: Path, target: Path, uid: str) -> None:
    """In a process that can have no more than MAX_MB."""
    words = [sys.executable, "-c", RUN, str(source), str(target), uid, str(MAX_MB)]
    began = time.monotonic()
    shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    high_water = int(shown.split("VmHWM:")[1].split()[0]) >> 10
    print(f"{uid}: {time.monotonic() - began:.0f} s, {target.stat().st_size} bytes, {shown.strip()}")
    assert high_water < MAX_MB, f"{high_water} MiB resident at most"


def pixel_digest(path: Path) -> str:
    """Of the last FRAME * FRAMES bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(-FRAME * FRAMES, 2)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def test_more_than_4_gib_of_fragments_get_an_extended_offset_table_in_little_memory(
    folder: Path, noise: bytes
) -> None:
    one = dataset((SIDE, SIDE), 16, NumberOfFrames=FRAMES)
    one.add_new("PixelData", "OW", b"")
    native = write(folder / "native.dcm", one, EXPLICIT_LE)
    with native.open("r+b") as file:
        file.seek(-4, 2)
        file.write(struct.pack("<I", FRAMES * FRAME))
        file.writelines(frame(number, noise) for number in range(FRAMES))
    encapsulated = folder / "rle.dcm"
    transcode(native, encapsulated, RLE)
    header = dcmread(encapsulated, stop_before_pixels=True)
    offsets = np.frombuffer(header.ExtendedOffsetTable, "<u8")
    lengths = np.frombuffer(header.ExtendedOffsetTableLengths, "<u8")
    assert len(offsets) == len(lengths) == FRAMES
    assert offsets[-1] > 0xFFFFFFFF
    with encapsulated.open("rb") as file:
        start = file.read(1 << 20).rindex(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
        file.seek(start)
        assert file.read(8) == b"\xfe\xff\x00\xe0\0\0\0\0"  # the Basic Offset Table is empty
        for offset, length in zip(offsets.tolist(), lengths.tolist(), strict=True):
            file.seek(start + 8 + offset)
            assert struct.unpack("<HHI", file.read(8)) == (0xFFFE, 0xE000, length)
        file.seek(length, 1)
        assert file.read() == b"\xfe\xff\xdd\xe0\0\0\0\0"
    for number in (0, 1, FRAMES // 2, FRAMES - 1):
        read = pixel_array(encapsulated, index=number, decoding_plugin="pydicom")
        assert read.tobytes() == frame(number, noise)

    back = folder / "back.dcm"
    transcode(encapsulated, back, EXPLICIT_LE)
    assert pixel_digest(back) == pixel_digest(native)
