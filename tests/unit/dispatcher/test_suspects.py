"""Whose fault it is where a peer fails over an object: as a table, and in the simulated hospital."""

import pytest

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch
from dispatcher.circuit import OTHERS_WAIT, Circuit
from dispatcher.commands import CountAttempt, Found, MarkDead, Note
from dispatcher.lanes import TURNS
from tests.support.stages.hospital import FAILURES, TIMEOUT, Hospital
from tests.support.stages.queue import delivered, destination, feed, found, manager, of, only, refused

FULL = "out of resources (0xA700)"


def objects(*numbers, **keys):
    return [found(n, syntax=EXPLICIT_LE, **keys) for n in numbers]


def fails(queue, batch, *, at=0, now=0.0, broke_off=False):
    """The peer takes what is before parcel `at` of the batch, and fails over that."""
    instance = batch.parcels[at].instance
    failure = events.Unreachable(batch.id, "ws1", FULL, instance, broke_off, 0xA700)
    return feed(queue, *delivered(batch)[:at], failure, events.Finished(batch.id), now=now)


def takes(queue, batch, now=0.0):
    return feed(queue, *delivered(batch), events.Finished(batch.id), now=now)


def sent(commands):
    return [p.instance for batch in of(commands, DeliverBatch) for p in batch.parcels]


def counted(commands):
    return [c.instance for c in commands if isinstance(c, CountAttempt)]


def buried(commands):
    return [c for c in commands if isinstance(c, MarkDead)]


def test_the_next_object_gets_its_turn_at_once_and_alone():
    queue = manager()
    batch = only(feed(queue, *objects(1, 2, 3)), DeliverBatch)
    commands = fails(queue, batch)
    assert sent(commands) == ["i2"]
    assert not [c for c in commands if isinstance(c, Note) and c.what == "not answering"], "it answers"


def test_where_another_object_passes_the_attempt_is_the_objects_own_and_the_rest_goes_first():
    queue = manager(destination(retry_after=30))
    trial = only(fails(queue, only(feed(queue, *objects(1, 2, 3)), DeliverBatch)), DeliverBatch)
    commands = takes(queue, trial)
    assert counted(commands) == ["i1"]
    assert sent(commands) == ["i3"]
    assert queue.lanes["ws1"].circuit.state is Circuit.CLOSED
    takes(queue, only(commands, DeliverBatch))
    assert not sent(queue.schedule(29.0))
    assert sent(queue.schedule(40.0)) == ["i1"]


def test_an_object_that_is_proven_bad_is_dead_after_max_attempts_though_it_is_alone_by_then():
    queue, now = manager(destination(max_attempts=3)), 0.0
    trial = only(fails(queue, only(feed(queue, *objects(1, 2)), DeliverBatch)), DeliverBatch)
    commands = takes(queue, trial)
    for expected in (1, 2):
        assert counted(commands) == ["i1"], expected
        assert not buried(commands)
        now += 1000.0
        commands = fails(queue, only(feed(queue, now=now), DeliverBatch), now=now)
    (bury,) = buried(commands)
    assert FULL in bury.reason
    assert (bury.status, bury.attempts) == (0xA700, 3)
    assert queue.lanes["ws1"].circuit.state is Circuit.CLOSED


def test_each_attempt_and_its_answer_stand_in_the_history():
    queue = manager()
    commands = fails(queue, only(feed(queue, *objects(1, 2)), DeliverBatch))
    commands += takes(queue, only(commands, DeliverBatch))
    told = [(c.what, c.words) for c in commands if isinstance(c, Note) and c.instance == "i1"]
    assert told == [("failed", FULL), ("attempt", "1 of 5 failed: others are delivered")]


def test_attempts_that_the_spool_counted_before_a_restart_count():
    state = objects(1)[0].state
    queue = manager(destination(max_attempts=3))
    queue.handle(Found(type(state)(state.instance, frozenset(), frozenset(), {"ws1": 2})), 0.0)
    trial = only(fails(queue, only(feed(queue, *objects(2)), DeliverBatch)), DeliverBatch)
    assert buried(takes(queue, trial))


