"""The queue manager as a table of events and commands, and in a simulated hospital."""

import random
from dataclasses import replace

import pytest

from dicomferry.dicom.syntaxes import EXPLICIT_LE, IMPLICIT_LE
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, ProbeBatch, TranscodeBatch
from dicomferry.spool.instance import RenditionSpec, State
from dispatcher.circuit import Circuit
from dispatcher.commands import DropRenditions, Found, Lost, MarkDead, Note, NotFound, Publish, Reread, Retire
from dispatcher.delivering import GATHER_FOR, MAX_DELIVER_OBJECTS
from dispatcher.lanes import KEPT_BYTES, LOOKAHEAD, LOOKAHEAD_BYTES
from dispatcher.rendering import MAX_TRANSCODE_INSTANCES, UNSTARTED
from tests.support.stages.queue import (
    CT,
    J2K,
    asked,
    delivered,
    destination,
    feed,
    found,
    manager,
    of,
    only,
    refused,
    rendered,
)  # fmt: skip

# One instance's way


def test_an_instance_is_rendered_then_delivered_then_retired():
    queue = manager()
    transcode = only(feed(queue, found(1)), TranscodeBatch)
    assert transcode.spec.transfer_syntax_uid == EXPLICIT_LE
    deliver = only(feed(queue, *rendered(transcode), events.Finished(transcode.id)), DeliverBatch)
    assert [(p.instance, p.key) for p in deliver.parcels] == [("i1", transcode.spec.key)]
    commands = feed(queue, *delivered(deliver), events.Finished(deliver.id))
    assert Retire("i1") in commands
    assert not queue.entries
    assert not queue.outstanding


def test_an_instance_in_an_accepted_syntax_skips_transcode():
    commands = feed(manager(), found(1, syntax=EXPLICIT_LE))
    assert not of(commands, TranscodeBatch)
    assert only(commands, DeliverBatch).parcels[0].key is None


def test_history_is_written_before_the_instance_is_retired():
    queue = manager()
    deliver = only(feed(queue, found(1, syntax=EXPLICIT_LE)), DeliverBatch)
    kinds = [type(c) for c in feed(queue, *delivered(deliver))]
    assert kinds.index(Note) < kinds.index(Retire)


def test_two_destinations_that_want_the_same_share_one_rendition():
    queue = manager(destination("ws1"), destination("ws2"))
    transcode = only(feed(queue, found(1, ("ws1", "ws2"))), TranscodeBatch)
    deliveries = of(feed(queue, *rendered(transcode)), DeliverBatch)
    assert sorted(batch.destination for batch in deliveries) == ["ws1", "ws2"]


def test_an_instance_stays_until_its_last_destination_has_it():
    queue = manager(destination("ws1"), destination("ws2"))
    first, second = of(feed(queue, found(1, ("ws1", "ws2"), syntax=EXPLICIT_LE)), DeliverBatch)
    assert not any(isinstance(c, Retire) for c in feed(queue, *delivered(first)))
    assert Retire("i1") in feed(queue, *delivered(second))


def test_what_was_delivered_everywhere_before_a_restart_is_retired_at_once():
    assert Retire("i1") in feed(manager(), found(1, delivered=["ws1"]))


def test_what_is_dead_stays_parked_after_a_restart():
    queue = manager()
    assert not asked(feed(queue, found(1, dead=["ws1"])))
    assert queue.parked == {"i1"}
    assert queue.lanes["ws1"].dead == 1


def test_the_same_instance_told_twice_is_sent_once():
    queue = manager()
    feed(queue, found(1, syntax=EXPLICIT_LE))
    assert not of(feed(queue, found(1, syntax=EXPLICIT_LE)), DeliverBatch)


def test_a_delivery_to_a_destination_that_was_removed_is_left_on_the_spool():
    queue = manager()
    assert not asked(feed(queue, found(1, ("gone",))))
    assert "i1" in queue.entries


