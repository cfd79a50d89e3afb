"""Small objects that cost a transcoder time, memory or disk out of proportion: refused, or held to a budget.

The time of a row is that of the processor, in a child whose memory and time are limited as a worker's are.
"""

import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomferry.ceilings import Ceilings
from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.spool.instance import RenditionSpec
from tests.support.images.synthetic import encapsulated
from tests.support.running.mounts import small_file_system
from workers import limits
from workers.room import Room
from workers.transcode import transcode

CASES = Path(__file__).parents[1] / "data/cases/hostile"
RLE, J2K = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
DISK = 256 << 20
MARGIN = 1 << 20  # bytes: folders
STRICT = replace(Ceilings(), largest_ratio=300)
LAX = replace(Ceilings(), largest_ratio=10**9)  # an operator who believes in black images


def case(name: str) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copy(CASES / name, folder))


def many_black_frames(folder: Path) -> Path:
    """Frames of 4 MB, each harmless by itself."""
    made = dcmread(CASES / "j2k_black_62_frames_4_GB.dcm")
    codestream = (CASES.parents[1] / "codestreams/blank_2048.j2k").read_bytes()
    made.Rows = made.Columns = 2048
    del made["PixelData"]
    return encapsulated(folder / "in.dcm", made, J2K, [codestream] * int(made.NumberOfFrames))


@dataclass(frozen=True)
class Row:
    """A hostile object, and what is said of it."""

    make: Callable[[Path], Path]
    said: str
    ceilings: Ceilings = Ceilings()
    target: str = EXPLICIT_LE
    most_mb: int | None = None
    at_most: int = 0  # bytes of the disk that are taken meanwhile


LAYERS, BLACK = case("j2k_65535_layers_8_frames.dcm"), case("j2k_black_62_frames_4_GB.dcm")
DEFLATED = case("deflated_400_MB.dcm")
RATIO, BUDGET = (
    r" of \d+ bytes .* raise \[worker\] largest_ratio",
    r"TooLarge: .* raise \[worker\] renditions_mb",
)
ROWS = {
    "layers": Row(LAYERS, "Permanent: .* announces 89455275 packets and has 118 bytes"),
    "layers to RLE": Row(LAYERS, "Permanent: .* announces 89455275 packets", target=RLE),
    "black": Row(BLACK, "Permanent: an image" + RATIO),
    "black to RLE": Row(BLACK, "Permanent: an image" + RATIO, target=RLE),
    "black believed": Row(BLACK, "TooLarge: .* min_free_mb", LAX),
    "black in budget": Row(BLACK, BUDGET, LAX, most_mb=100),
    "black frames": Row(many_black_frames, "Permanent: an image" + RATIO),
    "black frames believed": Row(many_black_frames, "TooLarge: .* min_free_mb", LAX),
    "deflated": Row(DEFLATED, "TooLarge: .* min_free_mb", at_most=140 << 20),
    "deflated in budget": Row(DEFLATED, BUDGET, most_mb=60, at_most=90 << 20),
    "deflated ratio": Row(DEFLATED, "Permanent: a deflated data set" + RATIO, STRICT, at_most=140 << 20),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", DISK) as folder:
        yield folder


class Watching(Room):
    """Room that notes how much of the disk was taken whenever it was asked."""

    taken = 0

    def check(self, more: int, held: int = 0, *, exactly: bool = False) -> None:
        found = os.statvfs(self._folder)
        self.taken = max(self.taken, (found.f_blocks - found.f_bavail) * found.f_frsize)
        super().check(more, held, exactly=exactly)


def outcome(source: Path, target: Path, row: Row, room: Room) -> str:
    try:
        with limits.deadline(limits.seconds_for(source.stat().st_size)):
            transcode(source, target, RenditionSpec(row.target), ceilings=row.ceilings, disk=room)
    except Exception as error:  # noqa: BLE001  whatever it is, it is said
        return f"{type(error).__name__}: {error}"
    return "made"


@pytest.mark.parametrize("name", ROWS)
def test_what_is_small_and_hostile_costs_little(name: str, disk: Path, tmp_path: Path) -> None:
    row = ROWS[name]
    source = row.make(tmp_path)
    renditions = disk / "renditions"
    target = renditions / "boot" / "instance" / "out.dcm"
    target.parent.mkdir(parents=True)
    said = tmp_path / "said"
    pid = os.fork()
    if pid == 0:
        limits.limit_process(1024)
        room = Watching(renditions, shared=True, reserve_mb=50, most_mb=row.most_mb)
        words = outcome(source, target, row, room)
        seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        said.write_text(f"{seconds}\n{room.taken}\n{words}")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    seconds, taken, words = said.read_text().split("\n", 2)
    assert re.match(row.said, words)
    assert float(seconds) < 60  # 2 or so; the first of them took 90
    assert int(taken) <= row.at_most + MARGIN
    assert list(target.parent.iterdir()) == [], "nothing of it is left"


def test_what_never_fits_is_known_even_while_others_take_the_room(disk: Path, tmp_path: Path) -> None:
    target = disk / "renditions" / "boot" / "instance" / "out.dcm"
    target.parent.mkdir(parents=True)
    (target.parent / "other.dcm").write_bytes(bytes(80 << 20))
    room = Room(disk / "renditions", shared=True, reserve_mb=50)
    row = ROWS["deflated"]
    assert re.match(r"TooLarge: a rendition of 400 MB", outcome(row.make(tmp_path), target, row, room))
