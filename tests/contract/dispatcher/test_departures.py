"""Instances that leave the spool with their last delivery, and what the dispatcher makes of it."""

import time

import pytest

from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, ProbeBatch
from dicomferry.spool import orders
from dicomferry.spool.departures import Departure, in_ms
from dicomferry.spool.orders import Act, Item, Order
from dispatcher import service
from dispatcher.history import lines_of
from tests.support.images.files import shipped
from tests.support.running.processes import wait_until
from tests.support.stages.spools import put

PLAIN = "MR_small.dcm"


def told(bench, instance):
    """What the history says of an instance, in order."""
    return [line.what for line in lines_of(bench.spool.history, instance.sop_instance_uid)]


def nothing_stands(bench):
    return not (
        bench.spool.departures() or [*bench.spool.instances.glob("*/*"), *bench.spool.trash.iterdir()]
    )


def total(bench):
    (lane, *_) = bench.spool.status()["lanes"]
    return lane["delivered"]


def leave(bench, instance, name="ws1"):
    """As a forwarder of which no event comes."""
    assert bench.spool.depart(Departure(instance.id, name, 0xB000, None, in_ms(time.time())))


def test_an_instance_is_removed_when_its_departure_is_in_the_history(bench):
    bench.start()
    instance = bench.receive(shipped(PLAIN))
    bench.learn()
    assert bench.deliver().parcels[0].last
    wait_until(lambda: nothing_stands(bench), "it to be removed")
    assert told(bench, instance).count("delivered") == 1
    wait_until(lambda: total(bench) == 1, "the total")


@pytest.mark.parametrize("keys", [{"keep_delivered": 60.0}, {}])
def test_what_is_kept_or_has_other_destinations_does_not_leave_so(bench, keys):
    bench.configure(*({"name": name} for name in (["ws1"] if keys else ["ws1", "ws2"])), **keys)
    put(bench.spool, shipped(PLAIN), "ws1", *([] if keys else ["ws2"]))
    bench.start()
    for _ in range(1 if keys else 2):
        bench.learn()
    assert not bench.fetch(DeliverBatch).parcels[0].last


def test_a_departure_of_which_no_event_told_is_found_when_its_batch_ends(bench, monkeypatch):
    monkeypatch.setattr(service, "EVENTS_WITHIN", 1000.0)
    bench.start()
    instance = bench.receive(shipped(PLAIN))
    bench.learn()
    bench.deliver(say=False)
    wait_until(lambda: nothing_stands(bench), "it to be removed", 20)
    assert told(bench, instance).count("delivered") == 1
    wait_until(lambda: total(bench) == 1, "the total")


def test_a_departure_of_which_no_event_told_is_found_though_its_batch_goes_on(bench, monkeypatch):
    monkeypatch.setattr(service, "EVENTS_WITHIN", 1.0)
    bench.start()
    instance = bench.receive(shipped(PLAIN))
    bench.learn()
    batch = bench.fetch(DeliverBatch)
    with bench.spool.leases.acquire(batch.id):
        leave(bench, instance)
        wait_until(lambda: nothing_stands(bench), "it to be removed", 20)
    assert told(bench, instance).count("delivered") == 1


def test_what_left_while_no_dispatcher_ran_is_in_the_history_once_and_the_total_counts_it(bench):
    instance = put(bench.spool, shipped(PLAIN), "ws1")
    leave(bench, instance)
    content = bench.spool.root / "delivered" / bench.spool.departures()[0].name
    kept = content.read_bytes()
    bench.start()
    wait_until(lambda: nothing_stands(bench), "it to be removed")
    bench.stop()
    assert told(bench, instance) == ["received", "delivered"]
    content.write_bytes(kept)  # as if it had been killed before it removed it
    bench.start()
    wait_until(lambda: nothing_stands(bench), "it to be removed")
    wait_until(lambda: total(bench) == 1, "the total")
    assert told(bench, instance) == ["received", "delivered"]


def test_an_order_that_comes_while_it_leaves_is_carried_out(bench):
    """The operator sends it elsewhere, and the forwarder, which does not know, has just sent it."""
    bench.configure({"name": "ws1"}, {"name": "ws2"})
    instance = put(bench.spool, shipped(PLAIN), "ws1")
    bench.start()
    bench.learn()
    batch = bench.fetch(DeliverBatch)
    assert batch.parcels[0].last
    with bench.spool.leases.acquire(batch.id):
        item = Item(instance.id, instance.sop_instance_uid, ("ws2",))
        orders.give(bench.spool.orders, Order(Act.REROUTE, (item,)))
        wait_until(lambda: bench.spool.state(instance.id).redirected == ("ws2",), "the order")
        # The forwarder looked for markers before.
        bench.spool.received(instance.id).rename(
            bench.spool.root / "delivered" / Departure(instance.id, "ws1", 0, None, in_ms(time.time())).name
        )
        events.push(bench.redis, [events.Delivered(batch.id, "ws1", instance.id, None, 0)])
    events.push(bench.redis, [events.Finished(batch.id)])
    assert bench.fetch(ProbeBatch).destination == "ws2"
    wait_until(lambda: bench.spool.exists(instance.id), "it to be back", 20)
    assert bench.spool.state(instance.id).pending == ("ws2",)
    assert bench.spool.state(instance.id).delivered == {"ws1"}


def test_the_same_object_that_comes_again_is_delivered_again_though_no_event_told_of_the_first(
    bench, monkeypatch
):
    monkeypatch.setattr(service, "EVENTS_WITHIN", 0.5)
    bench.start()
    first = bench.receive(shipped(PLAIN))
    bench.learn()
    batch = bench.fetch(DeliverBatch)
    with bench.spool.leases.acquire(batch.id):
        leave(bench, first)
        assert bench.receive(shipped(PLAIN)).id == first.id
        wait_until(lambda: not bench.spool.departures(), "the first to be removed")
        assert bench.spool.state(first.id).pending == ("ws1",)
    bench.deliver()
    wait_until(lambda: nothing_stands(bench), "both to be removed", 30)
    assert told(bench, first).count("delivered") == 2


def test_the_same_object_that_comes_again_while_it_leaves_is_delivered_again(bench):
    bench.start()
    first = bench.receive(shipped(PLAIN))
    bench.learn()
    batch = bench.fetch(DeliverBatch)
    with bench.spool.leases.acquire(batch.id):
        leave(bench, first)
        again = bench.receive(shipped(PLAIN))  # before the event of its delivery
        assert again.id == first.id
        events.push(bench.redis, [events.Delivered(batch.id, "ws1", first.id, None, 0)])
    events.push(bench.redis, [events.Finished(batch.id)])
    bench.deliver()
    wait_until(lambda: nothing_stands(bench), "both to be removed", 30)
