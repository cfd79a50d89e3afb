"""How much memory a rendition needs: a process of its own measures it."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dicomferry.dicom.syntaxes import EXPLICIT_BE, EXPLICIT_LE
from tests.support.images.synthetic import dataset, write

RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4."
JPEG_LS = JPEG + "80"

SIZE = """
import sys
from pathlib import Path
from dicomferry.spool.instance import RenditionSpec
from workers.transcode import transcode
transcode(Path(sys.argv[1]), Path(sys.argv[2]), RenditionSpec(sys.argv[3]), verify=sys.argv[4])
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


def sparse(path: Path, frames: int, rows: int = 512, columns: int = 512, *, noise: bool = False) -> Path:
    """A native multi-frame object whose pixels are a hole in the file, or one frame of `noise` repeated."""
    one = dataset((rows, columns), 16, NumberOfFrames=frames)
    one.add_new("PixelData", "OW", b"")
    write(path, one, EXPLICIT_LE)
    length = frames * rows * columns * 2
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(struct.pack("<I", length))
        if noise:
            frame = np.random.default_rng(5).bytes(rows * columns * 2)
            file.writelines(frame for _ in range(frames))
        file.truncate(file.seek(0, 2) if noise else file.tell() + length)
    return path


@pytest.mark.parametrize("uid", [RLE, EXPLICIT_BE])
def test_a_large_object_needs_little_memory(uid: str, tmp_path: Path) -> None:
    source = sparse(tmp_path / "in.dcm", 640, noise=True)  # 320 MiB, which no codec makes smaller
    target = tmp_path / "out.dcm"
    shown = subprocess.run(
        [sys.executable, "-c", SIZE, str(source), str(target), uid, "never"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert int(shown.stdout) < 300 << 10  # KiB
    target.unlink()


@pytest.mark.parametrize("uid", [RLE, JPEG_LS, JPEG + "201", EXPLICIT_BE])
def test_a_single_large_frame_needs_a_few_times_its_size(uid: str, tmp_path: Path) -> None:
    source = sparse(tmp_path / "in.dcm", 1, 4000, 4000)  # 31 MiB
    shown = subprocess.run(
        [sys.executable, "-c", SIZE, str(source), str(tmp_path / "out.dcm"), uid, "always"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    base = 80 << 10  # KiB, of Python and the libraries
    assert int(shown.stdout) - base < 6 * (source.stat().st_size >> 10)
