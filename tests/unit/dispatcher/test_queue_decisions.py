"""The queue manager where deliveries wait, die, are kept, or are changed by an operator."""

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, TranscodeBatch
from dispatcher.circuit import Circuit
from dispatcher.commands import DropRenditions, Found, Lost, MarkDead, Note, NotFound, Reread, Retire
from tests.support.stages.queue import (
    delivered,
    destination,
    feed,
    found,
    manager,
    of,
    only,
    refused,
    rendered,
)

UID = "1.2.77"
HOUR = 3600.0


def buried(commands):
    return [c for c in commands if isinstance(c, MarkDead)]


def parcels(commands):
    return [p.instance for batch in of(commands, DeliverBatch) for p in batch.parcels]


# One SOP Instance UID, other content


def test_objects_with_one_uid_are_sent_one_after_the_other_in_order_of_arrival():
    queue = manager(destination(max_associations=4))
    older = found(1, syntax=EXPLICIT_LE, uid=UID, received_at=1.0)
    newer = found(2, syntax=EXPLICIT_LE, uid=UID, received_at=2.0)
    commands = feed(queue, older, newer)
    assert parcels(commands) == ["i1"]
    commands = feed(queue, *delivered(only(commands, DeliverBatch)))
    assert parcels(commands) == ["i2"]


def test_the_newer_object_waits_though_the_older_one_has_to_be_rendered_first():
    queue = manager()
    commands = feed(queue, found(1, uid=UID, received_at=1.0))
    transcode = only(commands, TranscodeBatch)
    assert not parcels(feed(queue, found(2, syntax=EXPLICIT_LE, uid=UID, received_at=2.0)))
    commands = feed(queue, *rendered(transcode), events.Finished(transcode.id))
    assert parcels(commands) == ["i1"]


def test_an_older_object_that_is_heard_of_later_is_still_sent_first():
    queue = manager()
    queue.handle(found(2, syntax=EXPLICIT_LE, uid=UID, received_at=2.0), 0.0)
    queue.handle(found(1, syntax=EXPLICIT_LE, uid=UID, received_at=1.0), 0.0)
    assert parcels(queue.schedule(0.0)) == ["i1"]


def test_the_newer_object_goes_when_the_older_one_is_dead():
    queue = manager(destination(max_attempts=1))
    first = only(feed(queue, found(1, syntax=EXPLICIT_LE, uid=UID, received_at=1.0)), DeliverBatch)
    queue.handle(found(2, syntax=EXPLICIT_LE, uid=UID, received_at=2.0), 0.0)
    commands = feed(queue, refused(first, final=False), events.Finished(first.id))
    assert buried(commands)
    assert parcels(commands) == ["i2"]


def test_one_destination_of_the_older_object_does_not_hold_up_another():
    queue = manager(destination("ws1"), destination("ws2"))
    older = found(1, ("ws1",), syntax=EXPLICIT_LE, uid=UID, received_at=1.0)
    newer = found(2, ("ws1", "ws2"), syntax=EXPLICIT_LE, uid=UID, received_at=2.0)
    batches = of(feed(queue, older, newer), DeliverBatch)
    assert {(b.destination, p.instance) for b in batches for p in b.parcels} == {("ws1", "i1"), ("ws2", "i2")}


def test_that_one_waits_for_another_stands_in_the_history():
    queue = manager()
    commands = feed(queue, found(1, uid=UID, received_at=1.0), found(2, uid=UID, received_at=2.0))
    assert [(c.instance, c.what) for c in commands if isinstance(c, Note) and c.what == "queued"] == [
        ("i2", "queued")
    ]


def test_nothing_is_remembered_of_uids_once_they_are_gone():
    queue = manager()
    feed(queue, found(1, uid=UID, received_at=1.0), found(2, uid=UID, received_at=2.0))
    feed(queue, NotFound("i1"), NotFound("i2"))
    assert not queue._state.duplicates._first
    assert not queue._state.duplicates._shared


# Too old


def test_what_could_not_be_delivered_within_max_age_is_dead_with_the_last_reason():
    queue = manager(destination(max_age=HOUR))
    deliver = only(feed(queue, found(1, syntax=EXPLICIT_LE, received_at=0.0)), DeliverBatch)
    feed(queue, events.Unreachable(deliver.id, "ws1", "connection refused"), events.Finished(deliver.id))
    assert not buried(queue.schedule(HOUR - 1))
    (bury,) = buried(queue.schedule(HOUR))
    assert "connection refused" in bury.reason
    assert "max_age" in bury.reason
    assert queue.parked == {"i1"}