def test_one_stuck_destination_does_not_hold_up_the_other():
    queue = manager(destination("ws1", transfer_syntaxes=["mpeg"]), destination("ws2"))
    commands = feed(queue, found(1, ("ws1", "ws2"), syntax=EXPLICIT_LE))
    assert any(isinstance(c, MarkDead) and c.destination == "ws1" for c in commands)
    deliver = only(commands, DeliverBatch)
    commands = feed(queue, *delivered(deliver))
    assert not any(isinstance(c, Retire) for c in commands)
    assert queue.parked == {"i1"}


# Learning what a peer accepts


def test_an_unlearned_lane_is_probed_with_the_classes_that_wait():
    commands = feed(manager(learned=False), found(1))
    assert only(commands, ProbeBatch).sop_classes == (CT,)
    assert not of(commands, TranscodeBatch)


def test_what_the_probe_learned_decides_the_rendition():
    queue = manager(learned=False)
    probe = only(feed(queue, found(1)), ProbeBatch)
    commands = feed(queue, events.Learned(probe.id, "ws1", {CT: [IMPLICIT_LE]}, probe=True))
    assert only(commands, TranscodeBatch).spec.transfer_syntax_uid == IMPLICIT_LE


def test_a_class_that_the_peer_does_not_take_is_parked_and_not_asked_for_ever():
    queue = manager(learned=False)
    probe = only(feed(queue, found(1)), ProbeBatch)
    commands = feed(queue, events.Learned(probe.id, "ws1", {}, probe=True), events.Finished(probe.id))
    assert any(isinstance(c, MarkDead) for c in commands)
    assert not of(commands, ProbeBatch)


def test_a_peer_that_changed_its_mind_gets_what_it_takes_now():
    queue = manager()
    transcode = only(feed(queue, found(1)), TranscodeBatch)
    deliver = only(feed(queue, *rendered(transcode)), DeliverBatch)
    commands = feed(
        queue,
        events.Learned(deliver.id, "ws1", {CT: [IMPLICIT_LE]}, probe=False),
        refused(deliver, status=None),
        events.Finished(deliver.id),
    )
    assert only(commands, TranscodeBatch).spec.transfer_syntax_uid == IMPLICIT_LE


# What workers say


def test_an_unsuitable_rendition_gives_way_to_the_next_syntax():
    queue = manager()
    transcode = only(feed(queue, found(1)), TranscodeBatch)
    commands = feed(queue, events.Unsuitable(transcode.id, "i1", transcode.spec.key, "too long"))
    assert only(commands, TranscodeBatch).spec.transfer_syntax_uid == IMPLICIT_LE


def test_what_no_rendition_can_hold_is_parked_with_the_reasons():
    queue = manager()
    commands = feed(queue, found(1))
    for _ in (EXPLICIT_LE, IMPLICIT_LE):
        transcode = only(commands, TranscodeBatch)
        commands = feed(queue, events.Unsuitable(transcode.id, "i1", transcode.spec.key, "too long"))
    dead = next(c for c in commands if isinstance(c, MarkDead))
    assert "too long" in dead.reason


def test_a_damaged_instance_is_parked_with_the_reason():
    queue = manager()
    transcode = only(feed(queue, found(1)), TranscodeBatch)
    commands = feed(queue, events.Failed(transcode.id, "i1", transcode.spec.key, "truncated codestream"))
    assert MarkDead("i1", "1.2.1", "ws1", "truncated codestream", None, 0) in commands


def test_what_was_seen_of_a_renditions_pixels_is_noted():
    queue = manager()
    batch = only(feed(queue, found(1)), TranscodeBatch)
    seen = events.Rendered(batch.id, "i1", batch.spec.key, "", "0f1e", "verified: pixels equal")
    noted = [c.words for c in feed(queue, seen) if isinstance(c, Note)]
    assert noted == ["ExplicitLE: verified: pixels equal; pixels 0f1e"]


def test_a_batch_that_died_is_repeated_one_instance_at_a_time():
    queue = manager()
    batches = of(feed(queue, *(found(n) for n in range(8))), TranscodeBatch)
    died = next(batch for batch in batches if len(batch.instances) == 2)
    assert not died.alone
    commands = feed(queue, events.Started(died.id), Lost(died.id, died=True))
    reread = next(c for c in commands if isinstance(c, Reread))
    assert set(reread.instances) == set(died.instances)
    for batch in batches:
        if batch is not died:
            feed(queue, *rendered(batch), events.Finished(batch.id))
    again = of(feed(queue, *(found(int(i[1:])) for i in died.instances)), TranscodeBatch)
    again = [batch for batch in again if set(batch.instances) & set(died.instances)]
    assert sorted(batch.instances for batch in again) == sorted((i,) for i in died.instances)
    assert all(batch.alone for batch in again)


