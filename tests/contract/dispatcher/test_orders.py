"""Operators' orders on a real dispatcher, spool and Redis: what each does, and what it leaves alone."""

import time
import uuid
from dataclasses import replace

import pytest

from dicomferry.dicom.part10 import dataset_offset
from dicomferry.errors import Misconfigured
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch
from dicomferry.messages.broker import client_for
from dicomferry.settings import Destination
from dicomferry.spool import orders, records
from dicomferry.spool.orders import Act, Item, Order
from dicomferry.spool.spool import TRANSCODING
from dispatcher import service
from dispatcher.history import lines_of
from gateway.commands import ordering, quarantine
from gateway.commands.dead_list import print_dead_list
from gateway.commands.selection import Filter, compared, dead, delivered
from ingest import reception
from ingest.header import Malformed
from tests.support.images.files import fresh_copies, shipped, uid_of
from tests.support.peers.dcmtk import send
from tests.support.running.processes import wait_until
from tests.support.stages.ingesting import an_ingest, data_set_of
from tests.support.stages.spools import a_spool, change_record, put

PLAIN = "CT_small.dcm"  # needs no rendition
REFUSED = {"reason": "refused: cannot understand (0xC000)", "status": 0xC000, "attempts": 5}
EVERYTHING = Filter()


def a_dead_one(spool, *destinations, hours=0.0, **keys):
    """An instance whose deliveries to `destinations` are dead, since so many hours."""
    instance = put(spool, shipped(PLAIN), *destinations)
    for name in destinations:
        for _ in range(REFUSED["attempts"]):
            spool.add_attempt(instance.id, name)
        spool.mark_dead(instance.id, name, REFUSED | {"at": time.time() - hours * 3600} | keys)
    return instance


def told(bench, instance):
    """What the history says of an instance: what happened, and the words."""
    return {line[3]: line[5] for line in lines_of(bench.spool.history, instance.sop_instance_uid)}


def running(bench):
    wait_until(lambda: bench.spool.status() is not None, "the dispatcher to show its status")


def test_a_dead_delivery_that_is_retried_has_all_its_attempts_again_and_is_delivered(bench, capsys):
    instance = a_dead_one(bench.spool, "ws1")
    bench.spool.add_attempt(instance.id, TRANSCODING)
    bench.start()
    running(bench)
    ordering.retry(bench.settings, EVERYTHING, yes=True)
    said = capsys.readouterr().out
    assert "1 dead delivery to be tried again (ALL there are" in said
    assert "ws1: refused: cannot understand (0xC000)" in said
    assert "carried it out" in said
    state = bench.spool.state(instance.id)
    assert (state.pending, state.attempts) == (("ws1",), {})
    bench.learn()
    bench.deliver()
    bench.wait_retired(instance)
    assert told(bench, instance)["retried"].startswith("is to be delivered again (")


def test_the_status_tells_how_many_bytes_what_is_dead_and_what_is_quarantined_takes(bench):
    instance = a_dead_one(bench.spool, "ws1")
    (bench.spool.quarantine / "a").mkdir()
    (bench.spool.quarantine / "a/received.dcm").write_bytes(bytes(77))
    bench.start()
    running(bench)
    status = bench.spool.status()
    assert (status["dead_objects"], status["dead_bytes"]) == (1, instance.size)
    assert (status["quarantined"], status["quarantined_bytes"]) == (1, 77)
    assert (status["kept_objects"], status["kept_bytes"]) == (0, 0)


def test_a_discarded_delivery_is_recorded_with_its_reason_and_its_instance_is_retired(bench):
    instance = a_dead_one(bench.spool, "ws1")
    other = a_dead_one(bench.spool, "ws1", reason="damaged")
    bench.start()
    running(bench)
    ordering.discard(bench.settings, Filter(reason="CANNOT understand"), yes=True)
    bench.wait_retired(instance)
    assert "it was dead: refused: cannot understand (0xC000)" in told(bench, instance)["discarded"]
    assert bench.spool.state(other.id).dead == {"ws1"}


def test_discarding_one_delivery_leaves_the_others_of_its_instance(bench):
    instance = put(bench.spool, shipped(PLAIN), "ws1", "gone")
    bench.spool.mark_dead(instance.id, "gone", REFUSED | {"at": time.time()})
    bench.start()
    running(bench)
    ordering.discard(bench.settings, EVERYTHING, yes=True)
    bench.learn()
    bench.deliver()
    bench.wait_retired(instance)