def test_where_no_object_passes_it_is_the_peer_and_nothing_loses_an_attempt():
    queue = manager(destination(max_attempts=1))
    commands, tried = feed(queue, *objects(*range(20))), []
    while batches := of(commands, DeliverBatch):
        tried += [batch.parcels[0].instance for batch in batches]
        commands = fails(queue, batches[0])
        assert not counted(commands)
    assert tried == [f"i{n}" for n in range(TURNS)]
    assert queue.lanes["ws1"].circuit.state is Circuit.OPEN
    assert queue.lanes["ws1"].pending == 20


def answer_probe(queue):
    lane = queue.lanes["ws1"]
    now = lane.circuit.probe_at
    queue.schedule(now)
    return feed(queue, events.Learned(lane.probe, "ws1", {}, probe=True), now=now), now


def test_after_a_probe_what_was_not_tried_goes_first():
    queue = manager()
    commands = feed(queue, *objects(*range(TURNS + 1)))
    while batches := of(commands, DeliverBatch):
        commands = fails(queue, batches[0])
    commands, now = answer_probe(queue)
    assert sent(commands) == [f"i{TURNS}"]
    commands = takes(queue, only(commands, DeliverBatch), now)
    assert not counted(commands)
    assert sent(commands) == [f"i{n}" for n in range(TURNS)]


def test_an_object_alone_opens_the_circuit_and_what_arrives_is_tried_at_once_and_proves_it():
    queue = manager()
    commands = fails(queue, only(feed(queue, *objects(1)), DeliverBatch))
    assert queue.lanes["ws1"].circuit.state is Circuit.OPEN
    assert not counted(commands)
    commands = feed(queue, *objects(2), now=1.0)
    assert sent(commands) == ["i2"]
    assert counted(takes(queue, only(commands, DeliverBatch), 1.1)) == ["i1"]


def test_an_object_alone_is_tried_again_after_each_probe():
    queue = manager()
    fails(queue, only(feed(queue, *objects(1)), DeliverBatch))
    commands, now = answer_probe(queue)
    assert sent(commands) == ["i1"]
    fails(queue, only(commands, DeliverBatch), now=now)
    assert sent(answer_probe(queue)[0]) == ["i1"]


def test_what_arrives_at_a_peer_that_failed_over_all_others_waits_no_longer_than_a_moment():
    queue = manager()
    commands, now = feed(queue, *objects(*range(TURNS))), 0.0
    for _ in range(10):
        while batches := of(commands, DeliverBatch):
            commands = fails(queue, batches[0], now=now)
        commands, now = answer_probe(queue)
    while batches := of(commands, DeliverBatch):
        commands = fails(queue, batches[0], now=now)
    assert queue.lanes["ws1"].circuit.probe_at > now + 2 * OTHERS_WAIT
    commands = feed(queue, *objects(90, 91, 92, 93, 94), now=now)
    while batches := of(commands, DeliverBatch):
        commands = fails(queue, batches[0], now=now)
    assert queue.lanes["ws1"].circuit.probe_at <= now + OTHERS_WAIT


def test_a_peer_that_is_off_after_it_failed_over_an_object_is_at_fault():
    queue = manager(destination(max_attempts=1))
    trial = only(fails(queue, only(feed(queue, *objects(1, 2)), DeliverBatch), broke_off=True), DeliverBatch)
    feed(queue, events.Unreachable(trial.id, "ws1", "connection refused"), events.Finished(trial.id))
    assert queue.lanes["ws1"].circuit.state is Circuit.OPEN
    commands, now = answer_probe(queue)
    commands = takes(queue, only(commands, DeliverBatch), now)
    assert not counted(commands)
    assert sent(commands) == ["i1"]


