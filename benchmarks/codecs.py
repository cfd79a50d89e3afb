"""How fast dicomferry's engine is, beside the bare call of the same library, GDCM's and DCMTK's tools.

    python benchmarks/codecs.py [--rounds 5] [--only JPEG2000Lossless ...] [--images CT ...] [--json FILE]

MB/s are native bytes by seconds of one core, since every contender uses one core; for folders, by seconds of
the clock. Decoding is to Explicit VR Little Endian, encoding from it. All contenders take turns, so that a
slow moment of the machine hits all of them; medians are shown. The time of a tool includes its start, for
which its users wait too; with many frames the start hardly counts. Files are in memory if the machine has
such a file system.

"bare" is the codec's call and nothing else. "with files" adds the least that files cost: the source is read
in one piece, ready bytes are written and renamed to the target. The goals compare with "with files", since
for a small image the file is most of the work.
"""

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.measure.codecs import Row, contenders, folders, measure
from benchmarks.peers.bare import DECODE
from benchmarks.peers.images import KINDS
from benchmarks.peers.tools import DCMTK_DECODE
from benchmarks.report.codecs import show


def main() -> None:
    """Measure, print the table, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="keywords of transfer syntaxes")
    parser.add_argument("--images", nargs="*", default=[], help="beginnings of image names")
    parser.add_argument("--files", type=int, default=200, help="of the folder run; 0 leaves it out")
    parser.add_argument("--json", type=Path, default=Path("codecs.json"))
    asked = parser.parse_args()
    keywords = asked.only or [*dict.fromkeys([*DECODE, *DCMTK_DECODE])]
    kinds = [k for k in KINDS if not asked.images or k.name.startswith(tuple(asked.images))]
    memory = Path("/dev/shm")  # noqa: S108  a file system in memory
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for kind in kinds:
            for keyword in keywords:
                for row, calls in contenders(kind, keyword, Path(folder)):
                    measure(row, calls, asked.rounds)
                    rows.append(row)
                    rates = ", ".join(f"{who} {row.rate(who):.1f}" for who in row.seconds)
                    bare, files = row.ratio("bare"), row.ratio("with files")
                    over = f"; {bare:.2f} x bare, {files:.2f} x with files" if bare and files else ""
                    print(f"{row.image}: {row.syntax} {row.direction}: {rates}{over}", file=sys.stderr)
        if asked.files:
            rows += folders(Path(folder), asked.files, os.cpu_count() or 1)
    show(rows)
    content = [
        asdict(row)
        | {"over_bare": row.ratio("bare"), "over_with_files": row.ratio("with files"), "misses": row.misses}
        for row in rows
    ]
    asked.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
