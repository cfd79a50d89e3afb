"""Codecs that crash, hang or eat memory, through a real dispatcher, a real prefork worker and a real Redis.

The worker's process is given decoders that do so for certain frames; everything else is what runs in earnest.
No verdict hangs on how busy the machine is: time is over only for the frame that hangs, whose clock is put
forward, and waits end as soon as what they wait for is there.
"""

import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages.broker import client_for
from dicomferry.settings import Settings
from dicomferry.spool.instance import Instance
from dicomferry.spool.spool import Spool
from dispatcher import manager, service
from dispatcher.history import lines_of
from tests.support.images.files import shipped
from tests.support.images.synthetic import SECONDARY_CAPTURE, dataset, encapsulated
from tests.support.running.processes import wait_until
from tests.support.running.redis import private_redis
from tests.support.stages.celery_process import celery_process
from tests.support.stages.spools import a_spool, put

RLE = "1.2.840.10008.1.2.5"
MR = "1.2.840.10008.5.1.4.1.1.4"
MEMORY_MB = 512
SOUND = 8

START = f"""
import os
os.environ["REMAP_SIGTERM"] = "SIGQUIT"
import ctypes, json, signal, sys
from dicomferry.logs import configure
from dicomferry.settings import Settings
configure("worker")
from workers import crew, tasks
from workers.codecs import decoders

sound = decoders.DECODERS["{RLE}"]

def decode(codestream, image, rgb):
    if codestream[64:].startswith(b"crash"):
        ctypes.string_at(0)
    if codestream[64:].startswith(b"hang"):
        left, _ = signal.getitimer(signal.ITIMER_REAL)
        if left:  # a deadline runs
            signal.setitimer(signal.ITIMER_REAL, left / 60)
        ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock, as a codec in C does
    if codestream[64:].startswith(b"eat"):
        eaten = []
        while True:
            eaten.append(bytearray(32 << 20))
    return sound(codestream, image, rgb)

decoders.DECODERS["{RLE}"] = decode
crew._WORTH = 0.0  # even frames of a few pixels are worth a helper
tasks.run(Settings(**json.loads(sys.argv[1])), 2)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    with private_redis() as url:
        yield Settings(
            spool=tmp_path / "spool",
            broker=url,
            worker={"memory_mb": MEMORY_MB},
            ae=[{"title": "FERRY"}],
            destination=[
                {
                    "name": "ws1",
                    "title": "WS1",
                    "host": "127.0.0.1",
                    "port": 104,
                    "transfer_syntaxes": ["uncompressed"],
                }
            ],
            route=[{"to": ["ws1"]}],
        )


@pytest.fixture
def spool(settings: Settings) -> Spool:
    spool = a_spool(settings.spool)
    # As if a probe had been answered: no forwarder runs here.
    spool.learn("ws1", {SECONDARY_CAPTURE: [EXPLICIT_LE], MR: [EXPLICIT_LE]})
    return spool


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[Path]:
    """A worker with bad decoders; yields its log."""
    log = tmp_path / "worker.log"
    with celery_process(START, settings, log) as process:
        yield log
        assert process.poll() is None, "the worker itself must outlive its children"


@pytest.fixture
def dispatcher(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Thread]:
    """A dispatcher that syncs and repeats more often than a real one."""
    monkeypatch.setattr(service, "SYNC_EVERY", 0.2)
    monkeypatch.setattr(manager, "FIRST_REPEAT", 0.2)
    running: list[service.Dispatcher] = []
    made = threading.Event()

    def run() -> None:  # SQLite wants its connection used in the thread that made it
        running.append(service.Dispatcher(settings, Spool(settings.spool), client_for(settings.broker or "")))
        made.set()
        running[0].run()

    thread = threading.Thread(target=run)
    thread.start()
    assert made.wait(60)
    yield thread
    running[0].stopping = True
    thread.join(60)
    assert not thread.is_alive()


def poisoned(spool: Spool, tmp_path: Path, what: str, frames: int) -> Instance:
    header = struct.pack("<16I", 1, 64, *[0] * 14)  # PS3.5 G.5
    codestreams = [header + bytes([129, 7, 129, 7])] * frames  # two runs of 128 pixels
    codestreams[frames // 2] = header + what.encode().ljust(8)
    path = encapsulated(tmp_path / f"{what}.dcm", dataset((16, 16), 8), RLE, codestreams)
    return put(spool, path, "ws1")


def lines(spool: Spool, instance: Instance) -> dict[str, str]:
    return {line[3]: line[5] for line in lines_of(spool.history, instance.sop_instance_uid)}


@pytest.mark.parametrize("frames", [1, 12])
def test_what_a_codec_does_to_its_process_costs_nobody_else_anything(
    frames: int, spool: Spool, worker: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    sound = [put(spool, shipped("MR_small_RLE.dcm"), "ws1") for _ in range(SOUND)]
    bad = {what: poisoned(spool, tmp_path, what, frames) for what in ("crash", "hang", "eat")}
    request.getfixturevalue("dispatcher")  # all of them in the same batches, then
    try:
        wait_until(
            lambda: all("rendered" in lines(spool, instance) for instance in sound), "the sound ones", 300
        )
        wait_until(lambda: all(spool.marker(i.id, "dead", "ws1") for i in bad.values()), "the bad ones", 300)
    finally:
        print(worker.read_text()[-6000:])
    reasons = {what: spool.marker(i.id, "dead", "ws1")["reason"] for what, i in bad.items()}
    assert "killed its worker three times" in reasons["crash"]
    assert "SIGSEGV" in reasons["crash"]
    assert "killed its worker three times" in reasons["hang"]
    assert "when its time was over" in reasons["hang"]
    assert "more memory than its worker may have, three times" in reasons["eat"]
    # Three ends alone each; the pool may tell of the last one after the dispatcher has drawn its conclusion.
    for how in ("SIGSEGV", "when its time was over"):
        wait_until(lambda how=how: sum(how in end for end in ends(worker, "n=1:")) >= 3, f"three {how}", 120)
        assert sum(how in end for end in ends(worker, "n=1:")) <= 4
    assert len(ends(worker)) <= 10  # and a few in company; what only eats is stopped before its child dies
    log = worker.read_text()
    assert log.count("Rendered instance=") == SOUND  # each made once: those of a lost batch stood already
    assert "Traceback" not in log
    wait_until(lambda: not list(spool.renditions.rglob("*.tmp")), "the halves that the dead left to be gone")


def ends(worker: Path, *marks: str) -> list[str]:
    """Lines of the log that tell of a lost child."""
    lost = [line for line in worker.read_text().splitlines() if "ChildLost" in line]
    return [line for line in lost if all(mark in line for mark in marks)]