def test_a_batch_that_died_before_anybody_saw_it_run_is_repeated_alone_too():
    queue = manager()
    batch = only(feed(queue, found(1)), TranscodeBatch)
    feed(queue, events.Started(batch.id), Lost(batch.id, died=False))
    assert only(feed(queue, found(1)), TranscodeBatch).alone


def test_a_message_that_redis_lost_is_simply_published_again():
    queue = manager()
    batch = only(feed(queue, found(1)), TranscodeBatch)
    feed(queue, Lost(batch.id, died=False))
    again = only(feed(queue, found(1)), TranscodeBatch)
    assert again.instances == batch.instances
    assert not again.alone


def test_work_that_comes_back_undone_is_asked_for_ever_more_rarely():
    queue, asked_at, now = manager(), [], 0.0
    commands = feed(queue, found(1))
    while now < 700:
        batches, commands = of(commands, TranscodeBatch), []
        for batch in batches:  # a full disk: the worker has nothing to say
            asked_at.append(now)
            feed(queue, events.Started(batch.id), events.Finished(batch.id), now=now)
            commands += feed(queue, found(1), now=now)
        now += 1
        commands += feed(queue, now=now)
    assert len(asked_at) < 12
    assert asked_at[-1] - asked_at[-2] > asked_at[2] - asked_at[1]
    assert queue.lanes["ws1"].pending == 1


def test_a_rendition_that_is_missing_at_the_forwarder_is_made_again():
    queue = manager()
    transcode = only(feed(queue, found(1)), TranscodeBatch)
    deliver = only(feed(queue, *rendered(transcode), events.Finished(transcode.id)), DeliverBatch)
    assert Reread(("i1",)) in feed(queue, events.Finished(deliver.id))
    assert only(feed(queue, found(1)), TranscodeBatch).instances == ("i1",)


# What destinations say


def test_a_refused_object_goes_in_the_next_best_syntax_once_then_waits_then_dies():
    queue = manager(destination(max_attempts=3, retry_after=30))
    syntaxes, now, attempts = [], 0.0, 0
    commands = feed(queue, found(1))
    for _ in range(20):
        for transcode in of(commands, TranscodeBatch):
            commands = feed(queue, *rendered(transcode), events.Finished(transcode.id), now=now)
        if any(isinstance(c, MarkDead) for c in commands):
            break
        for deliver in of(commands, DeliverBatch):
            syntaxes.append(deliver.parcels[0].key.split("-")[0])
            attempts += 1
            commands = feed(queue, refused(deliver, attempts=attempts), events.Finished(deliver.id), now=now)
            break
        else:
            now += 5.0
            commands = feed(queue, now=now)
    assert syntaxes[:2] == [EXPLICIT_LE, IMPLICIT_LE]
    assert len(syntaxes) == 3
    assert now >= 30.0
    dead = next(c for c in commands if isinstance(c, MarkDead))
    assert (dead.status, dead.attempts) == (0xA900, 3)


def test_a_processing_failure_is_tried_again_in_the_same_syntax():
    queue = manager()
    deliver = only(feed(queue, found(1, syntax=EXPLICIT_LE)), DeliverBatch)
    commands = feed(queue, refused(deliver, final=False, status=0x0110), events.Finished(deliver.id))
    assert not of(commands, DeliverBatch)
    assert only(feed(queue, now=40.0), DeliverBatch).parcels[0].key is None


def test_a_refusal_does_not_open_the_circuit():
    queue = manager()
    deliver = only(feed(queue, found(1, syntax=EXPLICIT_LE)), DeliverBatch)
    feed(queue, refused(deliver), events.Finished(deliver.id))
    assert queue.lanes["ws1"].circuit.state is Circuit.CLOSED


# Bounds and fairness


