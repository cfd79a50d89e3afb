"""The queue manager where destinations are off, and what it has ready for those that are busy."""

import pytest

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, ProbeBatch
from dispatcher.circuit import Circuit
from dispatcher.commands import Lost, Note, Reread
from dispatcher.delivering import MAX_DELIVER_OBJECTS
from dispatcher.lanes import NEARLY_THROUGH, Place
from tests.support.stages.queue import asked, delivered, destination, feed, found, manager, of, only


def unreachable(queue, deliver, now=0.0):
    return feed(
        queue,
        events.Unreachable(deliver.id, deliver.destination, "connection refused"),
        events.Finished(deliver.id),
        now=now,
    )


def test_an_unreachable_destination_gets_nothing_but_probes():
    queue = manager()
    deliver = only(feed(queue, found(1, syntax=EXPLICIT_LE)), DeliverBatch)
    assert [c.what for c in unreachable(queue, deliver)] == ["not answering"]
    commands = feed(queue, found(2, syntax=EXPLICIT_LE), found(3), now=1.0)
    assert not asked(commands)
    commands = feed(queue, now=7.0)
    assert [type(c.batch) for c in commands] == [ProbeBatch]
    assert feed(queue, now=8.0) == []


def test_an_answered_probe_lets_one_object_try_and_then_all():
    queue = manager()
    deliver = only(feed(queue, *(found(n, syntax=EXPLICIT_LE) for n in range(10))), DeliverBatch)
    unreachable(queue, deliver)
    probe = only(feed(queue, now=7.0), ProbeBatch)
    commands = feed(
        queue, events.Learned(probe.id, "ws1", {}, probe=True), events.Finished(probe.id), now=7.1
    )
    trial = only(commands, DeliverBatch)
    assert [p.instance for p in trial.parcels] == ["i0"]
    commands = feed(queue, *delivered(trial), events.Finished(trial.id), now=7.2)
    assert [p.instance for p in only(commands, DeliverBatch).parcels] == [f"i{n}" for n in range(1, 10)]


def test_the_history_tells_once_when_a_destination_stops_answering_and_when_it_answers_again():
    queue = manager()
    deliver = only(feed(queue, *(found(n, syntax=EXPLICIT_LE) for n in range(10))), DeliverBatch)
    commands = unreachable(queue, deliver, now=1.0)
    for now in (7.0, 30.0):
        commands += feed(queue, now=now)
        probe = of(commands, ProbeBatch)[-1]
        down = events.Unreachable(probe.id, "ws1", "no answer"), events.Finished(probe.id)
        commands += feed(queue, *down, now=now + 1)
    probe = only(feed(queue, now=100.0), ProbeBatch)
    answer = events.Learned(probe.id, "ws1", {}, probe=True), events.Finished(probe.id)
    commands += feed(queue, *answer, now=100.1)
    trial = of(commands, DeliverBatch)[-1]
    commands += feed(queue, *delivered(trial), events.Finished(trial.id), now=100.2)
    told = [(c.instance, c.what, c.destination, c.words) for c in commands if isinstance(c, Note)]
    assert [line for line in told if not line[0]] == [
        ("", "not answering", "ws1", "connection refused"),
        ("", "answering again", "ws1", ""),
    ]


def test_an_object_that_makes_its_peer_abort_does_not_hold_up_the_others():
    queue = manager()
    deliver = only(feed(queue, *(found(n, syntax=EXPLICIT_LE) for n in range(3))), DeliverBatch)
    aborted = events.Unreachable(deliver.id, "ws1", "aborted by the destination", "i0")
    trial = only(feed(queue, aborted, events.Finished(deliver.id)), DeliverBatch)
    assert [p.instance for p in trial.parcels] == ["i1"]
    rest = only(feed(queue, *delivered(trial), events.Finished(trial.id), now=7.2), DeliverBatch)
    assert [p.instance for p in rest.parcels] == ["i2"]