def test_an_order_without_a_dispatcher_is_carried_out_when_one_starts(bench, capsys):
    instance = a_dead_one(bench.spool, "ws1")
    ordering.retry(bench.settings, EVERYTHING, yes=True)
    assert "No dispatcher runs on this spool: it is done as soon as one does" in capsys.readouterr().out
    assert bench.spool.state(instance.id).dead
    bench.start()
    bench.learn()
    bench.deliver()
    bench.wait_retired(instance)
    assert orders.outstanding(bench.spool.orders) == []


def test_an_order_that_was_cut_by_a_crash_is_simply_carried_out_again(bench):
    instance = a_dead_one(bench.spool, "ws1")
    order = Order(Act.RETRY, (Item(instance.id, instance.sop_instance_uid, ("ws1",)),))
    orders.give(bench.spool.orders, order)
    orders.give(bench.spool.orders, order)  # as if the first had been carried out but for its file
    bench.start()
    bench.learn()
    bench.deliver()
    bench.wait_retired(instance)


def test_what_dies_of_its_age_is_not_dead_at_once_when_it_is_retried(bench):
    bench.configure({"name": "ws1", "max_age": "1h"})
    instance = put(bench.spool, shipped(PLAIN), "ws1")
    change_record(bench.spool, instance, received_at=time.time() - 7200)
    bench.start()
    wait_until(lambda: bench.spool.state(instance.id).dead, "the delivery to be too old")
    (done,) = dead(bench.spool, EVERYTHING, time.time())
    assert done.reason.startswith("not delivered within max_age, 1 h")
    running(bench)
    ordering.retry(bench.settings, EVERYTHING, yes=True)
    bench.stop()
    bench.redis.flushall()
    bench.start()  # its age counts from the order on the spool, not only in the dispatcher's memory
    bench.learn()
    bench.deliver()
    bench.wait_retired(instance)


def test_what_is_kept_can_be_sent_once_more(bench, capsys):
    bench.configure({"name": "ws1"}, keep_delivered="1h")
    bench.start()
    instance = put(bench.spool, shipped(PLAIN), "ws1")
    events.push(bench.redis, [events.Received(instance.id)])
    bench.learn()
    bench.deliver()
    wait_until(lambda: bench._dispatcher._manager.kept, "the instance to be kept")
    bench.spool.add_attempt(instance.id, "ws1")  # it was refused before it was taken
    ordering.resend(bench.settings, Filter(study=instance.study_instance_uid), yes=True)
    assert "1 delivery to be sent once more:" in capsys.readouterr().out
    assert bench.deliver().parcels[0].instance == instance.id
    wait_until(lambda: delivered(bench.spool, EVERYTHING, time.time()), "the marker")
    assert bench.spool.state(instance.id).attempts == {}
    wait_until(lambda: "resent" in told(bench, instance), "the history")


def test_nothing_is_resent_where_nothing_is_kept(bench, capsys):
    ordering.resend(bench.settings, EVERYTHING, yes=True)
    assert "keep_delivered is not configured" in capsys.readouterr().out


def test_a_dispatcher_refuses_to_start_while_deliveries_wait_for_a_destination_that_is_gone(bench):
    for _ in range(2):
        put(bench.spool, shipped(PLAIN), "old")
    dispatcher = service.Dispatcher(bench.settings, bench.spool, client_for(bench.settings.broker))
    with pytest.raises(Misconfigured, match=r"not in the configuration: old \(2\).*reroute.*--park"):
        dispatcher.run()


def test_what_waits_for_a_destination_that_is_gone_is_rerouted_before_the_start(bench, capsys):
    instance = put(bench.spool, shipped(PLAIN), "old")
    kept = put(bench.spool, shipped(PLAIN), "old", called="NOBODY")
    bench.configure({"name": "ws1"})
    bench.settings = bench.settings.model_copy(
        update={"route": [bench.settings.route[0].model_copy(update={"called": "FERRY"})]}
    )
    ordering.reroute(bench.settings, EVERYTHING, yes=True)
    said = capsys.readouterr().out
    assert "1 instance to be rerouted" in said
    assert "from old to ws1" in said
    assert "No route takes what came from PACS (127.0.0.1) to NOBODY now: 1 instance left alone" in said
    dispatcher = service.Dispatcher(bench.settings, bench.spool, client_for(bench.settings.broker))
    with pytest.raises(Misconfigured, match=r"old \(1\)"):
        dispatcher.run()  # the one that no route takes
    bench.spool.redirect(kept.id, ("ws1",), "by hand")
    bench.start()
    bench.learn()
    batch = bench.deliver()
    assert {parcel.instance for parcel in batch.parcels} == {instance.id, kept.id}
    bench.wait_retired(instance)
    assert told(bench, instance)["rerouted"].startswith("from old to ws1 (")


