"""How fast dicomferry's engine is, beside the bare call of the same library, GDCM's and DCMTK's tools.

    python benchmarks/codecs.py [--rounds 5] [--only JPEG2000Lossless ...] [--images CT ...] [--json FILE]

MB/s count native bytes and seconds of one core, since every contender uses one; of the folders alone, seconds
of the clock. What is decoded becomes Explicit VR Little Endian, what is encoded was that. All take turns, so
that a slow moment of the machine hits all of them; medians are shown. A tool's start is part
of what its users wait for; the images of many frames show it without. Files are in memory where the machine
has such a file system.

"bare" is the codec's call and nothing else; "with files" is that and the least that a file costs: the source
is read at once, bytes that are there already are written and renamed to the target. The goals
are over the latter: of a small image, the file is most of the work.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bare import DECODE, ENCODE
from images import EXPLICIT_LE, KINDS, Kind, frames_of, write
from pydicom import dcmread
from pydicom.uid import generate_uid
from rich.console import Console
from rich.table import Table

from dicomferry.dicom.syntaxes import BY_UID, TABLE
from dicomferry.spool.instance import RenditionSpec
from workers.codecs.encoders import Quality, encode, refusal
from workers.transcode import transcode

_SHORTEST = 0.02  # seconds that one measurement in this process takes at least
_BY_KEYWORD = {syntax.keyword: syntax.uid for syntax in TABLE}
_WAVELETS = ("JPEG2000Lossless", "JPEG2000")

Call = Callable[[], object]


# Debian's folder first: pynetdicom and others put tools of the same names into a venv.
_DCMTK_DECODE = {
    "RLELossless": ("dcmdrle",),
    "JPEGBaseline8Bit": ("dcmdjpeg", "+cn"),
    "JPEGExtended12Bit": ("dcmdjpeg",),
    "JPEGLosslessSV1": ("dcmdjpeg",),
    "JPEGLSLossless": ("dcmdjpls",),
    "DeflatedExplicitVRLittleEndian": ("dcmconv", "+te"),
    "ExplicitVRBigEndian": ("dcmconv", "+te"),
    "ImplicitVRLittleEndian": ("dcmconv", "+te"),
}
_DCMTK_ENCODE = {
    "RLELossless": ("dcmcrle",),
    "JPEGBaseline8Bit": ("dcmcjpeg", "+eb"),
    "JPEGExtended12Bit": ("dcmcjpeg", "+ee"),
    "JPEGLosslessSV1": ("dcmcjpeg", "+e1"),
    "JPEGLSLossless": ("dcmcjpls", "+el"),
    "DeflatedExplicitVRLittleEndian": ("dcmconv", "+td"),
    "ExplicitVRBigEndian": ("dcmconv", "+tb"),
    "ImplicitVRLittleEndian": ("dcmconv", "+ti"),
}
_GDCM_DECODE = dict.fromkeys(
    ("RLELossless", "JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEGLosslessSV1", "JPEGLSLossless",
     "JPEG2000Lossless", "JPEG2000"),
    ("gdcmconv", "--raw"),
)  # fmt: skip
_GDCM_ENCODE = {
    "RLELossless": ("gdcmconv", "--rle"),
    "JPEGBaseline8Bit": ("gdcmconv", "--jpeg", "--lossy", "-q", "90"),
    "JPEGLosslessSV1": ("gdcmconv", "--jpeg"),
    "JPEGLSLossless": ("gdcmconv", "--jpegls"),
    "JPEG2000Lossless": ("gdcmconv", "--j2k"),
    "ImplicitVRLittleEndian": ("gdcmconv", "--implicit"),
}


@dataclass
class Row:
    """What was measured of one image in one syntax, in one direction: seconds by who did it."""

    image: str
    syntax: str
    direction: str
    native_bytes: int
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def rate(self, who: str) -> float | None:
        """MB/s."""
        found = self.seconds.get(who)
        return self.native_bytes / statistics.median(found) / 1e6 if found else None

    def over(self, who: str) -> float | None:
        """How many times as long as another the engine takes; round by round, their median."""
        theirs, ours = self.seconds.get(who), self.seconds.get("dicomferry")
        return (
            statistics.median(o / t for o, t in zip(ours, theirs, strict=True)) if theirs and ours else None
        )

    @property
    def misses(self) -> list[str]:
        """Which goals are missed."""
        found = []
        goal = 1.15 if self.syntax in _WAVELETS else 2.0
        over = self.over("with files")
        if over and over > goal:
            found.append(f"{over:.2f} x bare with files")
        ours = self.rate("dicomferry") or 0
        found += [tool for tool in ("gdcm", "dcmtk") if (self.rate(tool) or 0) > ours]
        return found


def _tool(words: tuple[str, ...], source: Path, target: Path) -> Call | None:
    program = shutil.which(words[0], path="/usr/bin:/usr/local/bin")
    if program is None:
        return None
    command = [program, *words[1:], str(source), str(target)]
    target.unlink(missing_ok=True)
    if subprocess.run(command, check=False, capture_output=True).returncode or not target.exists():
        return None  # it cannot do this
    return lambda: subprocess.run(command, check=True, capture_output=True)


def _contenders(kind: Kind, keyword: str, work: Path) -> Iterator[tuple[Row, dict[str, Call]]]:
    """Both directions of one image in one syntax, as far as they exist."""
    uid, image = _BY_KEYWORD[keyword], kind.described
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
        "gdcm": _tool(_GDCM_DECODE[keyword], encoded, target) if keyword in _GDCM_DECODE else None,
        "dcmtk": _tool(_DCMTK_DECODE[keyword], encoded, target) if keyword in _DCMTK_DECODE else None,
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
        "gdcm": _tool(_GDCM_ENCODE[keyword], native, target) if keyword in _GDCM_ENCODE else None,
        "dcmtk": _tool(_DCMTK_ENCODE[keyword], native, target) if keyword in _DCMTK_ENCODE else None,
    }
    yield Row(kind.name, keyword, "encode", size), {who: call for who, call in calls.items() if call}


def _with_files(bare: Call, source: Path, made: Path, target: Path) -> Call:
    """The bare call between the reading of `source` and the writing of what stands at `made`."""
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


def _measure(row: Row, calls: dict[str, Call], rounds: int) -> None:
    times = {who: _times(who, call) for who, call in calls.items()}
    order = list(calls)
    for number in range(rounds):
        for who in order[number % len(order) :] + order[: number % len(order)]:
            began = _processor_time()
            for _ in range(times[who]):
                calls[who]()
            row.seconds.setdefault(who, []).append((_processor_time() - began) / times[who])


def _processor_time() -> float:
    """Seconds of this process and of the tools that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _times(who: str, call: Call) -> int:
    """How often to call within one measurement; that once for this is also the warm-up."""
    began = time.perf_counter()
    call()
    took = time.perf_counter() - began
    return 1 if who in {"gdcm", "dcmtk"} else max(1, round(_SHORTEST / took))