def test_work_outstanding_in_celery_is_bounded():
    queue = manager()
    commands = feed(queue, *(found(n) for n in range(1000)))
    batches = of(commands, TranscodeBatch)
    assert len(batches) == UNSTARTED
    assert all(len(batch.instances) <= MAX_TRANSCODE_INSTANCES for batch in batches)


def test_a_batch_is_replaced_when_a_worker_starts_it():
    queue = manager()
    first = of(feed(queue, *(found(n) for n in range(1000))), TranscodeBatch)[0]
    assert len(of(feed(queue, events.Started(first.id)), TranscodeBatch)) == 1


def test_lanes_take_turns_at_the_workers():
    queue = manager(destination("ws1"), destination("ws2"))
    commands = feed(queue, *(found(n) for n in range(500)), *(found(n, ("ws2",)) for n in range(500, 510)))
    labels = [c.label for c in commands if isinstance(c, Publish) and isinstance(c.batch, TranscodeBatch)]
    assert {text.split()[0] for text in labels} == {"WS1", "WS2"}


def test_renditions_are_made_ahead_only_so_far():
    queue = manager()
    commands = feed(queue, *(found(n) for n in range(1000)))
    made = 0
    while batches := of(commands, TranscodeBatch):
        commands = []
        for batch in batches:
            made += len(batch.instances)
            commands += feed(queue, events.Started(batch.id), *rendered(batch), events.Finished(batch.id))
    assert LOOKAHEAD <= made < LOOKAHEAD + MAX_TRANSCODE_INSTANCES * (UNSTARTED + 1)


def of_size(batch, size):
    return [replace(event, size=size) for event in rendered(batch)]


def rendered_until_it_stops(queue, commands, size):
    """Have everything rendered that is asked for; how much that was, and what else was asked for."""
    made, others = 0, []
    while batches := of(commands, TranscodeBatch):
        others += [c for c in commands if not of([c], TranscodeBatch)]
        commands = []
        for batch in batches:
            made += len(batch.instances)
            commands += feed(
                queue, events.Started(batch.id), *of_size(batch, size), events.Finished(batch.id)
            )
    return made, others + commands


def test_large_renditions_are_made_ahead_only_so_far():
    queue = manager()
    size = LOOKAHEAD_BYTES // 8
    made, others = rendered_until_it_stops(queue, feed(queue, *(found(n) for n in range(400))), size)
    assert 8 <= made < 8 + MAX_TRANSCODE_INSTANCES * (UNSTARTED + 1)
    assert queue.lanes["ws1"].bytes_ahead == made * size
    while queue.entries:  # as they are delivered, others are made
        assert queue.lanes["ws1"].bytes_ahead <= made * size
        more, others = rendered_until_it_stops(queue, all_delivered(queue, others), size)
        assert more or of(others, DeliverBatch) or not queue.entries
    assert queue.lanes["ws1"].bytes_ahead == 0


def all_delivered(queue, commands):
    """Have everything delivered that is asked for; what is asked for then."""
    asked_for = []
    for batch in of(commands, DeliverBatch):
        asked_for += feed(queue, *delivered(batch), events.Finished(batch.id))
    return asked_for


def switched_off(queue, commands, name):
    """Let the deliver batches of a lane fail; what is asked for until its probe is due."""
    asked_for = []
    for batch in of(commands, DeliverBatch):
        if batch.destination == name:
            unreachable = events.Unreachable(batch.id, name, "connection refused")
            asked_for += feed(queue, unreachable, events.Finished(batch.id))
    return asked_for + queue.schedule(queue.lanes[name].circuit.probe_at)


def test_a_destination_that_is_off_keeps_few_bytes_of_the_disk_and_gets_everything_later():
    queue, size = manager(), KEPT_BYTES // 4
    made, others = rendered_until_it_stops(queue, feed(queue, *(found(n) for n in range(40))), size)
    assert made == 40
    commands = switched_off(queue, others, "ws1")
    lane = queue.lanes["ws1"]
    dropped = [c.instance for c in commands if isinstance(c, DropRenditions)]
    assert 0 < lane.bytes_ahead <= KEPT_BYTES
    assert len(dropped) == len(set(dropped)) == 40 - lane.bytes_ahead // size
    assert not of(commands, TranscodeBatch)
    probe = only(commands, ProbeBatch)
    learned = events.Learned(probe.id, "ws1", {CT: [EXPLICIT_LE, IMPLICIT_LE]}, probe=True)
    commands = feed(queue, learned, events.Finished(probe.id))
    while queue.entries:
        made, commands = rendered_until_it_stops(queue, commands, size)
        assert made or of(commands, DeliverBatch)
        commands = all_delivered(queue, commands)
    assert lane.delivered == 40


