"""What is on disk, in the order in which it is said: seen in the system calls of the running parts.

What has not been synced may be gone after a power cut, and a rename that was not synced may be undone. How
ingest keeps to that is in contract/ingest/dimse/test_association.py.
"""

import re
from pathlib import Path

import pytest

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages.batches import DELIVER, DELIVER_QUEUE, DeliverBatch, Parcel, new_batch_id
from dicomferry.messages.broker import celery_app
from dicomferry.settings import load
from tests.support.images.files import shipped
from tests.support.peers.scps import pynetdicom_scp
from tests.support.running.configuration import configured, destination
from tests.support.running.processes import wait_until
from tests.support.running.redis import private_redis
from tests.support.running.traces import calls_in, traced
from tests.support.stages.spools import a_spool, put

COUNT = 3
SHOWN = ("-yy", "-s", "4096", "-e", "trace=fsync,rename,mkdir,sendto,recvfrom,openat")
SLOW_DISK = ("-e", "inject=fsync:delay_enter=300ms")  # longer than an event waits for others


@pytest.mark.parametrize("last", [False, True], ids=["by a marker", "by leaving"])
def test_a_delivery_is_noted_for_good_after_its_answer_and_before_anybody_is_told(
    tmp_path: Path, last: bool
) -> None:
    spool = a_spool(tmp_path / "spool")
    trace = tmp_path / "trace"
    with private_redis() as broker, pynetdicom_scp([EXPLICIT_LE]) as seen:
        config = configured(tmp_path, destination("ws", seen.port), broker=broker)
        instances = [put(spool, shipped("CT_small.dcm"), "ws") for _ in range(COUNT)]
        batch = DeliverBatch(
            new_batch_id(), "boot", "ws", tuple(Parcel(i.id, None, "as received", last) for i in instances)
        )
        spool.leases.create(batch.id)
        app = celery_app(load(config))
        app.send_task(DELIVER, kwargs=batch.to_message(), task_id=batch.id, queue=DELIVER_QUEUE)
        app.close()
        with traced(trace, "forwarder", config, SHOWN + SLOW_DISK):
            wait_until(lambda: spool.leases.state(batch.id) == "gone", "the batch to be finished", 60)
        assert len(seen.datasets) == COUNT
    calls = [call for _, call in calls_in(trace.read_text(), when_begun={"sendto"})]

    def where(pattern: str) -> list[int]:
        return [number for number, call in enumerate(calls) if re.search(pattern, call)]

    answers = where(rf'recvfrom\(\d+<TCP:\[\S+:{seen.port}\]>, "\\4\\0')
    assert len(answers) == COUNT, "each is answered once, in the order of the batch"
    for instance, answered in zip(instances, answers, strict=True):
        opened = where(rf'openat\(.*"\S*/instances/\w\w/{instance.id}\.dcm"')
        assert opened, "it is opened to be sent: never"
        assert opened[-1] < answered, "it is opened to be sent: too late"
        at = answered
        for what, pattern in (_departure if last else _marking)(instance.id).items():
            found = where(pattern)
            assert found, f"{what}: never"
            assert found[0] > at, f"{what}: too early"
            at = found[0]


def _marking(instance: str) -> dict[str, str]:
    shard, marker = rf"\S*/instances/{instance[:2]}", r"delivered-ws\.json"
    folder = rf"{shard}/{instance}"
    temporary = rf"{folder}/\.{marker}\.[\d.]+\.tmp"
    return {
        "its folder is made": rf'mkdir\("{folder}"',
        "the folder's name is synced": rf"fsync\(\d+<{shard}>\) += 0",
        "the marker is synced": rf"fsync\(\d+<{temporary}>\) += 0",
        "the marker appears": rf'rename\("{temporary}", "{folder}/{marker}"\) += 0',
        "its name is synced": rf"fsync\(\d+<{folder}>\) += 0",
        "the dispatcher is told": rf"sendto\(.*Delivered.*{instance}",
    }


def _departure(instance: str) -> dict[str, str]:
    shard, gone = rf"\S*/instances/{instance[:2]}", rf"\S*/delivered/{instance}\.\d+\.0000\.ws\.\.dcm"
    return {
        "it leaves its place": rf'rename\("{shard}/{instance}\.dcm", "{gone}"\) += 0',
        "that is synced": rf"fsync\(\d+<{shard}>\) += 0",
        "the dispatcher is told": rf"sendto\(.*Delivered.*{instance}",
    }