def _folders(work: Path, files: int, jobs: int) -> Iterator[Row]:
    """A folder of CT images: the whole command beside a tool for each file, both on all cores."""
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
        made = encode(_BY_KEYWORD[keyword], cells, kind.described, Quality())
        first = write(work / "one.dcm", kind, _BY_KEYWORD[keyword], [made.codestream], made.photometric)
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


def _show(rows: list[Row]) -> None:
    table = Table(
        "image",
        "syntax",
        "",
        "dicomferry",
        "verified",
        "bare",
        "x bare",
        "x with files",
        "gdcm",
        "dcmtk",
        "misses",
    )
    for row in rows:
        rates = [row.rate(who) for who in ("dicomferry", "verified", "bare", "gdcm", "dcmtk")]
        words = [f"{rate:.0f}" if rate is not None else "" for rate in rates]
        over = [f"{times:.2f}" if (times := row.over(who)) else "" for who in ("bare", "with files")]
        misses = ", ".join(row.misses)
        table.add_row(row.image, row.syntax, row.direction, *words[:3], *over, *words[3:], misses)
    console = Console()
    console = console if console.is_terminal else Console(width=150)
    console.print(table)
    missed = sum(bool(row.misses) for row in rows)
    console.print(f"MB/s of native bytes, medians. {len(rows)} rows, {missed} miss a goal.")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="keywords of transfer syntaxes")
    parser.add_argument("--images", nargs="*", default=[], help="beginnings of image names")
    parser.add_argument("--files", type=int, default=200, help="of the folder run; 0 leaves it out")
    parser.add_argument("--json", type=Path, default=Path("codecs.json"))
    asked = parser.parse_args()
    keywords = asked.only or [*dict.fromkeys([*DECODE, *_DCMTK_DECODE])]
    kinds = [k for k in KINDS if not asked.images or k.name.startswith(tuple(asked.images))]
    memory = Path("/dev/shm")  # noqa: S108  a file system in memory
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for kind in kinds:
            for keyword in keywords:
                for row, calls in _contenders(kind, keyword, Path(folder)):
                    _measure(row, calls, asked.rounds)
                    rows.append(row)
                    rates = ", ".join(f"{who} {row.rate(who):.1f}" for who in row.seconds)
                    bare, files = row.over("bare"), row.over("with files")
                    over = f"; {bare:.2f} x bare, {files:.2f} x with files" if bare and files else ""
                    print(f"{row.image}: {row.syntax} {row.direction}: {rates}{over}", file=sys.stderr)
        if asked.files:
            rows += _folders(Path(folder), asked.files, os.cpu_count() or 1)
    _show(rows)
    content = [
        asdict(row)
        | {"over_bare": row.over("bare"), "over_with_files": row.over("with files"), "misses": row.misses}
        for row in rows
    ]
    asked.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