def test_a_rendition_that_another_destination_waits_for_stays():
    queue = manager(destination("ws1"), destination("ws2"))
    commands = feed(queue, *(found(n, ("ws1", "ws2")) for n in range(8)))
    _, others = rendered_until_it_stops(queue, commands, KEPT_BYTES)
    commands = switched_off(queue, others, "ws1")
    assert not any(isinstance(c, DropRenditions) for c in commands)


def test_what_is_parked_keeps_no_rendition():
    queue = manager()
    transcode = only(feed(queue, found(1)), TranscodeBatch)
    deliver = only(feed(queue, *rendered(transcode), events.Finished(transcode.id)), DeliverBatch)
    commands = feed(queue, refused(deliver, attempts=99), events.Finished(deliver.id))
    while batches := of(commands, DeliverBatch) or of(commands, TranscodeBatch):
        batch = batches[0]
        told = rendered(batch) if isinstance(batch, TranscodeBatch) else [refused(batch, attempts=99)]
        commands = feed(queue, *told, events.Finished(batch.id))
    assert queue.parked == {"i1"}
    assert DropRenditions("i1") in commands


def test_a_deliver_batch_is_bounded_and_one_a_lane():
    queue = manager()
    deliver = only(feed(queue, *(found(n, syntax=EXPLICIT_LE) for n in range(1000))), DeliverBatch)
    assert len(deliver.parcels) == MAX_DELIVER_OBJECTS
    assert deliver.more


def in_one_batch(queue, count):
    """The transcode batch, begun, of so many instances."""
    batch = only(feed(queue, *(found(n, size=50_000) for n in range(count))), TranscodeBatch)
    feed(queue, events.Started(batch.id))
    return batch


def test_what_is_ready_waits_a_moment_for_the_rest_of_its_batch_and_goes_with_it():
    queue = manager()
    first, *others = rendered(in_one_batch(queue, 8))
    assert not of(feed(queue, first), DeliverBatch)
    deliver = only(feed(queue, *others, now=GATHER_FOR / 2), DeliverBatch)
    assert len(deliver.parcels) == 8


def test_what_is_ready_waits_no_longer_than_a_moment_for_slow_images():
    queue = manager()
    first, second, *_ = rendered(in_one_batch(queue, 8))
    assert not of(feed(queue, first), DeliverBatch)
    assert queue.next_timer == GATHER_FOR
    deliver = only(queue.schedule(GATHER_FOR), DeliverBatch)
    assert len(deliver.parcels) == 1
    commands = feed(queue, *delivered(deliver), events.Finished(deliver.id), second, now=1.0)
    assert not of(commands, DeliverBatch)  # each has its own moment
    assert only(queue.schedule(1.0 + GATHER_FOR), DeliverBatch)


def test_one_image_alone_waits_for_nobody():
    queue = manager()
    batch = in_one_batch(queue, 1)
    assert only(feed(queue, *rendered(batch), events.Finished(batch.id)), DeliverBatch)


def test_a_few_small_images_are_no_work_for_several_workers_and_a_few_large_ones_are():
    small = of(feed(manager(), *(found(n, size=50_000) for n in range(8))), TranscodeBatch)
    large = of(feed(manager(), *(found(n, size=5_000_000) for n in range(8))), TranscodeBatch)
    assert [len(batch.instances) for batch in small] == [8]
    assert [len(batch.instances) for batch in large] == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("workers", "size"), [(1, MAX_TRANSCODE_INSTANCES), (2, MAX_TRANSCODE_INSTANCES), (8, 6), (16, 3)]
)
def test_what_a_lane_wants_is_shared_among_the_workers_that_there_are(workers, size):
    """Else the end of a study, in a batch for each of a few, would leave most of many workers idle."""
    queue = manager()
    for n in range(workers):
        queue.outstanding.add(TranscodeBatch(f"other{n}", "boot", RenditionSpec(EXPLICIT_LE), ()), ())
        queue.outstanding.started(f"other{n}")
    batches = of(feed(queue, *(found(n, size=1 << 20) for n in range(96))), TranscodeBatch)
    assert len(batches[0].instances) == size


