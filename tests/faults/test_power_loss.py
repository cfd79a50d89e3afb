"""What is on disk, in the order in which it is said: seen in the system calls of the running parts.

What has not been synced may be gone after a power cut, and a rename that was not synced may be undone. How
ingest keeps to that is in contract/test_ingest_association.py.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from dicomferry.batches import DELIVER, DELIVER_QUEUE, DeliverBatch, Parcel, new_batch_id
from dicomferry.broker import celery_app
from dicomferry.settings import load
from dicomferry.syntaxes import EXPLICIT_LE
from tests.support.images import shipped
from tests.support.peers import pynetdicom_scp
from tests.support.processes import alive, wait_until
from tests.support.redis import private_redis
from tests.support.services import program
from tests.support.spools import a_spool, put

COUNT = 3
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
    strace = program("strace")
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
        _trace_forwarder(strace, config, trace, until=lambda: spool.leases.state(batch.id) == "gone")
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
            begun[pid] = call.removesuffix("<unfinished ...>")
            if begun[pid].lstrip().startswith("sendto"):
                yield begun[pid]
        elif "resumed>" in call:
            yield begun.pop(pid, "") + call.partition("resumed>")[2]
        else:
            yield call


def _trace_forwarder(strace: str, config: Path, trace: Path, until: Callable[[], bool]) -> None:
    command = [
        strace, "-f", "-yy", "-s", "4096", "-e", "trace=fsync,rename,sendto,recvfrom,openat",
        "-o", str(trace),
        sys.executable, "-P", "-m", "dicomferry.cli", "forwarder", "--config", str(config),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children: list[int] = []
    try:
        wait_until(until, "the batch to be finished", 60)
        # strace passes no signal on: its child is the one to stop.
        task = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        children = [int(pid) for pid in task.read_text().split()]
        for child in children:
            os.kill(child, signal.SIGTERM)
        process.wait(30)
    finally:
        for child in children:
            if alive(child):
                os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()