def test_what_follows_a_batch_that_failed_over_an_object_is_no_further_failure():
    queue = manager()
    first = only(feed(queue, *objects(1)), DeliverBatch)
    second = only(feed(queue, *objects(2, 3)), DeliverBatch)
    assert not sent(fails(queue, first))
    commands = feed(queue, events.Unreachable(second.id, "ws1", FULL), events.Finished(second.id))
    assert sent(commands) == ["i2"]


def test_a_newer_object_with_the_same_uid_waits_until_the_bad_one_is_dead():
    queue = manager(destination(max_attempts=1))
    older, newer = (found(n, syntax=EXPLICIT_LE, uid="1.2.9", received_at=float(n)) for n in (1, 2))
    trial = only(fails(queue, only(feed(queue, older, newer, *objects(3)), DeliverBatch)), DeliverBatch)
    assert [p.instance for p in trial.parcels] == ["i3"]
    commands = takes(queue, trial)
    assert [c.instance for c in buried(commands)] == ["i1"]
    assert sent(commands) == ["i2"]


def test_a_refusal_proves_nothing_against_another_object():
    queue = manager()
    trial = only(fails(queue, only(feed(queue, *objects(1, 2, 3)), DeliverBatch)), DeliverBatch)
    commands = feed(queue, refused(trial, final=False), events.Finished(trial.id))
    assert not counted(commands)
    assert sent(commands) == ["i3", "i1"]


def test_an_object_of_another_study_is_the_first_to_be_tried():
    queue = manager()
    batch = only(feed(queue, *objects(1, 2, 3), *objects(4, study="9.9")), DeliverBatch)
    assert sent(fails(queue, batch)) == ["i4"]


def test_associations_lost_to_a_bad_object_are_given_back_when_it_is_dead():
    queue = manager(destination(max_associations=2, max_attempts=1))
    first, second = of(feed(queue, *objects(*range(32))), DeliverBatch)
    third = only(fails(queue, first), DeliverBatch)
    assert (queue.lanes["ws1"].limit, third.parcels[-1].instance) == (1, "i0")
    takes(queue, second)
    fails(queue, third, at=len(third.parcels) - 1)
    trial = only(feed(queue, *objects(100), now=1.0), DeliverBatch)
    assert buried(takes(queue, trial, 1.1))
    assert queue.lanes["ws1"].limit == 2


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("bad", [{0}, {5}, {0, 1}, {0, 3, 6}, set(range(10)), set(range(0, 20, 2))], ids=str)
def test_in_the_hospital_good_objects_are_delivered_soon_and_bad_ones_are_dead(how, bad):
    """The bad ones first, in the middle, several in a row; a good one arrives every minute."""
    count = 20
    hospital = Hospital(
        count + 60,
        1,
        0,
        bad=dict.fromkeys(bad, how),
        arrives=lambda n: 60.0 * (n - count + 1) if n >= count else 0.0,
        max_attempts=3,
        retry_after=5.0,
    )
    report = hospital.run()
    assert report.dead.keys() == bad
    assert all(how in reason for reason in report.dead.values())
    soon = 20.0 + 2 * (len(bad) + TURNS) * FAILURES[how]
    assert max(report.at[n] for n in range(count) if n not in bad) < soon


@pytest.mark.parametrize("off", [10.0, 1000.0, 100_000.0])
def test_in_the_hospital_a_peer_whose_disk_is_full_costs_no_object_its_life(off):
    report = Hospital(100, 1, 0, full_until=off, max_attempts=2).run()
    assert not report.dead
    assert report.virtual < off + 2 * 600.0


def test_in_the_hospital_one_silent_object_costs_its_lane_no_more_than_its_attempts():
    report = Hospital(11, 1, 0, bad={0: "silent"}).run()
    assert max(report.at.values()) < TIMEOUT + 3.0
    assert report.dead.keys() == {0}
    assert report.virtual < 800.0
