"""What is on disk, in the order in which it is said: seen in the system calls of the running parts.

What has not been synced may be gone after a power cut, and a rename that was not synced may be undone. How
ingest keeps to that is in contract/test_ingest_association.py.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dicomferry.batches import DELIVER, DELIVER_QUEUE, DeliverBatch, Parcel, new_batch_id
from dicomferry.broker import celery_app
from dicomferry.settings import load
from dicomferry.syntaxes import EXPLICIT_LE
from tests.support.costs import traced
from tests.support.images import shipped
from tests.support.peers import pynetdicom_scp
from tests.support.processes import wait_until
from tests.support.redis import private_redis
from tests.support.spools import a_spool, put

COUNT = 3
SHOWN = ("-yy", "-s", "4096", "-e", "trace=fsync,rename,sendto,recvfrom,openat")
CONFIGURATION = """
broker = "{broker}"
spool = "spool"
[[ae]]
title = "FERRY"
[[destination]]
name = "ws"
title = "WS1"
host = "127.0.0.1"
port = {port}
[[route]]
to = ["ws"]
"""


def test_a_delivery_is_noted_for_good_after_its_answer_and_before_anybody_is_told(tmp_path: Path) -> None:
    spool = a_spool(tmp_path / "spool")
    trace, config = tmp_path / "trace", tmp_path / "dicomferry.toml"
    with private_redis() as broker, pynetdicom_scp([EXPLICIT_LE]) as seen:
        config.write_text(CONFIGURATION.format(broker=broker, port=seen.port))
        instances = [put(spool, shipped("CT_small.dcm"), "ws") for _ in range(COUNT)]
        batch = DeliverBatch(
            new_batch_id(), "boot", "ws", tuple(Parcel(i.id, None, "as received") for i in instances)
        )
        spool.leases.make(batch.id)
        app = celery_app(load(config))
        app.send_task(DELIVER, kwargs=batch.to_message(), task_id=batch.id, queue=DELIVER_QUEUE)
        app.close()
        with traced(trace, "forwarder", config, SHOWN):
            wait_until(lambda: spool.leases.state(batch.id) == "gone", "the batch to be finished", 60)
        assert len(seen.datasets) == COUNT
    calls = list(_calls(trace))
    for instance in instances:
        folder, marker = rf"\S*/instances/\w\w/{instance.id}", r"delivered-ws\.json"
        temporary = rf"{folder}/\.{marker}\.[\d.]+\.tmp"
        steps = {
            "it is opened to be sent": rf'openat\(.*"{folder}/received\.dcm"',
            "the answer is read": rf'recvfrom\(\d+<TCP:\[\S+:{seen.port}\]>, "\\4\\0',
            "the marker is synced": rf"fsync\(\d+<{temporary}>\) += 0",
            "the marker appears": rf'rename\("{temporary}", "{folder}/{marker}"\) += 0',
            "its name is synced": rf"fsync\(\d+<{folder}>\) += 0",
            "the dispatcher is told": rf"sendto\(.*Delivered.*{instance.id}",
        }
        at = -1
        for what, pattern in steps.items():
            found = [i for i, call in enumerate(calls) if re.search(pattern, call)]
            assert found, f"{what}: never"
            if at < 0:
                at = found[-1]  # before, only its header was looked at
            elif what == "the answer is read":
                at = next(i for i in found if i > at)
            else:
                assert found[0] > at, f"{what}: too early"
                at = found[0]


def _calls(trace: Path) -> Iterator[str]:
    """The calls, in one line each, in the order in which they ended; what is sent, in which it began."""
    begun: dict[str, str] = {}
    for line in trace.read_text().splitlines():
        pid, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            begun[pid] = call.removesuffix("<unfinished ...>").rstrip()
            if begun[pid].lstrip().startswith("sendto"):
                yield begun[pid]
        elif "resumed>" in call:
            yield begun.pop(pid, "") + call.partition("resumed>")[2]
        else:
            yield call
