"""The checker of histories itself: each rule, broken once, is reported, and nothing else is."""

from dataclasses import replace

import pytest

from tests.support.faults.history import (
    HOSTILE,
    MARKING,
    TURN,
    Arrived,
    Fault,
    History,
    Left,
    Parked,
    Sent,
    duplicates,
    violations,
)

ACCEPTS = {"plain": frozenset({"ele"}), "any": frozenset({"ele", "j2k"})}


def sent(uid: str, at: float, status: int | None = 0) -> Sent:
    return Sent(uid, "j2k", f"bytes of {uid}", f"pixels of {uid}", at, at + 0.1, status)


def arrived(uid: str, destination: str, at: float) -> Arrived:
    syntax = "j2k" if destination == "any" else "ele"
    content = f"bytes of {uid}" if destination == "any" else f"decoded bytes of {uid}"
    return Arrived(destination, uid, syntax, content, f"pixels of {uid}", at)


def a_sound_history() -> History:
    history = History(ACCEPTS)
    for number in range(5):
        uid = f"1.{number}"
        history.sent.append(sent(uid, 10.0 * number))
        history.arrived += [arrived(uid, name, 10.0 * number + 1) for name in ACCEPTS]
    return history


def rules(history: History) -> list[tuple[str, str, str]]:
    return [(v.rule, v.uid, v.destination) for v in violations(history)]


def at(history: History, uid: str, destination: str) -> int:
    return next(i for i, a in enumerate(history.arrived) if (a.uid, a.destination) == (uid, destination))


def test_a_sound_history_breaks_no_promise() -> None:
    assert violations(a_sound_history()) == []
    assert duplicates(a_sound_history()) == 0


def test_what_was_acknowledged_and_never_came_is_lost() -> None:
    history = a_sound_history()
    del history.arrived[at(history, "1.2", "plain")]
    assert rules(history) == [("lost", "1.2", "plain")]


def test_what_is_parked_with_its_reason_is_not_lost() -> None:
    history = a_sound_history()
    del history.arrived[at(history, "1.2", "plain")]
    history.parked.append(Parked("1.2", "plain", "cannot be decoded"))
    assert violations(history) == []


def test_what_is_parked_elsewhere_is_lost_here() -> None:
    history = a_sound_history()
    del history.arrived[at(history, "1.2", "plain")]
    history.parked.append(Parked("1.2", "any", "cannot be decoded"))
    assert rules(history) == [("lost", "1.2", "plain")]


def test_what_is_parked_without_a_reason_helps_no_operator() -> None:
    history = a_sound_history()
    history.parked.append(Parked("1.2", "plain", ""))
    assert rules(history) == [("unreasoned", "1.2", "plain")]


def test_what_is_still_pending_when_all_is_whole_is_reported_once() -> None:
    history = a_sound_history()
    del history.arrived[at(history, "1.2", "plain")]
    history.left.append(Left("1.2", "plain"))
    assert rules(history) == [("left", "1.2", "plain")]


def test_what_stands_though_all_is_done_is_reported() -> None:
    history = a_sound_history()
    history.left.append(Left("1.2", ""))
    assert rules(history) == [("left", "1.2", "")]


def test_what_was_never_answered_with_success_is_reported() -> None:
    history = a_sound_history()
    history.sent += [sent("1.9", 60, 0xA700), sent("1.9", 61, None)]
    assert rules(history) == [("unanswered", "1.9", "")]


def test_what_was_refused_and_kept_in_quarantine_is_answered() -> None:
    history = a_sound_history()
    history.sent.append(sent("1.9", 60, 0xC000))
    history.parked.append(Parked("1.9", "", "no data set"))
    assert violations(history) == []


def test_what_was_never_sent_is_foreign() -> None:
    history = a_sound_history()
    history.arrived.append(arrived("6.6", "plain", 70))
    assert rules(history) == [("foreign", "6.6", "plain")]


def test_other_pixels_are_reported() -> None:
    history = a_sound_history()
    index = at(history, "1.3", "plain")
    history.arrived[index] = replace(history.arrived[index], pixels="pixels of 1.2")
    assert rules(history) == [("altered", "1.3", "plain")]


def test_other_bytes_in_the_syntax_that_it_was_sent_in_are_reported() -> None:
    history = a_sound_history()
    index = at(history, "1.3", "any")
    history.arrived[index] = replace(history.arrived[index], digest="re-encoded")
    assert rules(history) == [("touched", "1.3", "any")]


def test_a_transfer_syntax_that_cannot_be_shown_is_reported() -> None:
    history = a_sound_history()
    index = at(history, "1.3", "plain")
    history.arrived[index] = replace(history.arrived[index], syntax="j2k", digest="bytes of 1.3")
    assert rules(history) == [("unacceptable", "1.3", "plain")]


def test_what_comes_twice_for_no_reason_is_reported_once() -> None:
    history = a_sound_history()
    history.arrived += [arrived("1.3", "plain", 32), arrived("1.3", "plain", 33)]
    assert rules(history) == [("duplicate", "1.3", "plain")]
    assert duplicates(history) == 2