def test_what_is_being_sent_is_not_too_old_until_its_batch_has_ended():
    queue = manager(destination(max_age=HOUR))
    deliver = only(feed(queue, found(1, syntax=EXPLICIT_LE)), DeliverBatch)
    assert not buried(queue.schedule(HOUR + 5))
    assert Retire("i1") in feed(queue, *delivered(deliver), now=HOUR + 6)
    assert not buried(queue.schedule(2 * HOUR))


def test_what_a_rendition_waits_for_is_told_once_and_is_the_reason_when_its_time_is_over():
    queue = manager(destination(max_age=HOUR))
    commands = feed(queue, found(1))
    told = []
    for now in (1.0, 500.0, 1000.0):
        batch = only(commands, TranscodeBatch)
        reason = f"waits for room: {now:g} MB"
        ends = (events.Postponed(batch.id, "i1", batch.spec.key, reason), events.Finished(batch.id), found(1))
        commands = [*feed(queue, *ends, now=now), *queue.schedule(now + 400)]
        told += [c for c in commands if isinstance(c, Note) and c.what == "postponed"]
    assert [(note.instance, note.destination, note.words) for note in told] == [
        ("i1", "ws1", "waits for room: 1 MB")
    ]
    batch = only(commands, TranscodeBatch)
    feed(queue, Lost(batch.id, died=False), found(1), now=1500.0)
    (bury,) = buried(queue.schedule(HOUR + 400))
    assert "the last was: waits for room: 1000 MB" in bury.reason


def test_what_a_rendition_waited_for_is_forgotten_once_it_is_made():
    queue = manager(destination(max_age=HOUR))
    batch = only(feed(queue, found(1)), TranscodeBatch)
    ends = (events.Postponed(batch.id, "i1", batch.spec.key, "waits: x"), events.Finished(batch.id), found(1))
    batch = only(feed(queue, *ends), TranscodeBatch)
    sent = only(feed(queue, *rendered(batch), events.Finished(batch.id), now=100.0), DeliverBatch)
    feed(queue, events.Unreachable(sent.id, "ws1", "connection refused"), now=101.0)
    (bury,) = buried(queue.schedule(HOUR + 400))
    assert "the last was: connection refused" in bury.reason


def test_what_is_older_than_max_age_at_start_is_dead_at_once():
    queue = manager(destination(max_age=HOUR))
    assert buried(feed(queue, found(1, syntax=EXPLICIT_LE), now=2 * HOUR))


# An object that its peer cannot bear


def abort(queue, batch, now, *, broke_off=True):
    instance = batch.parcels[0].instance
    gone = events.Unreachable(batch.id, "ws1", "aborted by the destination", instance, broke_off)
    return feed(queue, gone, events.Finished(batch.id), now=now)


def trial(queue, now):
    """The deliver batch that follows the next probe's answer."""
    lane = queue.lanes["ws1"]
    queue.schedule(max(now, lane.circuit.probe_at))
    queue.handle(events.Learned(lane.probe, "ws1", {}, probe=True), now)
    (batch,) = of(queue.schedule(now), DeliverBatch)
    return batch


def test_an_object_that_makes_its_peer_abort_each_time_is_dead_after_max_attempts():
    queue = manager(destination(max_attempts=3))
    batch = only(feed(queue, found(1, syntax=EXPLICIT_LE)), DeliverBatch)
    for now in (10.0, 1000.0):
        abort(queue, batch, now)
        batch = trial(queue, now)
    assert not queue.parked
    (bury,) = buried(abort(queue, batch, 5000.0))
    assert "aborted by the destination" in bury.reason


def test_a_peer_that_falls_silent_costs_no_object_an_attempt():
    queue = manager(destination(max_attempts=1))
    batch = only(feed(queue, found(1, syntax=EXPLICIT_LE)), DeliverBatch)
    abort(queue, batch, 10.0, broke_off=False)
    assert not queue.parked
    assert queue.lanes["ws1"].circuit.state is Circuit.OPEN


def test_what_was_given_back_and_is_read_from_the_spool_again_is_in_a_batch_once():
    queue = manager()
    all_three = [found(n, syntax=EXPLICIT_LE) for n in (1, 2, 3)]
    batch = only(feed(queue, *all_three), DeliverBatch)
    feed(queue, events.Unreachable(batch.id, "ws1", "the spool is full"), events.Finished(batch.id))
    feed(queue, *all_three)  # Redis forgot, or another destination's batch was lost
    first = trial(queue, 10.0)
    commands = feed(queue, *delivered(first), events.Finished(first.id), now=11.0)
    assert [p.instance for p in first.parcels] + parcels(commands) == ["i1", "i2", "i3"]


# Kept, sent again, retried, discarded, rerouted


