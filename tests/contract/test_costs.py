"""What one more instance costs, in counts that no machine changes: calls, syncs, bytes, commands.

Each figure is a slope, the difference between two amounts of work divided by the difference of their sizes,
so that starting, associating and fetching a batch drop out. The bounds are what was measured when they were
written, and 15 % more; of syncs exactly that.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from pydicom.uid import generate_uid

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages import batches
from dicomferry.messages.batches import Batch, DeliverBatch, TranscodeBatch, new_batch_id
from dicomferry.messages.broker import celery_app, client_for
from dicomferry.messages.events import EVENTS_KEY
from dicomferry.settings import load
from dicomferry.spool.instance import RenditionSpec
from dicomferry.spool.spool import Spool, boot_id
from tests.support.images.files import fresh_copies, shipped
from tests.support.images.synthetic import dataset, write
from tests.support.peers.dcmtk import Workstation, send
from tests.support.running.configuration import configured, destination
from tests.support.running.costs import Cost, cost_of, of_one_thread, returned_in, running
from tests.support.running.ports import free_port, is_listening
from tests.support.running.processes import wait_until
from tests.support.running.redis import private_redis
from tests.support.running.site import Site
from tests.support.running.traces import traced
from tests.support.stages.post import told
from tests.support.stages.spools import a_spool, put

pytestmark = pytest.mark.alone

CT = "1.2.840.10008.5.1.4.1.1.2"
FEW, MANY = 4, 12  # instances, or pairs of them
MARGIN = 1.15

# Measured, each for one more; records are what is written beside the objects themselves.
INGEST = {  # a native CT of 0.5 MB and an MR of 10 kB, in one association
    "calls about sockets": 13,
    "other system calls": 54,
    "fsyncs": 4,
    "bytes of records": 4096,  # in the two files: that is their room
    "bytes read": 0,
}
WORKER = {  # the rendition of an MR of 64 x 64 in JPEG 2000
    "calls about sockets": 4,  # where each is told by itself, since the machine is slow
    "other system calls": 43,
    "fsyncs": 0,
    "bytes of records": 1024,  # in the rendition's own file
    "bytes read": 22_009,
}
FORWARDER = {  # a native CT of 0.5 MB, as received, to a stock storescp
    "calls about sockets": 13,
    "other system calls": 24,
    "fsyncs": 1,
    "bytes of records": 0,
    "bytes read": 528_764,
}
DISPATCHER = {"other system calls": 11, "fsyncs": 0}  # the same, from its message to its retirement
HISTORY = 24_000  # bytes that are written of it at most, where each delivery is a transaction
# What Redis is told of a batch: a command of Celery's and its end; where it transcodes, its beginning too.
OF_A_BATCH = {"LPUSH deliver": 1 + 1, "LPUSH transcode": 1 + 2}
OF_AN_INSTANCE = {"CT_small.dcm": 2, "MR_small_jp2klossless.dcm": 3}


@pytest.fixture
def broker() -> Iterator[str]:
    with private_redis() as url:
        yield url


class Place:
    """A configuration and its spool; one part of it runs under strace."""

    def __init__(self, folder: Path, broker: str, port: int = 104) -> None:
        self.ingest = free_port()
        self.config = configured(
            folder,
            destination("ws", port),
            broker=broker,
            ingest={"port": self.ingest, "min_free_mb": 1, "processes": 1},
            worker={"concurrency": 1},
        )
        self.spool: Spool = a_spool(folder / "spool")
        self.trace = folder / "trace"
        self._broker = broker

    def run(self, task: str, queue: str, given: Sequence[Batch]) -> None:
        """Have batches done, one after the other."""
        app = celery_app(load(self.config))
        for batch in given:
            self.spool.leases.create(batch.id)
            app.send_task(task, kwargs=batch.to_message(), task_id=batch.id, queue=queue)
            wait_until(lambda: not self.spool.leases.batches(), "a batch to be finished", 60)
        app.close()

    def within(self, batch: Batch) -> Cost:
        """What was asked of the kernel while a batch held its lease."""
        return cost_of(of_one_thread(returned_in(self.trace), f"leases/{batch.id}"), self.spool.root)


def cts(folder: Path, count: int) -> list[Path]:
    """Native CTs of 0.5 MB."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for number in range(count):
        image = dataset((512, 512), 16, SOPClassUID=CT)
        image.SOPInstanceUID = generate_uid()
        pixels = np.random.default_rng(number).integers(0, 2000, (512, 512), dtype=np.uint16)
        image.add_new("PixelData", "OW", pixels.tobytes())
        made.append(write(folder / f"{number}.dcm", image, EXPLICIT_LE))
    return made