def test_no_delivery_loses_an_attempt_while_the_destination_is_off():
    queue, now = manager(destination(max_attempts=1)), 0.0
    commands = feed(queue, found(1, syntax=EXPLICIT_LE))
    for _ in range(50):
        now += 700.0
        for deliver in of(commands, DeliverBatch):
            commands = unreachable(queue, deliver, now)
        for probe in of(commands, ProbeBatch):
            down = events.Unreachable(probe.id, "ws1", "no answer")
            commands = feed(queue, down, events.Finished(probe.id), now=now)
        commands = feed(queue, now=now + 650)
    assert queue.lanes["ws1"].pending == 1


def test_one_destination_that_is_off_does_not_touch_the_other():
    queue = manager(destination("ws1"), destination("ws2"))
    first, second = of(feed(queue, found(1, ("ws1", "ws2"), syntax=EXPLICIT_LE)), DeliverBatch)
    unreachable(queue, first)
    feed(queue, *delivered(second), events.Finished(second.id))
    commands = feed(queue, found(2, ("ws1", "ws2"), syntax=EXPLICIT_LE))
    assert only(commands, DeliverBatch).destination == "ws2"


def test_a_second_association_that_fails_while_one_works_only_lowers_the_limit():
    queue = manager(destination(max_associations=2))
    many = [found(n, syntax=EXPLICIT_LE, size=200 << 20) for n in range(4)]
    first, second = of(feed(queue, *many), DeliverBatch)
    commands = unreachable(queue, second)
    assert queue.lanes["ws1"].circuit.state is Circuit.CLOSED
    assert [batch.after for batch in of(commands, DeliverBatch)] == [first.id]
    assert of(feed(queue, *delivered(first), events.Finished(first.id)), DeliverBatch)


def ready(*numbers):
    return [found(n, syntax=EXPLICIT_LE) for n in numbers]


def test_a_lane_is_given_its_next_batch_before_the_one_under_way_ends():
    queue = manager()
    first = only(feed(queue, *ready(*range(100))), DeliverBatch)
    assert first.after is None
    assert not of(feed(queue, *ready(100, 101)), DeliverBatch)
    told = delivered(first)
    assert not of(feed(queue, *told[: -NEARLY_THROUGH - 1]), DeliverBatch)
    second = only(feed(queue, told[-NEARLY_THROUGH - 1]), DeliverBatch)
    assert (second.after, len(second.parcels)) == (first.id, 2)
    # One at a time: the second is followed when its turn has come.
    assert not of(feed(queue, *told[-NEARLY_THROUGH:], *ready(102)), DeliverBatch)
    third = only(feed(queue, events.Finished(first.id)), DeliverBatch)
    assert third.after == second.id


def test_a_lane_sends_nothing_while_a_batch_of_an_earlier_dispatcher_does():
    queue = manager(destination(), destination("ws2"))
    queue.pause({"ws1"})
    other = found(2, ("ws2",), syntax=EXPLICIT_LE)
    assert only(feed(queue, *ready(1), other), DeliverBatch).destination == "ws2"
    queue.pause(())
    assert [p.instance for p in only(feed(queue), DeliverBatch).parcels] == ["i1"]


def test_nothing_follows_where_there_are_several_associations():
    """Who is free first takes what there is, however long the others take."""
    queue = manager(destination(max_associations=2))
    _, second = of(feed(queue, *ready(*range(32))), DeliverBatch)
    assert not of(feed(queue, *ready(*range(32, 40))), DeliverBatch)
    third = only(feed(queue, *delivered(second), events.Finished(second.id)), DeliverBatch)
    assert (third.after, len(third.parcels)) == (None, 8)