def test_the_label_shows_ids_and_counts_and_nothing_of_the_patient():
    commands = feed(manager(), found(1, study="1.2.826.0.1.3680043.2.843"))
    labels = [c.label for c in commands if isinstance(c, Publish)]
    assert labels == ["WS1 study 1.2.8...843 CT n=1 J2K->ExplicitLE"]


# A hospital, simulated: a world that loses messages, kills batches, forgets events


@pytest.mark.parametrize("seed", range(20))
def test_everything_is_delivered_once_in_a_world_that_loses_what_it_can(seed):
    chance = random.Random(seed)
    names = ["ws1", "ws2", "ws3"]
    queue = manager(
        *(destination(n, max_associations=chance.choice([1, 2]), max_attempts=1000) for n in names),
        learned=False,
    )
    fails_over_objects = chance.choice([0.0, 0.02, 0.3])
    spool = {f"i{n}": found(n, chance.sample(names, chance.randint(1, 3))).state for n in range(60)}
    accepted = {
        n: chance.choice([[EXPLICIT_LE], [IMPLICIT_LE, J2K], [EXPLICIT_LE, IMPLICIT_LE]]) for n in names
    }
    off_until = {n: chance.choice([0.0, 0.0, 100.0]) for n in names}
    sent = []
    for state in spool.values():
        queue.handle(Found(state), 0.0)

    def mark(instance, name):
        state = spool[instance]
        spool[instance] = State(state.instance, state.delivered | {name}, state.dead)

    def say(event):
        if chance.random() < 0.9:  # else Redis forgot it
            queue.handle(event, now)

    def run(batch):
        if chance.random() < 0.1:
            queue.handle(Lost(batch.id, died=chance.random() < 0.5), now)
            return
        say(events.Started(batch.id))
        if isinstance(batch, TranscodeBatch):
            for event in rendered(batch):
                say(event)
        elif now < off_until[batch.destination]:
            say(events.Unreachable(batch.id, batch.destination, "off"))
        elif isinstance(batch, ProbeBatch):
            answer = dict.fromkeys(batch.sop_classes, accepted[batch.destination])
            say(events.Learned(batch.id, batch.destination, answer, probe=True))
        else:
            assert len({parcel.instance for parcel in batch.parcels}) == len(batch.parcels)
            for parcel in batch.parcels:
                if chance.random() < fails_over_objects:
                    broke_off = chance.random() < 0.5
                    failed = parcel.instance
                    say(events.Unreachable(batch.id, batch.destination, "fails", failed, broke_off=broke_off))
                    break
                if batch.destination in spool[parcel.instance].delivered:
                    continue
                sent.append((parcel.instance, batch.destination))
                mark(parcel.instance, batch.destination)
                say(events.Delivered(batch.id, batch.destination, parcel.instance, parcel.key, 0))
        queue.handle(events.Finished(batch.id), now)

    now = 0.0
    retired = set()
    while spool.keys() - retired and now < 20_000:
        commands = queue.schedule(now)
        now += 1.0
        for command in commands:
            match command:
                case Publish():
                    run(command.batch)
                case Reread():
                    for instance in command.instances:
                        gone = instance in retired
                        queue.handle(NotFound(instance) if gone else Found(spool[instance]), now)
                case Retire():
                    assert not spool[command.instance].pending
                    retired.add(command.instance)
                case MarkDead():
                    pytest.fail(command.reason)
    wanted = {(i, name) for i, state in spool.items() for name in state.instance.destinations}
    assert sorted(sent) == sorted(wanted)
    assert not queue.entries
    assert not queue.outstanding
    assert all(lane.pending == 0 for lane in queue.lanes.values())
