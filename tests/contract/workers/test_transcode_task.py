"""The transcode task against a real Redis and spool, alone and in a real prefork worker."""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from pydicom import dcmread
from redis import Redis

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages.batches import TRANSCODE, TRANSCODE_QUEUE, TranscodeBatch, new_batch_id
from dicomferry.messages.broker import celery_app, client_for
from dicomferry.messages.events import (
    EVENTS_KEY,
    Event,
    EventBuffer,
    Failed,
    Finished,
    Postponed,
    Rendered,
    Started,
    Unsuitable,
    parse,
)
from dicomferry.settings import Settings
from dicomferry.spool import durable
from dicomferry.spool.durable import FreeRoom
from dicomferry.spool.instance import Instance, RenditionSpec
from dicomferry.spool.spool import TRANSCODING, Spool, boot_id
from tests.support.images.files import native_pixels, shipped
from tests.support.images.synthetic import dataset, encapsulated
from tests.support.running.processes import alive, wait_until
from tests.support.stages.celery_process import celery_process
from tests.support.stages.spools import a_spool, put
from workers import batch as batches
from workers import transcode
from workers.batch import MAX_ATTEMPTS, run_batch
from workers.codecs import encoders
from workers.codecs.encoders import Encoded, Quality
from workers.codecs.image import Image
from workers.room import NoRoom
from workers.verify import is_chosen

SPEC = RenditionSpec(EXPLICIT_LE)
SETTINGS = {
    "ae": [{"title": "FERRY"}],
    "destination": [{"name": "ws", "title": "WS1", "host": "127.0.0.1", "port": 11113}],
    "route": [{"to": ["ws"]}],
}


@pytest.fixture
def redis(broker: str) -> Iterator[Redis]:
    client = client_for(broker)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return a_spool(tmp_path / "spool")


def a_batch(
    spool: Spool, *instances: Instance, spec: RenditionSpec = SPEC, alone: bool = False
) -> TranscodeBatch:
    batch = TranscodeBatch(new_batch_id(), boot_id(), spec, tuple(i.id for i in instances), alone)
    spool.leases.create(batch.id)
    return batch


def events(redis: Redis) -> list[Event]:
    found = [parse(text) for text in redis.lrange(EVENTS_KEY, 0, -1)]
    redis.delete(EVENTS_KEY)
    return [event for event in found if event is not None]


def stands(spool: Spool, instance: Instance) -> Path | None:
    path = spool.rendition(boot_id(), instance.id, SPEC.key)
    return path if path.exists() else None


