"""How long a dispatcher takes to read a spool at start, by the number of pending instances.

    python -m benchmarks.recovery [--instances 1000 10000 100000] [--folder DIR]

The spools are written without syncing, read from the page cache, and deleted.
"""

import argparse
import itertools
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dicomferry.dicom.part10 import file_header
from dicomferry.settings import Destination
from dicomferry.spool import records
from dicomferry.spool.instance import Instance, instance_id
from dicomferry.spool.places import RECORD
from dicomferry.spool.spool import Spool
from dispatcher.commands import Found, Note
from dispatcher.history import History, Row
from dispatcher.manager import QueueManager
from dispatcher.recovery import SpoolReader

LANES = 20


def fill(spool: Spool, count: int) -> None:
    """Make `count` pending instances, each for one of `LANES` destinations."""
    spool.prepare()
    for number in range(count):
        uid = f"1.2.826.0.1.3680043.8.498.{number}"
        to = (f"ws{number % LANES}",)
        instance = Instance(
            id=instance_id(uid, "", to), sop_class_uid="1.2.840.10008.5.1.4.1.1.2", sop_instance_uid=uid,
            study_instance_uid=f"1.2.826.0.1.3680043.8.498.9.{number // 200}", series_instance_uid="1.2.3",
            modality="CT", transfer_syntax_uid="1.2.840.10008.1.2.4.90", calling_ae_title="PACS",
            called_ae_title="FERRY", peer="127.0.0.1", received_at=float(number), size=200_000, digest="",
            route="route 1", destinations=to,
        )  # fmt: skip
        record = records.fitted({"schema": RECORD} | instance.to_record())
        assert record is not None
        spool.received(instance.id).write_bytes(file_header("1.2", "1.2", "1.2", record))


def read(spool: Spool) -> float:
    """Seconds until the queue manager knows all instances and the history has its lines."""
    numbers = itertools.count()
    manager = QueueManager(
        [Destination(name=f"ws{n}", title="WS", host="127.0.0.1", port=104) for n in range(LANES)],
        boot="boot",
        accepted={},
        new_batch_id=lambda: f"{next(numbers)}",
    )
    history = History(spool.history, keep=90 * 86_400.0)
    begun = time.perf_counter()
    for state in SpoolReader(spool).read_all(manager.tracks):
        manager.handle(Found(state), time.time())
        history.write(
            Row(
                c.at or 0.0, c.instance, c.sop_instance_uid, c.what, c.destination, c.words, c.study, c.series
            )
            for c in manager.take_commands()
            if isinstance(c, Note)
        )
    took = time.perf_counter() - begun
    history.close()
    return took


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instances", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where spools are made; the temporary folder by default")
    asked = parser.parse_args()
    table = Table("pending instances", "first start, s", "again, s", "us an instance")
    for count in asked.instances:
        folder = Path(tempfile.mkdtemp(prefix="dicomferry-", dir=asked.folder))
        try:
            spool = Spool(folder)
            fill(spool, count)
            first, again = read(spool), read(spool)
        finally:
            shutil.rmtree(folder)
        table.add_row(str(count), f"{first:.2f}", f"{again:.2f}", f"{1e6 * again / count:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