def test_parked_deliveries_are_dead_with_the_reason_and_can_be_rerouted(bench, capsys):
    instance = put(bench.spool, shipped(PLAIN), "old")
    bench.start(park=True)
    wait_until(lambda: bench.spool.state(instance.id).dead, "the delivery to be parked")
    running(bench)
    (done,) = dead(bench.spool, Filter(destination="old"), time.time())
    assert done.reason == "parked: the configuration has no destination old any more"
    wait_until(lambda: bench.spool.status()["lanes"][-1]["dead"], "the status")
    assert bench.spool.status()["lanes"][-1]["title"] == "(not in the configuration)"
    ordering.retry(bench.settings, EVERYTHING, yes=True)
    said = capsys.readouterr().out
    assert "no destination old: 1 delivery left dead" in said
    assert "No dead delivery" in said
    ordering.reroute(bench.settings, EVERYTHING, yes=True)
    bench.learn()
    bench.deliver()
    bench.wait_retired(instance)


def test_rerouting_touches_neither_what_is_delivered_nor_what_goes_the_right_way(bench, capsys):
    half = put(bench.spool, shipped(PLAIN), "old", "ws1")
    bench.spool.mark_delivered(half.id, "ws1", {"status": 0, "at": time.time()})
    put(bench.spool, shipped(PLAIN), "ws1")
    ordering.reroute(bench.settings, Filter(destination="ws1"), yes=True)
    assert "Nothing to reroute" in capsys.readouterr().out
    ordering.reroute(bench.settings, EVERYTHING, yes=True)
    assert "1 instance to be rerouted" in capsys.readouterr().out
    bench.start()
    bench.wait_retired(half)  # ws1 has it, old is not to get it


def test_an_order_that_is_none_is_set_aside_and_the_others_are_carried_out(bench):
    instance = a_dead_one(bench.spool, "ws1")
    for name, content in (("1", b"[]"), ("2", b"{"), ("3", b'{"schema": 0}'), ("4", b'{"schema": 1}')):
        (bench.spool.orders / f"{name}.json").write_bytes(content)
    ordering.discard(bench.settings, EVERYTHING, yes=True)
    bench.start()
    bench.wait_retired(instance)
    assert sorted(path.name for path in bench.spool.orders.iterdir()) == [
        f"{number}.refused" for number in (1, 2, 3, 4)
    ]


def test_many_items_are_carried_out_a_few_at_a_time(bench):
    items = tuple(Item(f"{number:048x}", f"1.2.{number}") for number in range(120))
    paths = orders.give(bench.spool.orders, Order(Act.NOTE, items, "noted"))
    assert [len(orders.read(path).items) for path in paths] == [50, 50, 20]
    assert orders.outstanding(bench.spool.orders) == paths


def test_orders_for_what_an_earlier_dispatchers_batch_still_runs_do_not_send_it_twice(bench):
    bench.start()
    instance = put(bench.spool, shipped(PLAIN), "ws1")
    events.push(bench.redis, [events.Received(instance.id)])
    bench.learn()
    batch = bench.fetch(DeliverBatch)
    with bench.spool.leases.acquire(batch.id) as held:
        assert held
        bench.stop()
        bench.spool.forget_status()
        bench.start()
        running(bench)
        order = Order(Act.NOTE, (Item(instance.id, instance.sop_instance_uid),), "looked at")
        (path,) = orders.give(bench.spool.orders, order)
        wait_until(lambda: not path.exists(), "the order to be carried out")
        wait_until(lambda: told(bench, instance).get("operator"), "the history")
        assert instance.id not in bench._dispatcher._manager.entries
        bench.spool.mark_delivered(instance.id, "ws1", {"status": 0, "at": time.time()})
    bench.wait_retired(instance)


