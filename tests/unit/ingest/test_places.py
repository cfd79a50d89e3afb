"""The table of places: what it says of those that stand, whoever took them and whoever was killed."""

import os
import signal
import time

import pytest

from ingest import sharing
from ingest.admission import Standing
from ingest.places import Place, Places

A, B = Standing("10.0.0.1", named=False), Standing("fe80::1:2:3:4", named=True)


def take(places: Places, held: Standing = A, *ended: int) -> Place:
    with places.lock():
        return places.take(held, ended, places.standing())


def test_what_is_taken_stands_until_it_is_left() -> None:
    places = Places(2)
    first, second = take(places), take(places, B)
    assert places.standing() == {0: A, 1: B}
    first.leave()
    assert places.standing() == {1: B}
    take(places, B)
    assert list(places.standing()) == [0, 1]
    second.leave()
    assert list(places.standing()) == [0]


def test_a_place_is_silent_since_its_last_message_ended() -> None:
    places = Places(1)
    place = take(places)
    assert places.standing()[0].silent == 0
    place.end_message()
    time.sleep(0.02)
    assert 0.02 <= places.standing()[0].silent < 5
    place.begin_message()
    assert places.standing()[0].silent == 0


def test_who_lost_a_place_to_another_cannot_give_that_back() -> None:
    places = Places(2)
    first, second = take(places), take(places)
    third = take(places, B, 0, 1)
    assert (first.is_lost, second.is_lost, third.is_lost) == (True, True, False)
    first.leave()
    second.leave()
    assert places.standing() == {0: B}


def test_the_places_of_a_process_that_has_ended_are_free_and_those_of_its_successor_are_not() -> None:
    places = Places(4, processes=2)
    take(places)
    places.enter(1)
    take(places, B)
    assert places.standing() == {0: A, 1: B}
    places.bury(0)
    assert places.standing() == {1: B}
    places.enter(0)
    assert places.standing() == {1: B}
    take(places)
    take(places)
    assert places.standing() == {0: A, 1: B, 2: A}


def test_a_process_with_more_connections_than_another_that_lives_is_ahead() -> None:
    places = Places(1, processes=2)
    places.count_connections(5)
    assert not places.is_ahead()  # the other one has not begun
    places.enter(1)
    assert not places.is_ahead()
    places.count_connections(5)
    assert not places.is_ahead()
    places.count_connections(6)
    assert places.is_ahead()
    places.bury(0)
    assert not places.is_ahead()
    alone = Places(1)
    alone.count_connections(5)
    assert not alone.is_ahead()


def a_child_that_holds_the_lock(places: Places) -> int:
    told, tell = os.pipe()
    if not (pid := os.fork()):
        with places.lock():
            os.write(tell, b"x")
            signal.pause()
    os.read(told, 1)
    os.close(told)
    os.close(tell)
    return pid


def test_a_lock_ends_with_its_process_and_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_LOCK_SECONDS", 0.2)
    places = Places(1, processes=2)
    child = a_child_that_holds_the_lock(places)
    try:
        with pytest.raises(TimeoutError), places.lock():
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    take(places)
    assert list(places.standing()) == [0]
