"""Which part limits at how many workers, by the results of benchmarks/pipeline.py: for docs/scaling.md.

    python benchmarks/model.py [pipeline.json] [--workers 1 2 10 100 1000] [--folder DIR]
                               [--disk-mb-s N] [--syncs-s N] [--link-gbit-s 10]

That file says what an object costs each part on this machine. What the disk carries is measured here, in a
folder on the spool's file system, unless the options say it. The link's speed is assumed. The law is in
benchmarks/report/scaling.py.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from benchmarks.machine.usage import cores
from benchmarks.measure.disk import disk_bytes_a_second, slowest, syncs_a_second, syncs_an_object
from benchmarks.peers.contenders import ferry_name, worker_counts
from benchmarks.peers.jobs import J2K_CT, PASSED_CT, RLE_CT
from benchmarks.report import scaling
from benchmarks.report.results import FERRY, Results
from dispatcher.lanes import LOOKAHEAD
from dispatcher.rendering import MAX_TRANSCODE_INSTANCES

_FOLDER = Path("/var/tmp")  # noqa: S108  a disk, where /tmp may be memory; our own folder is made in it
_PARTS = ("ingest", "dispatcher", "worker", "forwarder")  # the parts that write to the spool


def costs(results: Results, job: str, syncs: int) -> scaling.Costs:
    """What an object of a job costs in the pipeline with a worker for each core."""

    def cost(table: str, part: str) -> float:
        return results.median(job, FERRY, lambda run: run[table].get(part, 0.0)) or 0.0

    ms = {part: cost("cpu_ms", part) for part in (*_PARTS, "redis")}
    alone = results.of_stage("transcoding", job, lambda rows: rows[0]["cpu_ms"])
    spared = results.median(job, FERRY, lambda run: run["spared_bytes"]) or 0.0
    return scaling.Costs(
        ms=ms | ({"worker": alone} if alone is not None else {}),
        written=sum(cost("written_bytes", part) for part in _PARTS) - spared,
        received=results.sent_bytes[job],
        sent=results.median(job, FERRY, lambda run: run["arrived_bytes"]) or 0.0,
        syncs=syncs,
    )


def on_this_machine(results: Results, job: str, worker_rate: float) -> str:
    """A table: the measured rates by number of workers, and the rate by the law."""
    all_ms = results.median(job, FERRY, lambda run: sum(run["cpu_ms"].values()) + run["peers_cpu_ms"]) or 0.0
    rows = []
    for place, count in enumerate(worker_counts()):
        rates = (
            results.of_stage("transcoding", job, lambda found, place=place: found[place]["bare"]),
            results.of_stage("transcoding", job, lambda found, place=place: found[place]["rate"]),
            results.rate(job, ferry_name(count)),
            scaling.rate_on_shared_cores(cores(), all_ms, count, worker_rate),
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
        capacities = scaling.Capacities(
            disk=asked.disk_mb_s * 1e6 if asked.disk_mb_s else slowest(disk_bytes_a_second, folder),
            syncs=asked.syncs_s or slowest(syncs_a_second, folder),
            link=asked.link_gbit_s * 1e9,
            # Measured with objects that are sent as large as those of the jobs below.
            association=results.of_stage(
                "ingest_then_forward", PASSED_CT, lambda found: found["forward"]["rate_from_first"]
            ),
            workers_ahead=LOOKAHEAD // MAX_TRANSCODE_INSTANCES,
        )
    finally:
        shutil.rmtree(folder)
    print(
        f"The disk carries {capacities.disk / 1e6:,.0f} MB/s and {capacities.syncs:,.0f} syncs/s"
        f"{', as was said' if asked.disk_mb_s and asked.syncs_s else ''}; "
        f"links of {asked.link_gbit_s:g} Gbit/s are assumed."
    )
    for job in (J2K_CT, RLE_CT):
        if results.rate(job, FERRY) is None:
            print(f"\n{job} was not measured.")
            continue
        found = costs(results, job, syncs)
        worker_rate = 1000 / found.ms["worker"]
        print("\n" + on_this_machine(results, job, worker_rate))
        print(
            "\n" + scaling.markdown(job, worker_rate, scaling.parts(found, capacities), sorted(asked.workers))
        )


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
