"""Seconds that the engine, the bare codec and the tools need for one image, and for a folder of them."""

import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

from benchmarks.peers.bare import DECODE, ENCODE
from benchmarks.peers.images import KINDS, Kind, frames_of, write
from benchmarks.peers.jobs import UIDS
from benchmarks.peers.tools import DCMTK_DECODE, DCMTK_ENCODE, GDCM_DECODE, GDCM_ENCODE, tool_call
from dicomferry.dicom.syntaxes import BY_UID, EXPLICIT_LE
from dicomferry.spool.instance import RenditionSpec
from workers.codecs.encoders import Quality, encode, refusal
from workers.transcode import transcode

_SHORTEST = 0.02  # seconds that one measurement in this process takes at least
_WAVELETS = ("JPEG2000Lossless", "JPEG2000")

Call = Callable[[], object]


@dataclass
class Row:
    """The seconds that each contender needed for one image in one syntax, in one direction."""

    image: str
    syntax: str
    direction: str
    native_bytes: int
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def rate(self, who: str) -> float | None:
        """MB/s."""
        found = self.seconds.get(who)
        return self.native_bytes / statistics.median(found) / 1e6 if found else None

    def ratio(self, who: str) -> float | None:
        """How many times as long as a contender the engine takes: the median of the rounds' ratios."""
        theirs, ours = self.seconds.get(who), self.seconds.get("dicomferry")
        return (
            statistics.median(o / t for o, t in zip(ours, theirs, strict=True)) if theirs and ours else None
        )

    @property
    def misses(self) -> list[str]:
        """The goals that the engine misses, in words."""
        found = []
        goal = 1.15 if self.syntax in _WAVELETS else 2.0
        over = self.ratio("with files")
        if over and over > goal:
            found.append(f"{over:.2f} x bare with files")
        ours = self.rate("dicomferry") or 0
        found += [tool for tool in ("gdcm", "dcmtk") if (self.rate(tool) or 0) > ours]
        return found


def contenders(kind: Kind, keyword: str, work: Path) -> Iterator[tuple[Row, dict[str, Call]]]:
    """The contenders' calls for one image in one syntax, in each direction that exists."""
    uid, image = UIDS[keyword], kind.described
    cells = frames_of(kind)
    native = write(work / "native.dcm", kind, EXPLICIT_LE, [f.tobytes() for f in cells], image.photometric)
    encoded, target = work / "encoded.dcm", work / "target.dcm"
    to_native = RenditionSpec(EXPLICIT_LE, "as-encoded")
    to_syntax = RenditionSpec(uid, "as-encoded", **_settings(keyword))
    streams: list[bytes] = []
    if BY_UID[uid].native:
        transcode(native, encoded, to_syntax)
    else:
        if refusal(uid, image):
            return
        made = [encode(uid, frame, image, Quality()) for frame in cells]
        streams = [one.codestream for one in made]
        write(encoded, kind, uid, streams, made[0].photometric)
    bare = (lambda: [DECODE[keyword](s, image) for s in streams]) if keyword in DECODE else None
    calls: dict[str, Call | None] = {
        "dicomferry": lambda: transcode(encoded, target, to_native),
        "bare": bare,
        "with files": bare and _with_files(bare, encoded, native, target),
        "gdcm": tool_call(GDCM_DECODE[keyword], encoded, target) if keyword in GDCM_DECODE else None,
        "dcmtk": tool_call(DCMTK_DECODE[keyword], encoded, target) if keyword in DCMTK_DECODE else None,
    }
    size = image.frame_length * image.frames
    yield Row(kind.name, keyword, "decode", size), {who: call for who, call in calls.items() if call}
    if not BY_UID[uid].encoded:
        return
    bare = (lambda: [ENCODE[keyword](f, image) for f in cells]) if keyword in ENCODE else None
    calls = {
        "dicomferry": lambda: transcode(native, target, to_syntax),
        "verified": None
        if BY_UID[uid].native
        else lambda: transcode(native, target, to_syntax, verify="always"),
        "bare": bare,
        "with files": bare and _with_files(bare, native, encoded, target),
        "gdcm": tool_call(GDCM_ENCODE[keyword], native, target) if keyword in GDCM_ENCODE else None,
        "dcmtk": tool_call(DCMTK_ENCODE[keyword], native, target) if keyword in DCMTK_ENCODE else None,
    }
    yield Row(kind.name, keyword, "encode", size), {who: call for who, call in calls.items() if call}