def check(measured: Cost, count: int, bounds: dict[str, int], objects: int = 0) -> None:
    """Compare what one costs with the bounds; `objects` are the bytes that had to be written in any case."""
    figures = measured.figures(count) | {"bytes of records": (measured.written - objects) / count}
    for kind, bound in bounds.items():
        most = bound if kind == "fsyncs" else bound * MARGIN
        assert figures[kind] <= most, (
            f"{kind}: {figures[kind]:.1f} each, {bound} when last looked at; calls: {measured.words(count)}"
        )


def size_of(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def test_an_instance_costs_ingest_no_more_than_it_did(tmp_path: Path, broker: str) -> None:
    place = Place(tmp_path, broker)
    received = []
    with traced(place.trace, "ingest", place.config):
        wait_until(lambda: is_listening(place.ingest), "ingest to listen", 60)
        for count in (1, FEW, MANY):
            mrs = fresh_copies("MR_small.dcm", count, tmp_path / f"mr{count}")
            pairs = zip(cts(tmp_path / f"ct{count}", count), mrs, strict=True)
            assert send(place.ingest, [path for pair in pairs for path in pair]).returncode == 0
            received.append(size_of(place.spool.instances.glob("*/*.dcm")))
    calls = returned_in(place.trace)
    begins = [n for n, call in enumerate(calls) if call.name == "accept4" and call.result >= 0]
    few, many = (
        cost_of(of_one_thread(calls[begin:end], f"{place.spool.incoming}/"), place.spool.root)
        for begin, end in zip(begins[1:], [*begins[2:], None], strict=True)
    )
    objects = (received[2] - received[1]) - (received[1] - received[0])
    check(many.minus(few), MANY - FEW, INGEST, objects)


def test_a_rendition_costs_a_worker_no_more_than_it_did(tmp_path: Path, broker: str) -> None:
    place = Place(tmp_path, broker)
    given = [
        TranscodeBatch(
            new_batch_id(), boot_id(), RenditionSpec(EXPLICIT_LE),
            tuple(put(place.spool, shipped("MR_small_jp2klossless.dcm"), "ws").id for _ in range(count)),
        )
        for count in (1, FEW, MANY)
    ]  # fmt: skip
    with traced(place.trace, "worker", place.config):
        place.run(batches.TRANSCODE, batches.TRANSCODE_QUEUE, given)
    few, many = (place.within(batch) for batch in given[1:])
    rendition = size_of(place.spool.renditions.glob("*/*/*.dcm")) // (1 + FEW + MANY)
    check(many.minus(few), MANY - FEW, WORKER, rendition * (MANY - FEW))


def test_a_delivery_costs_the_forwarder_no_more_than_it_did(tmp_path: Path, broker: str) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer:
        place = Place(tmp_path, broker, peer.port)
        given = [
            DeliverBatch(
                new_batch_id(), boot_id(), "ws",
                tuple(
                    told(put(place.spool, path, "ws"))
                    for path in cts(tmp_path / f"ct{count}", count)
                ),
            )
            for count in (1, FEW, MANY)
        ]  # fmt: skip
        with traced(place.trace, "forwarder", place.config):
            place.run(batches.DELIVER, batches.DELIVER_QUEUE, given)
        assert len(peer.files()) == 1 + FEW + MANY
    few, many = (place.within(batch) for batch in given[1:])
    check(many.minus(few), MANY - FEW, FORWARDER)


def test_a_delivery_costs_the_dispatcher_no_more_than_it_did(tmp_path: Path, broker: str) -> None:
    """The calls that name an instance are counted, and the history: what else it does goes by the second."""
    with Workstation(tmp_path / "ws", free_port()) as peer:
        place = Place(tmp_path, broker, peer.port)
        instances = [put(place.spool, path, "ws").id for path in cts(tmp_path / "ct", MANY)]
        with (
            traced(place.trace, "dispatcher", place.config),
            running("forwarder", place.config, tmp_path / "forwarder.log"),
        ):
            wait_until(lambda: not any(map(place.spool.read, instances)), "all to be retired", 60)
    calls = returned_in(place.trace)
    named = re.compile("|".join(instances))
    check(
        cost_of([call for call in calls if named.search(call.arguments)], place.spool.root), MANY, DISPATCHER
    )
    history = cost_of([call for call in calls if "/history.sqlite" in call.path], place.spool.root)
    assert history.written / MANY <= HISTORY, f"history: {history.written / MANY:.0f} bytes each"


# Asked for by the second, or when a program begins; not for an instance.
_OF_NO_INSTANCE = re.compile(
    r"(BLPOP|BRPOP|LPOP|PING|HELLO|AUTH|CLIENT|SELECT|INFO|LLEN|LRANGE|SADD|SMEMBERS|TIME|SCRIPT|EVALSHA"
    r"|SET dicomferry:canary|PUBLISH /0.celeryev/worker|\w+ \S*pidbox"
    r"|\w+ (unacked_mutex|_kombu)|Z(REV)?RANGE\w* unacked_index"
    # What Celery tells of a batch, one by one or together, as the machine's speed will have it.
    r"|PUBLISH /0.celeryev/task.multi|MULTI|EXEC)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    folder = tmp_path_factory.mktemp("site")
    with (
        private_redis() as url,
        Workstation(folder / "ws", free_port()) as peer,
        Site(folder / "site", destination("ws", peer.port), broker=url) as site,
    ):
        for name in OF_AN_INSTANCE:
            assert send(site.port, fresh_copies(name, 1, folder / name)).returncode == 0
        site.wait_drained()
        yield site, url


@pytest.mark.parametrize("name", OF_AN_INSTANCE)
def test_an_instance_takes_no_more_redis_commands_than_it_did(
    site: tuple[Site, str], tmp_path: Path, name: str
) -> None:
    up, url = site
    redis = client_for(url)
    with redis.monitor() as monitor:
        assert send(up.port, fresh_copies(name, 2 * MANY, tmp_path)).returncode == 0
        up.wait_drained()
        wait_until(lambda: not Spool(up.spool).leases.batches(), "the last batch to be finished")
        redis.echo("the end")
        given = iter(lambda: monitor.next_command()["command"], "ECHO the end")
        told = [word for command in given for word in words_of(command)]
    batches = [word for word in told if word in OF_A_BATCH]
    each = (len(told) - sum(OF_A_BATCH[word] for word in batches)) / (2 * MANY)
    assert each <= OF_AN_INSTANCE[name] * MARGIN, (
        f"{each:.1f} each beside {OF_A_BATCH} for each of {len(batches)} batches: "
        f"{Counter(told).most_common()}"
    )


def words_of(command: str) -> list[str]:
    """A command's name and key; of one that carries events, in whatever number, the kinds of these."""
    if _OF_NO_INSTANCE.match(command):
        return []
    if command.startswith(f"RPUSH {EVENTS_KEY}"):
        # What a peer accepts is told once an association, of which there are few or many.
        return [kind for kind in re.findall(r'"event":"(\w+)"', command) if kind != "Learned"]
    return [" ".join(command.split()[:2])]