def test_a_delivered_instance_is_kept_as_long_as_is_configured():
    queue = manager(keep_delivered=HOUR)
    deliver = only(feed(queue, found(1, syntax=EXPLICIT_LE)), DeliverBatch)
    commands = feed(queue, *delivered(deliver), now=100.0)
    assert DropRenditions("i1") in commands
    assert Retire("i1") not in commands
    assert queue.tracks("i1")
    assert Retire("i1") not in queue.schedule(HOUR + 99)
    assert Retire("i1") in queue.schedule(HOUR + 100)


def test_what_is_dead_and_what_is_kept_is_counted_with_its_bytes_as_it_comes_and_goes():
    queue = manager(destination("ws1"), destination("ws2"), keep_delivered=HOUR)
    both = ("ws1", "ws2")
    feed(queue, found(1, both, dead=["ws1"], size=10), found(2, both, dead=both, size=5))
    feed(queue, found(2, both, dead=both, size=5))  # told again
    feed(queue, found(3, delivered=["ws1"], delivered_at=1.0, size=7), now=2.0)
    held = queue.with_dead, queue.kept
    assert [(len(some), some.bytes) for some in held] == [(2, 15), (1, 7)]
    feed(queue, found(1, both, size=10), NotFound("i2"), now=3.0)
    assert [(len(some), some.bytes) for some in held] == [(0, 0), (1, 7)]
    feed(queue, now=2 * HOUR)
    assert [(len(some), some.bytes) for some in held] == [(0, 0), (0, 0)]


def test_what_was_kept_before_a_restart_is_kept_for_the_rest_of_its_time():
    queue = manager(keep_delivered=HOUR)
    assert DropRenditions("i1") in feed(queue, found(1, delivered=["ws1"], delivered_at=50.0), now=100.0)
    assert Retire("i1") in queue.schedule(HOUR + 50)


def test_what_is_kept_can_be_sent_once_more_and_is_kept_anew():
    queue = manager(keep_delivered=HOUR)
    feed(queue, found(1, delivered=["ws1"], delivered_at=50.0), now=100.0)
    deliver = only(feed(queue, found(1, syntax=EXPLICIT_LE), now=200.0), DeliverBatch)
    assert Retire("i1") not in queue.schedule(HOUR + 51)
    feed(queue, *delivered(deliver), now=HOUR + 60)
    assert Retire("i1") in queue.schedule(2 * HOUR + 60)


def test_a_dead_delivery_whose_marker_is_taken_away_is_delivered_again():
    queue = manager()
    feed(queue, found(1, dead=["ws1"]))
    assert queue.lanes["ws1"].dead == 1
    assert parcels(feed(queue, found(1, syntax=EXPLICIT_LE))) == ["i1"]
    assert queue.lanes["ws1"].dead == 0
    assert not queue.parked


def test_an_instance_whose_only_delivery_is_discarded_is_retired():
    queue = manager()
    feed(queue, found(1, dead=["ws1"]))
    assert Retire("i1") in feed(queue, found(1, redirected=()))
    assert queue.lanes["ws1"].dead == 0
    assert not queue.parked


def test_a_rerouted_instance_goes_where_it_is_sent_now_and_nowhere_else():
    queue = manager(destination("ws1"), destination("ws2"))
    feed(queue, found(1, ("ws1",)))
    batches = of(feed(queue, found(1, ("ws1",), syntax=EXPLICIT_LE, redirected=("ws2",))), DeliverBatch)
    assert [batch.destination for batch in batches] in ([], ["ws2"])
    assert list(queue.entries["i1"].deliveries) == ["ws2"]
    assert queue.lanes["ws1"].pending == 0


# Destinations that are no more


def test_deliveries_to_a_destination_that_was_removed_are_counted():
    queue = manager()
    feed(queue, found(1, ("gone", "ws1")), found(2, ("gone",)))
    assert queue.orphans() == {"gone": 2}


def test_told_to_park_it_buries_what_waits_for_a_removed_destination_and_delivers_the_rest():
    queue = manager(park=True)
    commands = feed(queue, found(1, ("gone", "ws1"), syntax=EXPLICIT_LE))
    assert [(c.destination, "parked" in c.reason) for c in buried(commands)] == [("gone", True)]
    assert parcels(commands) == ["i1"]
    assert not queue.orphans()


def test_what_was_parked_for_a_removed_destination_is_delivered_once_it_is_back_and_retried():
    queue = manager(destination("gone"))
    state = found(1, ("gone",), dead=["gone"]).state
    feed(queue, Found(state))
    assert parcels(feed(queue, found(1, ("gone",), syntax=EXPLICIT_LE))) == ["i1"]


def test_work_that_was_lost_is_looked_up_on_the_spool_whatever_else_is_known():
    queue = manager(keep_delivered=HOUR)
    deliver = only(feed(queue, found(1, syntax=EXPLICIT_LE)), DeliverBatch)
    assert Reread(("i1",)) in feed(queue, events.Finished(deliver.id))