def _with_files(bare: Call, source: Path, made: Path, target: Path) -> Call:
    """A call that reads `source`, does the bare call, and writes the bytes of `made` to `target`."""
    content, beside = made.read_bytes(), target.with_suffix(".part")

    def call() -> None:
        source.read_bytes()
        bare()
        beside.write_bytes(content)
        beside.rename(target)

    return call


def _settings(keyword: str) -> dict[str, float]:
    if keyword in {"JPEGBaseline8Bit", "JPEGExtended12Bit"}:
        return {"quality": 90}
    return {"ratio": 10.0} if keyword == "JPEG2000" else {}


def measure(row: Row, calls: dict[str, Call], rounds: int) -> None:
    """Add the seconds of each round to `row`; the contenders take turns to be first."""
    calls_a_measurement = {who: _calls_a_measurement(who, call) for who, call in calls.items()}
    order = list(calls)
    for number in range(rounds):
        for who in order[number % len(order) :] + order[: number % len(order)]:
            began = _processor_time()
            for _ in range(calls_a_measurement[who]):
                calls[who]()
            row.seconds.setdefault(who, []).append((_processor_time() - began) / calls_a_measurement[who])


def _processor_time() -> float:
    """Seconds of processor time of this process and of the tools that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _calls_a_measurement(who: str, call: Call) -> int:
    """How often to call in one measurement. The call that finds this out is also the warm-up."""
    began = time.perf_counter()
    call()
    took = time.perf_counter() - began
    return 1 if who in {"gdcm", "dcmtk"} else max(1, round(_SHORTEST / took))


def folders(work: Path, files: int, jobs: int) -> Iterator[Row]:
    """A folder of CT images: the `transcode` command beside a loop of a tool, both on all cores."""
    kind = KINDS[0]
    cells = frames_of(kind)[0]
    for keyword, tool, words in (
        ("JPEG2000Lossless", "gdcm", "gdcmconv --raw"),
        ("JPEGLosslessSV1", "dcmtk", "/usr/bin/dcmdjpeg"),
        ("JPEGLosslessSV1", "gdcm", "gdcmconv --raw"),
    ):
        source = work / "folder"
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir()
        made = encode(UIDS[keyword], cells, kind.described, Quality())
        first = write(work / "one.dcm", kind, UIDS[keyword], [made.codestream], made.photometric)
        dataset = dcmread(first)
        for number in range(files):
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            dataset.save_as(source / f"{number}.dcm")
        row = Row(f"folder of {files} CT 512, {jobs} cores", keyword, "decode", cells.nbytes * files)
        loop = f"ls folder | xargs -P {jobs} -I@ {words} folder/@ out/@"
        ours = [
            sys.executable,
            "-P",
            "-m",
            "gateway.cli",
            "transcode",
            "folder",
            "out",
            "--to",
            EXPLICIT_LE,
        ]
        for _ in range(3):
            for who, command in (("dicomferry", ours), (tool, ["sh", "-c", loop])):
                shutil.rmtree(work / "out", ignore_errors=True)
                (work / "out").mkdir()
                began = time.perf_counter()
                subprocess.run(command, cwd=work, check=True, capture_output=True)
                row.seconds.setdefault(who, []).append(time.perf_counter() - began)
                assert len(list((work / "out").iterdir())) == files, who
        yield row
