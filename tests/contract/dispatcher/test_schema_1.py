"""A spool of schema 1, a folder for each instance, is worked off as it is."""

import json
import time

import pytest

from dicomferry.messages.batches import DeliverBatch
from dicomferry.spool import orders
from dicomferry.spool.orders import Act, Item, Order
from dicomferry.spool.spool import Spool
from tests.support.images.files import shipped
from tests.support.running.processes import wait_until
from tests.support.stages.bench import Bench
from tests.support.stages.spools import put

PLAIN = "MR_small.dcm"
REFUSED = {"reason": "refused", "status": 0xC000, "attempts": 5, "at": 1.0}


@pytest.fixture
def bench(tmp_path, broker):
    bench = Bench(tmp_path / "spool", broker)
    (bench.spool.root / "schema.json").write_text('{"schema": 1}')
    yield bench
    bench.stop()


def test_what_is_pending_half_delivered_dead_and_redirected_goes_its_way(bench):
    bench.configure({"name": "ws1"}, {"name": "ws2"})
    spool = bench.spool
    pending, half, redirected, dead = (
        put(spool, shipped(PLAIN), "ws1", "ws2", in_folder=True) for _ in range(4)
    )
    spool.mark_delivered(half.id, "ws1", {"status": 0, "at": time.time()})
    spool.redirect(redirected.id, ("ws2",), "by hand")
    for name in dead.destinations:
        spool.mark_dead(dead.id, name, REFUSED)
    new = put(spool, shipped(PLAIN), "ws1")
    Spool(spool.root).prepare()
    assert json.loads((spool.root / "schema.json").read_text()) == {"schema": 2}
    bench.start()
    for _ in range(2):
        bench.learn()
    sent = [bench.fetch(DeliverBatch) for _ in range(2)]
    by_name = {batch.destination: {parcel.instance for parcel in batch.parcels} for batch in sent}
    assert by_name == {
        "ws1": {pending.id, new.id},
        "ws2": {pending.id, half.id, redirected.id},
    }
    bench.seen += sent
    for _ in sent:
        bench.deliver()
    for instance in (pending, half, redirected, new):
        bench.wait_retired(instance)
    assert spool.state(dead.id).dead == {"ws1", "ws2"}
    item = Item(dead.id, dead.sop_instance_uid, ("ws1", "ws2"))
    orders.give(spool.orders, Order(Act.DISCARD, (item,)))
    bench.wait_retired(dead)
    wait_until(lambda: not [*spool.instances.glob("*/*"), *spool.trash.iterdir()], "nothing to be left")
