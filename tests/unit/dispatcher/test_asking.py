"""What a peer does not accept is asked again: before anything dies of it, ever more rarely, on request."""

from itertools import pairwise

import pytest

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.messages import events
from dicomferry.messages.batches import DeliverBatch, ProbeBatch
from dispatcher.commands import MarkDead
from dispatcher.probing import FIRST_ASK, LAST_ASK
from tests.support.stages.queue import CT, J2K, delivered, destination, feed, found, manager, of, only

MR = "1.2.840.10008.5.1.4.1.1.4"


def answer(queue, probe, accepted, now=0.0):
    return feed(
        queue, events.Learned(probe.id, "ws1", {CT: accepted}, probe=True), events.Finished(probe.id), now=now
    )


def dead(commands):
    return [c.instance for c in commands if isinstance(c, MarkDead)]


def test_what_was_learned_before_a_start_is_asked_again_before_anything_dies_of_it():
    queue = manager(accepts=())
    commands = feed(queue, found(1, syntax=EXPLICIT_LE))
    assert not dead(commands)
    probe = only(commands, ProbeBatch)
    assert probe.sop_classes == (CT,)
    commands = answer(queue, probe, [EXPLICIT_LE])
    assert [p.instance for p in only(commands, DeliverBatch).parcels] == ["i1"]


def test_what_is_still_not_accepted_is_dead_with_the_answer():
    queue = manager(accepts=())
    assert dead(answer(queue, only(feed(queue, found(1)), ProbeBatch), [])) == ["i1"]


def test_a_peer_that_accepts_less_than_is_needed_is_asked_again_too():
    queue = manager(destination(transfer_syntaxes=["mpeg", "uncompressed"]), accepts=(J2K,))
    commands = feed(queue, found(1))
    assert not dead(commands)
    assert only(commands, ProbeBatch)


def test_what_no_acceptance_could_help_is_dead_at_once():
    queue = manager(destination(transfer_syntaxes=["mpeg"]), accepts=())
    commands = feed(queue, found(1))
    assert dead(commands) == ["i1"]
    assert not of(commands, ProbeBatch)


def test_new_objects_wait_for_the_next_answer_and_it_is_asked_for_ever_more_rarely():
    queue, now, asked = manager(learned=False), 0.0, []
    for number in range(4000):
        commands = feed(queue, found(number, syntax=EXPLICIT_LE), now=now)
        for probe in of(commands, ProbeBatch):
            asked.append(now)
            answer(queue, probe, [], now)
        now += 1.0
    waits = [later - earlier for earlier, later in pairwise(asked)]
    assert waits[0] == FIRST_ASK
    assert waits == sorted(waits)
    assert max(waits) == LAST_ASK
    assert not of(feed(queue, found(9000, syntax=EXPLICIT_LE), now=now), ProbeBatch)
    assert queue.next_timer <= asked[-1] + LAST_ASK


def test_a_waiting_object_is_delivered_when_the_peer_has_changed():
    queue = manager(learned=False)
    answer(queue, only(feed(queue, found(1)), ProbeBatch), [])
    assert not dead(feed(queue, found(2, syntax=EXPLICIT_LE), now=1.0))
    probe = only(feed(queue, now=queue.next_timer), ProbeBatch)
    assert only(answer(queue, probe, [EXPLICIT_LE], 6.0), DeliverBatch).parcels[0].instance == "i2"


def not_accepted(queue):
    """A peer that was asked often, and an object that waits to have it asked again."""
    for number in range(10):
        now = number * LAST_ASK
        answer(queue, only(feed(queue, found(number), now=now), ProbeBatch), [], now)
    assert not of(feed(queue, found(77, syntax=EXPLICIT_LE), now=now + 1), ProbeBatch)
    return now + 1


def test_an_operators_order_has_it_asked_at_once():
    queue = manager(learned=False)
    now = not_accepted(queue)
    queue.ask_again("ws1")
    queue.ask_again("no such destination")
    assert only(feed(queue, now=now), ProbeBatch).sop_classes == (CT,)


def test_a_peer_that_answers_differently_for_one_class_is_asked_at_once_for_the_others():
    queue = manager(learned=False)
    now = not_accepted(queue)
    queue.lanes["ws1"].accepted[MR] = frozenset()
    learned = events.Learned("a batch", "ws1", {MR: [EXPLICIT_LE]}, probe=False)
    assert only(feed(queue, learned, now=now), ProbeBatch).sop_classes == (CT,)


@pytest.mark.parametrize("accepted", [[], [EXPLICIT_LE]])
def test_the_same_answer_in_a_negotiation_makes_nobody_ask(accepted):
    queue = manager(accepts=accepted)
    learned = events.Learned("a batch", "ws1", {CT: accepted}, probe=False)
    assert not of(feed(queue, learned), ProbeBatch)


def test_others_go_on_while_one_class_waits():
    queue = manager(learned=False)
    now = not_accepted(queue)
    queue.lanes["ws1"].accepted[CT] = frozenset([EXPLICIT_LE])
    deliver = only(feed(queue, found(78, syntax=EXPLICIT_LE), now=now), DeliverBatch)
    assert not dead(feed(queue, *delivered(deliver), now=now))
