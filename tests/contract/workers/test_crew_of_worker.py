"""Helpers in a real prefork worker, whose decoder writes down which process decoded a frame."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from redis import Redis

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages.batches import TRANSCODE, TRANSCODE_QUEUE, TranscodeBatch, new_batch_id
from dicomferry.messages.broker import celery_app, client_for
from dicomferry.settings import Settings
from dicomferry.spool.instance import Instance, RenditionSpec
from dicomferry.spool.seats import Seats
from dicomferry.spool.spool import Spool, boot_id
from tests.support.images import independent
from tests.support.images.files import native_pixels
from tests.support.images.synthetic import dataset, image, write
from tests.support.running.processes import alive, wait_until
from tests.support.stages.celery_process import celery_process
from tests.support.stages.spools import a_spool, put

J2K = "1.2.840.10008.1.2.4.90"
FRAMES = 30
MEMORY_MB = 1000
SETTINGS = {
    "ae": [{"title": "FERRY"}],
    "destination": [{"name": "ws", "title": "WS1", "host": "127.0.0.1", "port": 11113}],
    "route": [{"to": ["ws"]}],
    "worker": {"memory_mb": MEMORY_MB},
}
START = f"""
import os
os.environ["REMAP_SIGTERM"] = "SIGQUIT"
import json, resource, signal, sys, time
from dicomferry.logs import configure
from dicomferry.settings import Settings
configure("worker")
from workers import limits, tasks
from workers.codecs import decoders
settings = json.loads(sys.argv[1])
sound = decoders.DECODERS["{J2K}"]

def decode(codestream, image, rgb):
    memory, _ = resource.getrlimit(resource.RLIMIT_DATA)
    timed = signal.getitimer(signal.ITIMER_REAL)[0] > 0
    with open(settings["spool"] + "/decoded", "a") as file:
        file.write(f"{{os.getpid()}} {{os.getppid()}} {{memory >> 20}} {{timed}}\\n")
    time.sleep(0.02)  # the machine may be busy: a frame takes long enough for the others to have theirs
    return sound(codestream, image, rgb)

decoders.DECODERS["{J2K}"] = decode
limits.cores = lambda: 2
tasks.run(Settings(**settings), 2)
"""


class Decoded(NamedTuple):
    pid: int
    parent: int
    memory_mb: int
    timed: bool


@pytest.fixture
def redis(broker: str) -> Iterator[Redis]:
    client = client_for(broker)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return a_spool(tmp_path / "spool")


@pytest.fixture
def settings(spool: Spool, broker: str) -> Settings:
    return Settings(**SETTINGS, spool=spool.root, broker=broker)


@pytest.fixture
def worker(settings: Settings, redis: Redis, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    del redis  # flushed
    with celery_process(START, settings, tmp_path / "worker.log") as process:
        yield process


def many_frames(spool: Spool, folder: Path) -> Instance:
    made = dataset((64, 64), 12, NumberOfFrames=FRAMES)
    made.add_new("PixelData", "OW", b"".join(image(64, 64, 12, seed=n).tobytes() for n in range(FRAMES)))
    write(folder / "native.dcm", made, EXPLICIT_LE)
    return put(spool, independent.encode(folder / "native.dcm", folder / "in.dcm", J2K), "ws")


def begin(settings: Settings, spool: Spool, *instances: Instance) -> TranscodeBatch:
    batch = TranscodeBatch(
        new_batch_id(), boot_id(), RenditionSpec(EXPLICIT_LE), tuple(i.id for i in instances)
    )
    spool.leases.create(batch.id)
    with celery_app(settings) as app:
        app.send_task(TRANSCODE, kwargs=batch.to_message(), task_id=batch.id, queue=TRANSCODE_QUEUE)
    return batch


def decoded(spool: Spool) -> list[Decoded]:
    try:
        lines = (spool.root / "decoded").read_text().splitlines()
    except FileNotFoundError:
        return []
    fields = [line.split() for line in lines if line.endswith(("True", "False"))]
    return [Decoded(int(a), int(b), int(c), d == "True") for a, b, c, d in fields]


def test_the_frames_of_one_object_use_the_cores_that_idle(
    worker: subprocess.Popen[bytes], settings: Settings, spool: Spool, tmp_path: Path
) -> None:
    instance = many_frames(spool, tmp_path)
    batch = begin(settings, spool, instance)
    wait_until(lambda: spool.leases.state(batch.id) == "gone", "the batch to end", 60)
    found = decoded(spool)
    owners = {row.pid for row in found if row.parent == worker.pid}
    helpers = {row.pid for row in found if row.parent != worker.pid}
    assert len(owners) == len(helpers) == 1
    assert {row.parent for row in found if row.pid in helpers} == owners
    assert FRAMES <= len(found) <= FRAMES + 2
    assert sum(row.pid in helpers for row in found) > FRAMES // 4
    assert all(row.timed for row in found)
    assert {row.memory_mb for row in found if row.pid in owners} == {MEMORY_MB}
    assert all(row.memory_mb < MEMORY_MB for row in found if row.pid in helpers)
    rendition = spool.rendition(boot_id(), instance.id, batch.spec.key)
    assert native_pixels(rendition) == native_pixels(tmp_path / "native.dcm")
    assert not any(map(alive, helpers))


def test_an_owner_that_is_killed_takes_its_helpers_along_and_frees_lease_and_seats(
    worker: subprocess.Popen[bytes], settings: Settings, spool: Spool, tmp_path: Path
) -> None:
    batch = begin(settings, spool, *[many_frames(spool, tmp_path) for _ in range(2)])
    wait_until(lambda: len({row.pid for row in decoded(spool)}) > 1, "a helper", 60)
    pids = {row.pid for row in decoded(spool)}
    (owner,) = {row.pid for row in decoded(spool) if row.parent == worker.pid}
    os.kill(owner, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, pids)), "owner and helper to be gone")
    wait_until(lambda: spool.leases.state(batch.id) == "idle", "the lease to be free")
    seats = Seats(spool.seats, 2, boot_id())
    loans = [seats.borrow(), seats.borrow()]
    assert None not in loans
    for loan in loans:
        assert loan is not None
        os.close(loan.descriptor)
    assert worker.poll() is None


def test_a_helper_that_is_killed_costs_the_object_nothing(
    worker: subprocess.Popen[bytes], settings: Settings, spool: Spool, tmp_path: Path
) -> None:
    instance = many_frames(spool, tmp_path)
    batch = begin(settings, spool, instance)
    wait_until(lambda: any(row.parent != worker.pid for row in decoded(spool)), "a helper", 60)
    os.kill(next(row.pid for row in decoded(spool) if row.parent != worker.pid), signal.SIGKILL)
    wait_until(lambda: spool.leases.state(batch.id) == "gone", "the batch to end", 60)
    rendition = spool.rendition(boot_id(), instance.id, batch.spec.key)
    assert native_pixels(rendition) == native_pixels(tmp_path / "native.dcm")
    log = (tmp_path / "worker.log").read_text()
    assert log.count("Rendered instance=") == 1
    assert "ChildLost" not in log