@pytest.mark.parametrize("associations", [1, 2, 4])
def test_a_destination_that_goes_off_is_left_alone_after_a_batch_for_each_association(associations):
    queue = manager(destination(max_associations=associations))
    batches = of(feed(queue, *ready(*range(100))), DeliverBatch)
    batches += of(feed(queue, *(delivered(batches[0])[:80]), *ready(100, 101)), DeliverBatch)
    failed = 0
    while batches:
        failed += 1
        assert failed <= 2 * associations
        batches += of(unreachable(queue, batches.pop(0)), DeliverBatch)
    assert queue.lanes["ws1"].circuit.state is Circuit.OPEN


def test_what_follows_opens_the_circuit_though_the_end_of_the_other_was_not_heard_of():
    queue = manager()
    first = only(feed(queue, *ready(1)), DeliverBatch)
    second = only(feed(queue, *ready(2)), DeliverBatch)
    feed(queue, *delivered(first))
    unreachable(queue, second)
    assert queue.lanes["ws1"].circuit.state is Circuit.OPEN


def test_what_follows_a_batch_that_failed_opens_the_circuit_no_further():
    queue = manager()
    first = only(feed(queue, *ready(1)), DeliverBatch)
    second = only(feed(queue, *ready(2)), DeliverBatch)
    assert not of(unreachable(queue, first), DeliverBatch)
    circuit = queue.lanes["ws1"].circuit
    assert not of(unreachable(queue, second, now=1.0), DeliverBatch)
    assert queue.lanes["ws1"].circuit == circuit
    assert queue.lanes["ws1"].counts[Place.READY] == 2


def test_what_follows_closes_the_circuit_again_where_it_is_delivered():
    queue = manager()
    first = only(feed(queue, *ready(1)), DeliverBatch)
    second = only(feed(queue, *ready(2)), DeliverBatch)
    unreachable(queue, first)
    again = only(feed(queue, *delivered(second), events.Finished(second.id)), DeliverBatch)
    assert [parcel.instance for parcel in again.parcels] == ["i1"]


def test_nothing_follows_the_one_object_that_tries_whether_its_peer_works_again():
    queue = manager()
    first = only(feed(queue, *ready(1, 2, 3)), DeliverBatch)
    unreachable(queue, first)
    probe = only(feed(queue, now=7.0), ProbeBatch)
    answer = events.Learned(probe.id, "ws1", {}, probe=True)
    assert only(feed(queue, answer, events.Finished(probe.id), now=7.1), DeliverBatch)
    assert not of(feed(queue, *ready(4), now=7.2), DeliverBatch)


def test_what_follows_and_is_lost_is_sent_after_all():
    queue = manager()
    first = only(feed(queue, *ready(1)), DeliverBatch)
    second = only(feed(queue, *ready(2)), DeliverBatch)
    assert Reread(("i2",)) in feed(queue, Lost(second.id, died=True))
    again = only(feed(queue, *ready(2)), DeliverBatch)
    assert again.after == first.id
    feed(queue, *delivered(first), events.Finished(first.id))
    feed(queue, *delivered(again), events.Finished(again.id))
    assert not queue.entries
    assert only(feed(queue, *ready(3)), DeliverBatch).after is None


@pytest.mark.parametrize(
    ("count", "associations", "sizes"),
    [
        (100, 4, [25, 25, 25, 25]),
        (40, 4, [16, 16, 8]),
        (10, 4, [10]),
        (100, 1, [100]),
        (600, 2, [MAX_DELIVER_OBJECTS, MAX_DELIVER_OBJECTS]),
    ],
)
def test_what_is_ready_is_shared_among_the_associations_of_a_lane(count, associations, sizes):
    queue = manager(destination(max_associations=associations))
    batches = of(feed(queue, *ready(*range(count))), DeliverBatch)
    assert [len(batch.parcels) for batch in batches] == sizes


def test_a_probe_that_was_lost_is_asked_again_later():
    queue = manager(learned=False)
    probe = only(feed(queue, found(1)), ProbeBatch)
    assert not of(feed(queue, Lost(probe.id, died=True)), ProbeBatch)
    assert of(feed(queue, now=7.0), ProbeBatch)