def test_dead_deliveries_are_found_by_destination_study_instance_reason_and_age(tmp_path):
    spool = a_spool(tmp_path)
    old = a_dead_one(spool, "ws1", "ws2", hours=50)
    new = a_dead_one(spool, "ws1", hours=1, reason="no presentation context: Secondary Capture")
    spool.mark_delivered(old.id, "ws2", {"status": 0})
    two = a_dead_one(spool, "ws2", hours=10)

    def found(**keys):
        return [(done.instance.id, done.destination) for done in dead(spool, Filter(**keys), time.time())]

    everything = [(old.id, "ws1"), (two.id, "ws2"), (new.id, "ws1")]
    assert found() == everything
    assert found(destination="ws2") == [(two.id, "ws2")]
    assert found(study=new.study_instance_uid) == everything  # copies of one file
    assert found(study="1.2.3") == []
    assert found(sop_instance_uid=new.sop_instance_uid) == [(new.id, "ws1")]
    assert found(sop_instance_uid="1.2.3") == []
    assert found(reason="secondary") == [(new.id, "ws1")]
    assert found(older_than=48 * 3600) == [(old.id, "ws1")]
    assert found(newer_than=11 * 3600) == [(two.id, "ws2"), (new.id, "ws1")]
    assert found(newer_than=11 * 3600, older_than=2 * 3600) == [(two.id, "ws2")]


def test_no_destination_can_have_the_name_under_which_a_workers_attempts_are_counted():
    with pytest.raises(ValueError, match="cannot name a destination"):
        Destination(**ws(TRANSCODING))


# An older object after a newer one with its SOP Instance UID


def a_newer_one(spool, older, *destinations):
    """Another object with the SOP Instance UID of `older`, received later."""
    instance = replace(
        older,
        id=older.id[:16] + uuid.uuid4().hex,
        received_at=older.received_at + 1,
        destinations=destinations or older.destinations,
    )
    staged = spool.incoming / uuid.uuid4().hex
    staged.write_bytes(spool.received(older.id).read_bytes())
    assert spool.commit(staged, instance, dataset_offset(staged) - len(records.RECEIVED_ROOM))
    return instance


def an_overtaken_one(bench):
    """A dead one, and a newer one that was delivered meanwhile and has left the spool."""
    older = a_dead_one(bench.spool, "ws1")
    bench.start()
    running(bench)
    newer = a_newer_one(bench.spool, older)
    events.push(bench.redis, [events.Received(newer.id)])
    bench.learn()
    bench.deliver()
    bench.wait_retired(newer)
    return older, newer


def test_a_dead_one_is_not_retried_over_a_newer_one_that_was_delivered(bench, capsys):
    older, _ = an_overtaken_one(bench)
    print_dead_list(compared(bench.spool, 9e9, dead(bench.spool, EVERYTHING, time.time())), as_json=False)
    assert "a newer object with this SOP Instance UID was received at" in capsys.readouterr().out
    ordering.retry(bench.settings, EVERYTHING, yes=True)
    said = capsys.readouterr().out
    assert "1 delivery left alone" in said
    assert f"ws1: {older.sop_instance_uid}: a newer object" in said
    assert "and was delivered at" in said
    assert "No dead delivery" in said
    assert bench.spool.state(older.id).dead == {"ws1"}
    ordering.retry(bench.settings, EVERYTHING, yes=True, older_too=True)
    assert bench.deliver().parcels[0].instance == older.id
    bench.wait_retired(older)


def test_an_order_does_not_send_what_a_newer_one_has_overtaken_since_it_was_given(bench):
    older = a_dead_one(bench.spool, "ws1")
    other = a_dead_one(bench.spool, "ws1")
    ordering.retry(bench.settings, EVERYTHING, yes=True)
    newer = a_newer_one(bench.spool, older)
    bench.spool.mark_delivered(newer.id, "ws1", {"status": 0, "at": time.time()})
    bench.start()
    bench.learn()
    assert [parcel.instance for parcel in bench.deliver().parcels] == [other.id]
    assert bench.spool.state(older.id).dead == {"ws1"}
    assert told(bench, older)["left alone"].startswith("not sent again: a newer object")


@pytest.mark.parametrize("standing", ["waits for this destination", "is dead for this destination too"])
def test_a_dead_one_is_not_retried_before_a_newer_one_that_is_still_to_come(bench, capsys, standing):
    older = a_dead_one(bench.spool, "ws1")
    newer = a_newer_one(bench.spool, older)
    if "dead" in standing:
        bench.spool.mark_dead(newer.id, "ws1", REFUSED | {"at": time.time()})
    ordering.retry(bench.settings, EVERYTHING, yes=True)
    assert standing in capsys.readouterr().out
    given = [
        item.instance for path in orders.outstanding(bench.spool.orders) for item in orders.read(path).items
    ]
    assert given == ([newer.id] if "dead" in standing else [])


