"""The associations that are kept open between batches, seen from the peer."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dicomferry.dicom.syntaxes import EXPLICIT_LE, IMPLICIT_LE
from dicomferry.settings import Destination
from forwarder.dimse.associations import AssociationPool, PooledAssociation
from forwarder.dimse.connection import PeerFailure
from forwarder.dimse.proposal import ECHO, Context, Proposal
from tests.support.peers.dcmtk import Workstation
from tests.support.peers.scps import Seen, black_hole, pynetdicom_scp, unreachable
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
NATIVE = (ECHO, (CT, EXPLICIT_LE))
WIDER = (*NATIVE, (MR, IMPLICIT_LE))

pytestmark = pytest.mark.usefixtures("patient")


def to(port: int, **keys: Any) -> Destination:
    return Destination(
        **(
            {"name": "ws", "title": "WS", "host": "127.0.0.1", "port": port, "timeout": 30, "linger": 0}
            | keys
        )
    )


@pytest.fixture
def associations() -> Iterator[AssociationPool]:
    made = AssociationPool(idle_seconds=0.3)
    yield made
    made.close()


@pytest.fixture
def peer() -> Iterator[Seen]:
    with pynetdicom_scp() as seen:
        yield seen


def borrow(
    associations: AssociationPool,
    to: Destination,
    contexts: tuple[Context, ...] = NATIVE,
    calling: str = "FERRY",
) -> PooledAssociation:
    pooled = associations.borrow(to, calling, Proposal(contexts, ()), contexts)
    assert pooled.association.echo() == 0
    return pooled


def test_the_next_batch_uses_the_association_that_was_kept(peer: Seen) -> None:
    associations = AssociationPool(idle_seconds=60)
    first = borrow(associations, to(peer.port))
    associations.give_back(first, keep=True, more=True)
    second = borrow(associations, to(peer.port))
    assert (first.fresh, second.fresh) == (True, False)
    associations.give_back(second, keep=False)
    assert len(peer.callers) == 1


def test_an_idle_one_is_soon_released_and_one_without_more_at_once(
    associations: AssociationPool, peer: Seen
) -> None:
    associations.give_back(borrow(associations, to(peer.port)), keep=True, more=True)
    wait_until(lambda: peer.released == 1, "the kept association's release")
    associations.give_back(borrow(associations, to(peer.port)), keep=False)
    wait_until(lambda: peer.released == 2, "the other one's release")
    assert peer.aborted == 0


def test_one_that_lacks_a_context_gives_way_to_one_that_has_it(tmp_path: Path) -> None:
    associations = AssociationPool(idle_seconds=60)
    # This peer serves one association at a time: the second would wait for the first's end.
    with Workstation(tmp_path, free_port()) as peer:
        associations.give_back(borrow(associations, to(peer.port)), keep=True, more=True)
        wider = borrow(associations, to(peer.port), WIDER)
        assert wider.fresh
        associations.give_back(wider, keep=True, more=True)
        assert not borrow(associations, to(peer.port), NATIVE).fresh


def test_another_calling_title_is_another_association(tmp_path: Path) -> None:
    associations = AssociationPool(idle_seconds=60)
    with Workstation(tmp_path, free_port()) as peer:
        associations.give_back(borrow(associations, to(peer.port), calling="PACS1"), keep=True, more=True)
        assert borrow(associations, to(peer.port), calling="PACS2").fresh


def test_one_that_the_peer_closed_meanwhile_is_replaced_in_silence() -> None:
    associations = AssociationPool(idle_seconds=60)
    port = free_port()
    with pynetdicom_scp(port=port):
        associations.give_back(borrow(associations, to(port)), keep=True, more=True)
    with pynetdicom_scp(port=port) as again:
        assert borrow(associations, to(port)).fresh
        assert len(again.callers) == 1


@pytest.mark.parametrize("most", [1, 3])
def test_a_destination_never_has_more_associations_than_it_allows(
    associations: AssociationPool, peer: Seen, most: int
) -> None:
    destination = to(peer.port, max_associations=most, timeout=120)  # for a place: some wait for all others
    used = []

    def work() -> None:
        for turn in range(4):
            pooled = borrow(associations, destination, calling=f"FERRY{turn % 2}")
            used.append(pooled)
            time.sleep(0.01)
            associations.give_back(pooled, keep=turn % 3 > 0, more=True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(used) == 32
    assert peer.most_at_once == most


def test_whoever_finds_all_of_them_in_use_is_told_in_the_end(
    associations: AssociationPool, peer: Seen
) -> None:
    pooled = borrow(associations, to(peer.port))
    with pytest.raises(PeerFailure, match="all 1 associations are in use"):
        borrow(associations, to(peer.port, timeout=0.3))
    associations.abort(pooled)
    borrow(associations, to(peer.port))


def test_a_failed_request_leaves_its_place_to_the_next(associations: AssociationPool) -> None:
    port = free_port()
    for _ in range(3):
        with pytest.raises(PeerFailure, match="connection refused"):
            borrow(associations, to(port))


def test_closing_releases_what_is_kept_and_lends_no_more(associations: AssociationPool, peer: Seen) -> None:
    associations.give_back(borrow(associations, to(peer.port)), keep=True, more=True)
    associations.close()
    wait_until(lambda: peer.released == 1, "the release")
    with pytest.raises(PeerFailure, match="stopping"):
        borrow(associations, to(peer.port))


@pytest.mark.parametrize("a_peer", [black_hole, unreachable], ids=["silent", "unreachable"])
def test_a_cut_wakes_whoever_waits_for_a_peer(
    associations: AssociationPool, a_peer: Callable[[], AbstractContextManager[int]]
) -> None:
    ended = threading.Event()

    def wait(port: int) -> None:
        with pytest.raises(PeerFailure):
            borrow(associations, to(port, timeout=120))
        ended.set()

    with a_peer() as port:
        threading.Thread(target=wait, args=[port], daemon=True).start()

        def is_cut() -> bool:
            associations.disconnect(storing=True)
            return ended.is_set()

        wait_until(lambda: associations._sockets, "the wait to begin")
        assert not ended.is_set()
        wait_until(is_cut, "the end of the wait", 20)


def test_an_idle_one_lingers_without_more_where_its_destination_says_so(peer: Seen) -> None:
    associations = AssociationPool(idle_seconds=60)
    lingering = to(peer.port, linger=30)
    for _ in range(5):
        associations.give_back(borrow(associations, lingering), keep=True)
    assert len(peer.callers) == 1
    associations.close()
    briefly = to(peer.port, linger=0.3)
    associations = AssociationPool(idle_seconds=60)
    associations.give_back(borrow(associations, briefly), keep=True)
    wait_until(lambda: peer.released == 2, "the end of its time")
    assert peer.aborted == 0


def test_objects_of_two_classes_in_turn_end_up_in_one_association(peer: Seen) -> None:
    associations = AssociationPool(idle_seconds=60)
    lingering = to(peer.port, linger=30)
    for turn in range(6):
        contexts = NATIVE if turn % 2 else (ECHO, (MR, IMPLICIT_LE))
        associations.give_back(borrow(associations, lingering, contexts), keep=True)
    assert len(peer.callers) == 2
    associations.close()


@pytest.mark.parametrize("other", [{"calling": "PACS2"}, {"name": "ws2"}], ids=["title", "destination"])
def test_an_idle_one_gives_its_place_up_at_once_where_the_peer_may_serve_one(
    tmp_path: Path, other: dict[str, str]
) -> None:
    associations = AssociationPool(idle_seconds=60)
    with Workstation(tmp_path, free_port()) as single:
        associations.give_back(borrow(associations, to(single.port, linger=60)), keep=True)
        # Else it would wait for its timeout, and fail.
        name, calling = other.get("name", "ws"), other.get("calling", "FERRY")
        second = borrow(associations, to(single.port, linger=60, name=name), calling=calling)
        assert second.fresh
        associations.give_back(second, keep=False)


def test_an_idle_one_stays_where_the_peer_allows_several(peer: Seen) -> None:
    associations = AssociationPool(idle_seconds=60)
    ws, other = (to(peer.port, linger=60, max_associations=2, name=name) for name in ("ws", "ws2"))
    associations.give_back(borrow(associations, ws), keep=True)
    associations.give_back(borrow(associations, other), keep=True)
    assert not borrow(associations, ws).fresh
    assert len(peer.callers) == 2
    associations.close()


def test_one_is_not_kept_while_another_destination_waits_for_the_same_peer(tmp_path: Path) -> None:
    associations = AssociationPool(idle_seconds=60)
    with Workstation(tmp_path, free_port()) as single:
        first = borrow(associations, to(single.port, linger=60))
        second: list[PooledAssociation] = []

        def ask() -> None:
            second.append(borrow(associations, to(single.port, linger=60, name="ws2")))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: associations._asking.total() == 1, "the other one to ask")
        associations.give_back(first, keep=True)
        asking.join(timeout=120)
        assert second
        associations.give_back(second[0], keep=False)