def twice(*faults: Fault, second: float = 50.0) -> History:
    """1.3 came to "plain" at 31 and once more."""
    history = a_sound_history()
    history.arrived.append(arrived("1.3", "plain", second))
    history.faults += faults
    return history


@pytest.mark.parametrize(
    "fault",
    [
        Fault("kill", ("forwarder",), 31.1, 31.1),
        Fault("cut", ("wire:plain",), 30.9, 31.2),
        Fault("stop", ("forwarder",), 31 + MARKING - 0.1, 60),
        Fault("full", ("spool",), 20, 40, at_most=None),
    ],
)
def test_a_fault_between_success_and_marker_explains_a_duplicate(fault: Fault) -> None:
    assert violations(twice(fault)) == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("kill", ("forwarder",), 31 + MARKING + 0.1, 40),
        Fault("kill", ("forwarder",), 10, 31 - MARKING - 0.1),
        Fault("cut", ("wire:any",), 30.9, 31.2),
        Fault("kill", ("dispatcher",), 31.1, 31.1),
        Fault("flushall", ("redis",), 31.1, 31.1),
    ],
)
def test_a_fault_elsewhere_or_at_another_time_explains_none(fault: Fault) -> None:
    assert rules(twice(fault)) == [("duplicate", "1.3", "plain")]


def test_one_fault_explains_no_more_objects_than_were_on_their_way() -> None:
    history = twice(Fault("kill", ("forwarder",), 31.1, 31.1))
    history.arrived += [arrived("1.3", "plain", 31.2)]
    assert rules(history) == [("duplicate", "1.3", "plain")]


def test_a_fault_catches_one_object_in_each_association() -> None:
    history = twice(Fault("kill", ("forwarder",), 31.1, 31.1))
    index = at(history, "1.2", "plain")
    history.arrived[index] = replace(history.arrived[index], at=31.05)
    history.arrived.append(arrived("1.2", "plain", 60))
    assert len(rules(history)) == 1
    history.associations["plain"] = 2
    assert violations(history) == []


def test_duplicates_have_the_same_bytes_even_where_they_are_unavoidable() -> None:
    history = twice(Fault("kill", ("forwarder",), 31.1, 31.1))
    history.arrived[-1] = replace(history.arrived[-1], digest="encoded otherwise")
    assert rules(history) == [("differing", "1.3", "plain")]


def test_what_was_sent_again_after_no_answer_may_come_twice() -> None:
    history = twice()
    history.sent.insert(0, sent("1.3", 29, None))
    assert violations(history) == []
    history.arrived.append(arrived("1.3", "plain", 70))
    assert rules(history) == [("duplicate", "1.3", "plain")]


def test_what_was_sent_again_after_a_refusal_comes_once() -> None:
    history = twice()
    history.sent.insert(0, sent("1.3", 29, 0xA700))
    assert rules(history) == [("duplicate", "1.3", "plain")]


def delayed(by: float, *, others: float = 0.0) -> History:
    """The third object comes so much later, those after it later too."""
    history = a_sound_history()
    for index, arrival in enumerate(history.arrived):
        if arrival.destination == "plain" and arrival.uid >= "1.2":
            later = by if arrival.uid == "1.2" else others
            history.arrived[index] = replace(arrival, at=arrival.at + later)
    return history


def test_a_healthy_object_that_others_pass_for_a_minute_is_late() -> None:
    assert rules(delayed(TURN - 2)) == []
    assert rules(delayed(TURN + 2)) == [("late", "1.2", "plain")]


def test_a_standstill_makes_late_whose_turn_it_was() -> None:
    history = delayed(TURN + 30, others=TURN + 30)
    assert rules(history) == [("late", "1.2", "plain")]  # those behind it came right after it


def test_while_older_ones_arrive_nobody_is_late() -> None:
    history = History(ACCEPTS)
    for number in range(50):  # a backlog, taken at once
        uid = f"1.{number:02}"
        history.sent.append(sent(uid, number / 100))
        history.arrived += [arrived(uid, name, 10.0 * number + 1) for name in ACCEPTS]
    assert violations(history) == []


def test_hostile_objects_may_come_late() -> None:
    history = delayed(TURN + 2)
    stores = [replace(s, pixels=HOSTILE) if s.uid == "1.2" else s for s in history.sent]
    arrivals = [replace(a, pixels=HOSTILE) if a.uid == "1.2" else a for a in history.arrived]
    assert violations(replace(history, sent=stores, arrived=arrivals)) == []


@pytest.mark.parametrize(("ended", "late"), [(19.0, True), (25.0, False), (95.0, False)])
def test_what_was_sent_before_the_last_fault_was_over_may_come_late(ended: float, late: bool) -> None:
    history = delayed(TURN + 20)
    history.faults.append(Fault("kill-worker", ("worker",), 15.0, ended))
    assert bool(rules(history)) is late
