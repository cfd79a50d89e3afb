"""What limits at how many workers, by what benchmarks/pipeline.py has measured: tables for docs/scaling.md.

    python benchmarks/model.py [pipeline.json] [--workers 1 2 10 100 1000] [--folder DIR]
                               [--disk-mb-s N] [--syncs-s N] [--link-gbit-s 10]

What an object costs each part is in that file, of this machine. What a disk carries is measured here, in a
folder of the file system that the spool is to be on, unless it is told; the link's speed is assumed. The law
is in scaling.py.
"""

import argparse
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import scaling
from contenders import ferry_name, worker_counts
from machine import cores
from results import FERRY, Results
from work import J2K_CT, PASSED_CT, RLE_CT

from dicomferry.spool import durable
from dicomferry.spool.instance import Instance, instance_id
from dicomferry.spool.spool import Spool
from dispatcher.lanes import LOOKAHEAD
from dispatcher.rendering import TRANSCODE_MOST

_FOLDER = Path("/var/tmp")  # noqa: S108  a disk, where /tmp may be memory; our own folder is made in it
_PARTS = ("ingest", "dispatcher", "worker", "forwarder")  # that write to the spool
_ROUNDS = 5  # of which the slowest counts: others write to the same hardware
_SECONDS = 1.0  # of syncing
_AT_ONCE = 16  # threads that sync
_WRITTEN, _PIECE = 1 << 28, 1 << 23  # bytes


def disk_bytes_a_second(folder: Path) -> float:
    """How fast one large file gets onto the disk."""
    piece, path = os.urandom(_PIECE), folder / "large"
    began = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for _ in range(_WRITTEN // _PIECE):
            file.write(piece)
        os.fsync(file.fileno())
    seconds = time.monotonic() - began
    path.unlink()
    return _WRITTEN / seconds


def syncs_a_second(folder: Path) -> float:
    """How many syncs the disk carries of many who each replace a small file durably, time and again."""
    ends, done = time.monotonic() + _SECONDS, [0] * _AT_ONCE

    def replace(number: int) -> None:
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        while time.monotonic() < ends:
            durable.replace(place / "small", bytes(300))
            done[number] += 1

    threads = [threading.Thread(target=replace, args=[number]) for number in range(_AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) * _syncs_of(lambda: durable.replace(folder / "small", b"")) / _SECONDS


def syncs_an_object(folder: Path) -> int:
    """How many there are from an object's reception to the marker of its delivery, counted."""
    spool = Spool(folder / "spool")
    spool.prepare()
    staging = spool.incoming / "one"
    staging.mkdir()
    (staging / "received.dcm").write_bytes(b"")
    fields = dict.fromkeys(Instance.__dataclass_fields__, "")
    one = Instance(**fields | {"id": instance_id("1.2", "", ("ws",)), "destinations": ("ws",)})  # type: ignore[arg-type]

    def pass_through() -> None:
        spool.commit(staging, one)
        spool.mark_delivered(one.id, "ws", {})

    return _syncs_of(pass_through)


def _slowest(measure: Callable[[Path], float], folder: Path) -> float:
    return min(measure(folder) for _ in range(_ROUNDS))


def _syncs_of(work: Callable[[], object]) -> int:
    with patch.object(os, "fsync", wraps=os.fsync) as sync:
        work()
    return sync.call_count


def costs(results: Results, job: str, syncs: int) -> scaling.Costs:
    """What an object of a job costs, in the pipeline with a worker for each core."""

    def cost(table: str, part: str) -> float:
        return results.median(job, FERRY, lambda run: run[table].get(part, 0.0)) or 0.0

    ms = {part: cost("cpu_ms", part) for part in (*_PARTS, "redis")}
    alone = results.of_alone("transcoding", job, lambda rows: rows[0]["cpu_ms"])
    spared = results.median(job, FERRY, lambda run: run["spared_bytes"]) or 0.0
    return scaling.Costs(
        ms=ms | ({"worker": alone} if alone is not None else {}),
        written=sum(cost("written_bytes", part) for part in _PARTS) - spared,
        received=results.sent_bytes[job],
        sent=results.median(job, FERRY, lambda run: run["arrived_bytes"]) or 0.0,
        syncs=syncs,
    )


def on_this_machine(results: Results, job: str, worker: float) -> str:
    """What was measured by number of workers, and what the law says of it, as a table."""
    all_ms = results.median(job, FERRY, lambda run: sum(run["cpu_ms"].values()) + run["peers_cpu_ms"]) or 0.0
    rows = []
    for place, count in enumerate(worker_counts()):
        rates = (
            results.of_alone("transcoding", job, lambda found, place=place: found[place]["bare"]),
            results.of_alone("transcoding", job, lambda found, place=place: found[place]["rate"]),
            results.rate(job, ferry_name(count)),
            scaling.on(cores(), all_ms, count, worker),
        )
        rows.append([str(count), *("" if rate is None else f"{rate:.1f}" for rate in rates)])
    return scaling.table(
        [
            f"{job}, objects/s: workers", "the bare codec in so many processes", "workers alone",
            f"whole pipeline and its peers on {cores()} cores", "the same by the law",
        ],
        rows,
    )  # fmt: skip


def main() -> None:
    """Measure the disk, and print the tables."""
    asked = _arguments()
    results = Results.read(asked.json.read_text())
    folder = Path(tempfile.mkdtemp(prefix="dicomferry-model-", dir=asked.folder))
    try:
        syncs = syncs_an_object(folder)
        site = scaling.Site(
            disk=asked.disk_mb_s * 1e6 if asked.disk_mb_s else _slowest(disk_bytes_a_second, folder),
            syncs=asked.syncs_s or _slowest(syncs_a_second, folder),
            link=asked.link_gbit_s * 1e9,
            # Of objects that go out as large as those of the jobs below.
            association=results.of_alone(
                "ingest_then_forward", PASSED_CT, lambda found: found["forward"]["rate_from_first"]
            ),
            workers_ahead=LOOKAHEAD // TRANSCODE_MOST,
        )
    finally:
        shutil.rmtree(folder)
    print(
        f"The disk carries {site.disk / 1e6:,.0f} MB/s and {site.syncs:,.0f} syncs/s"
        f"{', as was said' if asked.disk_mb_s and asked.syncs_s else ''}; "
        f"links of {asked.link_gbit_s:g} Gbit/s are assumed."
    )
    for job in (J2K_CT, RLE_CT):
        if results.rate(job, FERRY) is None:
            print(f"\n{job} was not measured.")
            continue
        found = costs(results, job, syncs)
        worker = 1000 / found.ms["worker"]
        print("\n" + on_this_machine(results, job, worker))
        print("\n" + scaling.markdown(job, worker, scaling.parts(found, site), sorted(asked.workers)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("json", type=Path, nargs="?", default=Path("pipeline.json"))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 10, 100, 1000])
    parser.add_argument("--disk-mb-s", type=float, help="of the spool's disk, instead of measuring it")
    parser.add_argument("--syncs-s", type=float, help="that it carries, instead of measuring them")
    parser.add_argument("--link-gbit-s", type=float, default=10.0, help="of each host, in each direction")
    parser.add_argument("--folder", type=Path, default=_FOLDER, help="on the disk that is measured")
    return parser.parse_args()


if __name__ == "__main__":
    main()