def test_a_newer_one_for_another_destination_does_not_hold_an_older_one_up(bench):
    older = a_dead_one(bench.spool, "ws1")
    a_newer_one(bench.spool, older, "elsewhere")
    ordering.retry(bench.settings, EVERYTHING, yes=True)
    assert len(orders.outstanding(bench.spool.orders)) == 1


def test_where_the_history_does_not_reach_back_nobody_knows_whether_a_newer_one_came(bench, capsys):
    bench.configure({"name": "ws1"}, keep_history="1h")
    older = a_dead_one(bench.spool, "ws1")
    change_record(bench.spool, older, received_at=time.time() - 7200)
    ordering.retry(bench.settings, EVERYTHING, yes=True)
    assert "the history does not reach back so far (keep_history)" in capsys.readouterr().out
    ordering.retry(bench.settings, EVERYTHING, yes=True, older_too=True)
    assert len(orders.outstanding(bench.spool.orders)) == 1


def test_neither_is_one_resent_or_rerouted_over_a_newer_one(bench, capsys):
    sent = put(bench.spool, shipped(PLAIN), "ws1", "old")
    bench.spool.mark_delivered(sent.id, "ws1", {"status": 0, "at": time.time()})
    a_newer_one(bench.spool, sent, "ws1")
    waiting = put(bench.spool, shipped(PLAIN), "old")
    a_newer_one(bench.spool, waiting, "ws1")
    ordering.resend(bench.settings, EVERYTHING, yes=True)
    assert f"ws1: {sent.sop_instance_uid}: a newer object" in capsys.readouterr().out
    ordering.reroute(bench.settings, Filter(sop_instance_uid=waiting.sop_instance_uid), yes=True)
    said = capsys.readouterr().out
    assert f"ws1: {waiting.sop_instance_uid}: a newer object" in said
    assert "Nothing to reroute" in said
    assert orders.outstanding(bench.spool.orders) == []
    ordering.resend(bench.settings, EVERYTHING, yes=True, older_too=True)
    ordering.reroute(bench.settings, EVERYTHING, yes=True, older_too=True)
    assert len(orders.outstanding(bench.spool.orders)) == 2


# Sent again after an operator's decision


def test_what_was_discarded_for_one_destination_goes_there_when_it_is_sent_again(tmp_path):
    (file,) = fresh_copies(PLAIN, 1, tmp_path / "pacs")
    with an_ingest(tmp_path, destination=[ws("ws1"), ws("ws2")], route=[{"to": ["ws1", "ws2"]}]) as ingest:
        assert send(ingest.port, [file]).returncode == 0
        (first,) = ingest.instances()
        ingest.spool.redirect(first.id, ("ws2",), "discarded")
        assert send(ingest.port, [file]).returncode == 0
        destinations = [ingest.spool.state(i.id).destinations for i in ingest.instances()]
    assert sorted(destinations) == [("ws1", "ws2"), ("ws2",)]


def ws(name):
    return {"name": name, "title": name.upper(), "host": "127.0.0.1", "port": 104}


# Quarantine


@pytest.fixture
def quarantined(tmp_path, monkeypatch):
    """An ingest that did not understand one file when it came, and does now; and the file."""
    (file,) = fresh_copies(PLAIN, 1, tmp_path / "pacs")

    def not_yet(*_):
        raise Malformed("written in tomorrow's VR")

    with an_ingest(tmp_path) as ingest:
        with monkeypatch.context() as patch:
            patch.setattr(reception, "read_header", not_yet)
            send(ingest.port, [file])
        assert not ingest.instances()
        yield ingest, file


