"""What cannot be read on the spool is named and left where it is, and holds up nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dicomferry.messages.batches import DeliverBatch
from dicomferry.spool.instance import Instance
from dicomferry.spool.spool import Spool
from tests.support.images.files import shipped
from tests.support.running.processes import wait_until
from tests.support.stages.spools import put


def emptied(spool: Spool, bad: Instance, other: Instance) -> None:
    del other
    spool.received(bad.id).write_bytes(b"")


def without_record(spool: Spool, bad: Instance, other: Instance) -> None:
    del other
    path = spool.received(bad.id)
    path.write_bytes(bytes(path.stat().st_size))


def a_folder(spool: Spool, bad: Instance, other: Instance) -> None:
    del other
    path = spool.received(bad.id)
    path.unlink()
    path.mkdir()


def anothers(spool: Spool, bad: Instance, other: Instance) -> None:
    shutil.copy(spool.received(other.id), spool.received(bad.id))


def of_a_later_version(spool: Spool, bad: Instance, other: Instance) -> None:
    del other
    path = spool.received(bad.id)
    path.write_bytes(path.read_bytes().replace(b'{"schema":1', b'{"schema":9'))


def without_its_file(spool: Spool, bad: Instance, other: Instance) -> None:
    """As an earlier version kept it: a folder with two files, of which one is lost."""
    del other
    spool.received(bad.id).unlink()
    spool.folder(bad.id).mkdir()
    (spool.folder(bad.id) / "instance.json").write_text(json.dumps({"schema": 1} | bad.to_record()))


@pytest.mark.parametrize(
    "damage", [emptied, without_record, a_folder, anothers, of_a_later_version, without_its_file]
)
def test_one_that_cannot_be_read_is_named_and_the_others_are_delivered(
    bench, damage: Callable[[Spool, Instance, Instance], None]
) -> None:
    bad, good = (put(bench.spool, shipped("MR_small.dcm"), "ws1") for _ in range(2))
    damage(bench.spool, bad, good)
    place: Path = bench.spool.instances / bad.id[:2]
    before = sorted(path for path in place.rglob("*") if bad.id in str(path))
    (place / "junk.dcm").write_text("x")
    (place / f"{bad.id[:2]}.dcm").write_text("x")
    bench.start()
    bench.learn()
    assert [parcel.instance for parcel in bench.fetch(DeliverBatch).parcels] == [good.id]
    wait_until(lambda: (bench.spool.status() or {}).get("damaged"), "the damage to be told")
    (told,) = bench.spool.status()["damaged"]
    assert told.startswith(str(place / bad.id))
    assert sorted(path for path in place.rglob("*") if bad.id in str(path)) == before
