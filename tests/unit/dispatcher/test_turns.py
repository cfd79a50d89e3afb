"""Callers and studies take turns at the workers: a thousand slow objects of one starve nobody."""

import pytest

from dicomferry.messages import events
from dicomferry.messages.batches import TranscodeBatch
from dispatcher.turns import Turns
from tests.support.stages.hospital import Hospital
from tests.support.stages.queue import feed, found, manager, of, rendered
from workers.batch import TURN

SLOW, QUICK = 1000, 10  # objects
COMES = 20.0  # virtual seconds: the quick ones, when the workers are busy with the slow ones


def test_studies_take_turns_and_what_is_left_of_a_turn_goes_to_the_next_study():
    turns = Turns[str]()
    for study in ("a", "a", "a", "b", "c"):
        turns.add("PACS", study, study)
    taken = [turns.pop("PACS"), turns.pop("PACS")]
    turns.end_turn("PACS", "a")
    taken += [turns.pop("PACS"), turns.pop("PACS")]
    turns.end_turn("PACS", "c")
    assert [*taken, turns.pop("PACS")] == ["a", "a", "b", "c", "a"]
    assert not turns.callers
    assert turns.first("PACS") is None


def test_a_caller_without_items_is_none():
    turns = Turns[int]()
    turns.add("PACS", "a", 1)
    assert turns.first("PACS") == 1
    assert turns.first("CT") is None
    assert list(turns.callers) == ["PACS"]


@pytest.mark.parametrize("seconds", [0.5, 5.0, 11.0])
@pytest.mark.parametrize("lanes", [1, 5], ids=["one lane", "the slow ones in all lanes"])
@pytest.mark.parametrize("callers", [("SLOW", "QUICK"), ("PACS", "PACS")], ids=["callers", "studies"])
def test_in_the_hospital_a_thousand_slow_objects_do_not_starve_ten_others(lanes, callers, seconds):
    """Two workers. The quick ones wait for what is under way, and for a turn of each lane."""
    report = Hospital(
        SLOW + QUICK,
        lanes,
        0,
        workers=2,
        arrives=lambda n: COMES if n >= SLOW else 0.0,
        caller=lambda n: callers[n >= SLOW],
        rendering=lambda n: 0.05 if n >= SLOW else seconds,
    ).run()
    last = max(report.at[n] for n in range(SLOW, SLOW + QUICK))
    turn = TURN + seconds
    assert last - COMES < 5 * turn + (0 if lanes == 1 else lanes * 3 * turn)
    assert report.virtual > 0.45 * SLOW * seconds


def test_what_a_worker_gives_back_because_it_took_long_waits_for_its_next_turn_and_no_longer():
    queue = manager()
    batches = of(feed(queue, *(found(n) for n in range(64))), TranscodeBatch)
    first = batches[0]
    commands = feed(queue, events.Started(first.id), rendered(first)[0], events.Finished(first.id))
    again = of(commands, TranscodeBatch)
    for _ in range(100):
        if set(first.instances[1:]) <= {i for batch in again for i in batch.instances}:
            break
        batch = again[-1]
        again += of(
            feed(queue, events.Started(batch.id), *rendered(batch), events.Finished(batch.id)), TranscodeBatch
        )
    assert set(first.instances[1:]) <= {i for batch in again for i in batch.instances}