def test_each_instance_is_reported_between_the_start_and_the_end(spool: Spool, redis: Redis) -> None:
    sound = [put(spool, shipped(name), "ws") for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm")]
    batch = a_batch(spool, *sound)
    run_batch(spool, redis, batch)
    started, first, second, finished = events(redis)
    assert (started, finished) == (Started(batch.id), Finished(batch.id))
    for event, instance in zip((first, second), sound, strict=True):
        assert isinstance(event, Rendered)
        assert (event.batch, event.instance, event.key) == (batch.id, instance.id, SPEC.key)
        assert event.verified == "verified: the file holds what was decoded"
    for instance in sound:
        made = stands(spool, instance)
        assert made is not None
        assert native_pixels(made) == native_pixels(shipped("MR_small.dcm"))
        assert dcmread(made).SOPInstanceUID == instance.sop_instance_uid
    assert spool.leases.state(batch.id) == "gone"


def test_the_last_inodes_are_left_to_those_who_mark_what_is_rendered_already(
    spool: Spool, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = put(spool, shipped("MR_small_RLE.dcm"), "ws1")
    said = FreeRoom(1 << 40, batches.INODES_LEFT - 1, 10_000)
    with monkeypatch.context() as patch:
        patch.setattr(durable, "free_room", lambda _: said)
        run_batch(spool, redis, a_batch(spool, instance))
        _, postponed, _ = events(redis)
        assert isinstance(postponed, Postponed)
        assert postponed.reason == "waits for room on the spool's disk: the spool is short of inodes"
        said = said._replace(inodes=batches.INODES_LEFT)
        run_batch(spool, redis, a_batch(spool, instance))
        assert [type(event) for event in events(redis)] == [Started, Rendered, Finished]
    assert stands(spool, instance) is not None


def told_in(redis: Redis) -> int:
    """How many commands have told something."""
    return int(redis.info("commandstats").get("cmdstat_rpush", {"calls": 0})["calls"])


@pytest.mark.parametrize(("moment", "commands"), [(60.0, 2), (0.0, 10)])
def test_what_is_made_in_a_moment_is_told_in_one_go(
    moment: float, commands: int, spool: Spool, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "EventBuffer", partial(EventBuffer, wait=moment))
    batch = a_batch(spool, *(put(spool, shipped("MR_small_RLE.dcm"), "ws") for _ in range(8)))
    before = told_in(redis)
    run_batch(spool, redis, batch)
    assert told_in(redis) - before == commands
    assert len(events(redis)) == 10


def test_what_is_made_does_not_wait_for_something_large(
    spool: Spool, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    run = batches._run_instance

    def look(spool: Spool, batch: TranscodeBatch, instance: str, *rest: Any) -> Event | None:
        seen.append((instance, redis.llen(EVENTS_KEY)))
        return run(spool, batch, instance, *rest)

    monkeypatch.setattr(batches, "_run_instance", look)
    monkeypatch.setattr(batches, "EventBuffer", partial(EventBuffer, wait=60.0))
    monkeypatch.setattr(batches, "QUICK", 10_000)  # bytes, between the two
    small, large = put(spool, shipped("MR_small_RLE.dcm"), "ws"), put(spool, shipped("693_J2KR.dcm"), "ws")
    run_batch(spool, redis, a_batch(spool, small, large))
    assert seen == [(small.id, 1), (large.id, 2)]


def test_what_was_changed_is_told(spool: Spool, redis: Redis) -> None:
    batch = a_batch(spool, put(spool, shipped("examples_jpeg2k.dcm"), "ws"))
    run_batch(spool, redis, batch)
    assert events(redis)[1].notes == "YBR_RCT became RGB"


def test_what_is_not_begun_when_the_turn_of_a_batch_is_over_goes_back(
    spool: Spool, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "TURN", 0.0)
    instances = [put(spool, shipped("MR_small_RLE.dcm"), "ws", fresh_uid=True) for _ in range(3)]
    run_batch(spool, redis, a_batch(spool, *instances))
    told = events(redis)
    assert [type(event) for event in told] == [Started, Rendered, Finished]
    assert [stands(spool, instance) is not None for instance in instances] == [True, False, False]


def test_a_batch_whose_lease_is_gone_does_nothing(spool: Spool, redis: Redis) -> None:
    instance = put(spool, shipped("MR_small_RLE.dcm"), "ws")
    batch = a_batch(spool, instance)
    assert spool.leases.revoke(batch.id)
    run_batch(spool, redis, batch)
    assert events(redis) == []
    assert stands(spool, instance) is None


def test_a_batch_that_somebody_runs_is_left_to_him(spool: Spool, redis: Redis) -> None:
    batch = a_batch(spool, put(spool, shipped("MR_small_RLE.dcm"), "ws"))
    with spool.leases.acquire(batch.id):
        run_batch(spool, redis, batch)
        assert events(redis) == []


def test_a_rendition_that_stands_is_not_made_again(spool: Spool, redis: Redis) -> None:
    instance = put(spool, shipped("MR_small_RLE.dcm"), "ws")
    run_batch(spool, redis, a_batch(spool, instance))
    made = stands(spool, instance)
    assert made is not None
    before = made.stat().st_ino
    first = events(redis)[1]
    again = a_batch(spool, instance)
    run_batch(spool, redis, again)
    assert made.stat().st_ino == before
    second = events(redis)[1]
    assert second == replace(first, batch=again.id)  # with what its record says
    assert second.digest


def test_an_instance_that_is_gone_is_passed_over(spool: Spool, redis: Redis) -> None:
    instance = put(spool, shipped("MR_small_RLE.dcm"))  # without a destination, so that it can be retired
    batch = a_batch(spool, instance)
    assert spool.retire(instance.id)
    run_batch(spool, redis, batch)
    assert events(redis) == [Started(batch.id), Finished(batch.id)]


def test_one_bad_instance_does_not_hurt_its_neighbours(
    spool: Spool, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    bad = _cut(spool)
    good = put(spool, shipped("MR_small_RLE.dcm"), "ws")
    batch = a_batch(spool, bad, good)
    run_batch(spool, redis, batch)
    _, failed, rendered, _ = events(redis)
    assert isinstance(failed, Failed)
    assert failed.instance == bad.id
    assert "truncated" in failed.reason
    assert isinstance(rendered, Rendered)
    assert rendered.instance == good.id
    name = str(dcmread(shipped("MR2_J2KR.dcm")).PatientName)
    assert name not in failed.reason + caplog.text


def _cut(spool: Spool) -> Instance:
    instance = put(spool, shipped("MR2_J2KR.dcm"), "ws")
    os.truncate(spool.received(instance.id), spool.received(instance.id).stat().st_size - 5000)
    return instance


def test_what_a_syntax_cannot_hold_is_unsuitable(spool: Spool, redis: Redis, tmp_path: Path) -> None:
    huge = encapsulated(
        tmp_path / "huge.dcm", dataset((60_000, 60_000), 16), "1.2.840.10008.1.2.4.90", [b"\xff\x4f\xff\x51"]
    )
    batch = a_batch(spool, put(spool, huge, "ws"))
    run_batch(spool, redis, batch)
    assert isinstance(events(redis)[1], Unsuitable)


def test_what_killed_its_worker_three_times_is_not_tried_again(spool: Spool, redis: Redis) -> None:
    instance = put(spool, shipped("MR_small_RLE.dcm"), "ws")
    for _ in range(MAX_ATTEMPTS):
        spool.add_attempt(instance.id, TRANSCODING)
    batch = a_batch(spool, instance, alone=True)
    run_batch(spool, redis, batch)
    assert events(redis)[1] == Failed(batch.id, instance.id, SPEC.key, "it killed its worker three times")
    assert stands(spool, instance) is None
    assert spool.attempts(instance.id, TRANSCODING) > MAX_ATTEMPTS


def test_an_attempt_that_returns_is_forgotten(spool: Spool, redis: Redis) -> None:
    instance = put(spool, shipped("MR_small_RLE.dcm"), "ws")
    for _ in range(MAX_ATTEMPTS - 1):
        spool.add_attempt(instance.id, TRANSCODING)
    run_batch(spool, redis, a_batch(spool, instance, alone=True))
    assert stands(spool, instance)
    assert spool.attempts(instance.id, TRANSCODING) == 0


def test_a_spool_that_cannot_be_written_is_nobodys_fault_and_asked_for_again(
    spool: Spool, redis: Redis
) -> None:
    instance = put(spool, shipped("MR_small_RLE.dcm"), "ws")
    folder = spool.rendition(boot_id(), instance.id, SPEC.key).parent
    folder.parent.mkdir(exist_ok=True)
    folder.touch()  # a file in the folder's place
    batch = a_batch(spool, instance)
    run_batch(spool, redis, batch)
    _, postponed, _ = events(redis)
    assert isinstance(postponed, Postponed)
    assert postponed.reason.startswith("waits for another try, after an error of the worker: ")
    folder.unlink()
    run_batch(spool, redis, a_batch(spool, instance))
    assert stands(spool, instance)


def test_what_has_no_room_says_so(spool: Spool, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise NoRoom("no room for 50 MB: renditions take 0.0 MB of 64 MB, and 64 MB are free")

    monkeypatch.setattr(transcode, "transcode", fail)
    run_batch(spool, redis, a_batch(spool, put(spool, shipped("MR_small_RLE.dcm"), "ws")))
    _, postponed, _ = events(redis)
    assert isinstance(postponed, Postponed)
    assert postponed.reason.startswith("waits for room on the spool's disk: no room for 50 MB: ")


@pytest.mark.parametrize("error", [MemoryError, KeyError, RecursionError, OSError])
def test_no_exception_leaves_the_task_nor_says_what_it_saw(
    error: type[Exception], spool: Spool, redis: Redis, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fail(*_: object, **__: object) -> str:
        raise error("DOE^JOHN")

    monkeypatch.setattr(transcode, "transcode", fail)
    instance = put(spool, shipped("MR_small_RLE.dcm"), "ws")
    batch = a_batch(spool, instance)
    run_batch(spool, redis, batch)
    reported = events(redis)[1:-1]
    if error in (MemoryError, OSError):
        assert [type(event) for event in reported] == [Postponed]
    else:
        assert [type(event) for event in reported] == [Failed]
        assert error.__name__ in reported[0].reason
    assert "DOE" not in caplog.text + str(reported)


JPEG_LS = RenditionSpec("1.2.840.10008.1.2.4.80")


def _spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the JPEG-LS encoder alter the last pixel by one."""
    sound = encoders.ENCODERS[JPEG_LS.transfer_syntax_uid]

    def wrong(cells: np.ndarray, image: Image, quality: Quality) -> Encoded:
        cells = cells.copy()
        cells.flat[-1] ^= 1
        return sound(cells, image, quality)

    monkeypatch.setitem(encoders.ENCODERS, JPEG_LS.transfer_syntax_uid, wrong)


def test_an_encoder_that_alters_one_pixel_is_caught_and_its_rendition_never_stands(
    spool: Spool, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch)
    instance = put(spool, shipped("MR_small.dcm"), "ws")
    run_batch(spool, redis, a_batch(spool, instance, spec=JPEG_LS))
    failed = events(redis)[1]
    assert isinstance(failed, Failed)  # so the dispatcher parks it
    assert "verification failed: frame 1 as JPEGLS differs in 1 of 4096 samples, by up to 1" in failed.reason
    folder = spool.rendition(boot_id(), instance.id, JPEG_LS.key).parent
    assert list(folder.iterdir()) == []


def test_what_is_not_to_be_verified_is_not(
    spool: Spool, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    _spoil(monkeypatch)
    instances = [put(spool, shipped("MR_small.dcm"), "ws") for _ in range(6)]
    run_batch(spool, redis, replace(a_batch(spool, instances[0], spec=JPEG_LS), verify="never"))
    rendered = events(redis)[1]
    assert isinstance(rendered, Rendered)
    assert (rendered.digest, rendered.verified) == ("", "")
    run_batch(spool, redis, replace(a_batch(spool, *instances, spec=JPEG_LS), verify="sampled"))
    caught = {event.instance for event in events(redis) if isinstance(event, Failed)}
    chosen = {i.id for i in instances[1:] if is_chosen("sampled", i.sop_instance_uid)}
    assert caught == chosen


def test_the_record_of_a_rendition_says_who_decoded_it_back_and_what_he_saw(
    spool: Spool, redis: Redis
) -> None:
    instance = put(spool, shipped("MR_small.dcm"), "ws")
    run_batch(spool, redis, a_batch(spool, instance, spec=JPEG_LS))
    rendered = events(redis)[1]
    assert isinstance(rendered, Rendered)
    assert "decoded back by CharLS" in rendered.verified
    assert "pixels equal" in rendered.verified
    (record,) = spool.rendition_records(instance.id)
    values = np.frombuffer(native_pixels(shipped("MR_small.dcm")), "<u2")
    assert dcmread(shipped("MR_small.dcm")).BitsStored == 16
    assert record["digest_before"] == record["digest_after"] == rendered.digest
    assert rendered.digest == blake3(values.tobytes()).hexdigest(length=16)
    assert record["verified"] == rendered.verified


# A real worker, in a process of its own

START = """
import os
os.environ["REMAP_SIGTERM"] = "SIGQUIT"
import json, sys
from dicomferry.logs import configure
from dicomferry.settings import Settings
configure("worker")
from workers.tasks import run
run(Settings(**json.loads(sys.argv[1])), 2)
"""


@pytest.fixture
def worker(spool: Spool, broker: str, redis: Redis, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    del redis  # flushed
    settings = Settings(**SETTINGS, spool=spool.root, broker=broker)
    with celery_process(START, settings, tmp_path / "worker.log") as process:
        yield process


def publish(broker: str, spool: Spool, batch: TranscodeBatch) -> None:
    with celery_app(Settings(**SETTINGS, spool=spool.root, broker=broker)) as app:
        app.send_task(TRANSCODE, kwargs=batch.to_message(), task_id=batch.id, queue=TRANSCODE_QUEUE)


def test_a_worker_runs_what_celery_brings_and_leaves_nothing_when_it_is_stopped(
    worker: subprocess.Popen[bytes], broker: str, spool: Spool, redis: Redis, tmp_path: Path
) -> None:
    instances = [put(spool, shipped(name), "ws") for name in ("693_J2KR.dcm", "SC_rgb_rle.dcm", "rtplan.dcm")]
    batch = a_batch(spool, *instances)
    publish(broker, spool, batch)
    wait_until(lambda: spool.leases.state(batch.id) == "gone", "the batch to end", 30)
    wait_until(lambda: redis.llen(EVENTS_KEY) == 5, "its events")
    assert all(stands(spool, instance) for instance in instances)
    assert native_pixels(stands(spool, instances[0])) == native_pixels(shipped("693_UNCR.dcm"))
    children = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    assert len(children) >= 2
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(80) == 0
    assert not any(alive(int(child)) for child in children)
    log = (tmp_path / "worker.log").read_text()
    assert log.count("Rendered instance=") == 3
    assert "Traceback" not in log
    assert "CompressedSamples" not in log  # the patient's name


def test_a_worker_killed_in_the_middle_leaves_its_lease_unlocked_for_the_dispatcher(
    worker: subprocess.Popen[bytes], broker: str, spool: Spool
) -> None:
    instances = [put(spool, shipped("RG1_J2KR.dcm"), "ws") for _ in range(30)]
    batch = a_batch(spool, *instances)
    publish(broker, spool, batch)
    wait_until(lambda: any(stands(spool, instance) for instance in instances), "a first rendition", 30)
    assert spool.leases.state(batch.id) == "running"
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_until(lambda: spool.leases.state(batch.id) == "idle", "the lease to be free")
    made = [instance for instance in instances if stands(spool, instance)]
    assert 0 < len(made) < len(instances)
    original = native_pixels(shipped("RG1_UNCR.dcm"))
    assert all(native_pixels(stands(spool, instance)) == original for instance in made)
    assert spool.leases.revoke(batch.id)