def test_what_is_understood_now_goes_from_the_quarantine_to_its_destinations(quarantined, capsys):
    ingest, file = quarantined
    (kept,) = quarantine.select(ingest.settings, EVERYTHING, "")
    quarantine.show([kept], as_json=False)
    shown = capsys.readouterr().out
    assert uid_of(file) in shown
    assert "written in tomorrow's VR" in shown
    as_sent = data_set_of(ingest.spool.quarantine / kept.id / "received.dcm")
    assert quarantine.retry(ingest.settings, [kept], yes=True)
    (instance,) = ingest.instances()
    assert instance.sop_instance_uid == uid_of(file)
    assert instance.received_at == kept.received_at
    assert ingest.encoded(instance) == as_sent
    assert list(ingest.spool.quarantine.iterdir()) == []
    assert ingest.leftovers() == []
    acts = [orders.read(path) for path in orders.outstanding(ingest.spool.orders)]
    assert [order.act for order in acts] == [Act.NOTE, Act.RETRY]
    assert "is understood now" in acts[0].words


def test_what_was_in_quarantine_does_not_follow_a_newer_one(quarantined, capsys):
    ingest, file = quarantined
    (kept,) = quarantine.select(ingest.settings, EVERYTHING, "")
    assert send(ingest.port, [file]).returncode == 0  # it is understood now, and was sent again
    (newer,) = ingest.instances()
    assert not quarantine.retry(ingest.settings, [kept], yes=True)
    assert "stays: ws1: a newer object with this SOP Instance UID" in capsys.readouterr().out
    assert [instance.id for instance in ingest.instances()] == [newer.id]
    assert quarantine.retry(ingest.settings, [kept], yes=True, older_too=True)


def test_what_is_not_understood_admitted_or_routed_now_stays_in_the_quarantine(quarantined, capsys):
    ingest, _ = quarantined
    (kept,) = quarantine.select(ingest.settings, EVERYTHING, "")
    path = ingest.spool.quarantine / kept.id / "received.dcm"
    content = path.read_bytes()
    nowhere = ingest.settings.model_copy(
        update={"route": [ingest.settings.route[0].model_copy(update={"calling": "NOBODY"})]}
    )
    nobody = ingest.settings.model_copy(
        update={"ae": [ingest.settings.ae[0].model_copy(update={"title": "X"})]}
    )
    cut, flipped = content[:-100], content[:-1] + bytes([content[-1] ^ 1])
    for settings, bytes_, words in (
        (nowhere, content, "no route for"),
        (nobody, content, "none of ours"),
        (ingest.settings, cut, "stays:"),
        (ingest.settings, flipped, "not what was received"),
    ):
        path.write_bytes(bytes_)
        assert not quarantine.retry(settings, [kept], yes=True)
        assert words in capsys.readouterr().out
        assert path.read_bytes() == bytes_
        assert ingest.instances() == []
        assert ingest.leftovers() == []
    path.unlink()
    assert not quarantine.retry(ingest.settings, [kept], yes=True)
    assert "No such file" in capsys.readouterr().out


def test_a_retry_of_the_quarantine_that_was_cut_after_the_commit_is_no_second_instance(quarantined):
    ingest, _ = quarantined
    (kept,) = quarantine.select(ingest.settings, EVERYTHING, "")
    folder = ingest.spool.quarantine / kept.id
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert quarantine.retry(ingest.settings, [kept], yes=True)
    folder.mkdir()
    for name, bytes_ in content.items():
        (folder / name).write_bytes(bytes_)
    assert quarantine.retry(ingest.settings, [kept], yes=True)
    assert len(ingest.instances()) == 1
    assert not folder.exists()


def test_what_is_discarded_from_the_quarantine_is_gone_and_noted(quarantined):
    ingest, file = quarantined
    assert quarantine.select(ingest.settings, Filter(reason="another"), "") == []
    assert quarantine.select(ingest.settings, EVERYTHING, "zz") == []
    found = quarantine.select(ingest.settings, Filter(sop_instance_uid=uid_of(file)), "")
    quarantine.discard(ingest.settings, found, yes=True)
    assert list(ingest.spool.quarantine.iterdir()) == []
    assert list(ingest.spool.trash.iterdir()) == []
    (path,) = orders.outstanding(ingest.spool.orders)
    order = orders.read(path)
    assert order.act is Act.NOTE
    assert "tomorrow's VR" in order.words


def test_another_user_cannot_put_into_the_spool_what_its_owner_could_not_remove(quarantined, monkeypatch):
    ingest, _ = quarantined
    found = quarantine.select(ingest.settings, EVERYTHING, "")
    monkeypatch.setattr(quarantine.os, "geteuid", lambda: 4321)
    with pytest.raises(Misconfigured, match="run this as"):
        quarantine.retry(ingest.settings, found, yes=True)
    assert ingest.instances() == []
