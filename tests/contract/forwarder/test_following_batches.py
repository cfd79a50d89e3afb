"""Batches that share an association: one kept for the next, and one that waits for the batch it follows."""

import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dicomferry.messages.batches import DeliverBatch
from dicomferry.messages.events import Delivered, Unreachable
from tests.support.peers.dcmtk import Workstation
from tests.support.peers.scps import pynetdicom_scp
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.stages.post import Post, only

pytestmark = pytest.mark.usefixtures("patient")


def test_a_kept_association_that_died_is_no_sign_of_an_absent_peer(tmp_path: Path, broker: str) -> None:
    port = free_port()
    post = Post(tmp_path, broker, ws={"port": port})
    with pynetdicom_scp(port=port):
        assert only(Delivered, post.deliver(post.put(), more=True))
    with pynetdicom_scp(port=port) as again:
        heard = post.deliver(post.put(), more=False)
        assert len(again.datasets) == 1
    assert only(Delivered, heard)
    assert not only(Unreachable, heard)


def test_a_kept_association_that_dies_under_the_first_object_is_replaced_once(
    tmp_path: Path, broker: str
) -> None:
    doomed = []

    def abort_when_doomed(event: Any) -> int:
        if doomed:
            doomed.pop()
            event.assoc.abort()
        return 0

    with pynetdicom_scp(answer=abort_when_doomed) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        post.deliver(post.put(), more=True)
        doomed.append(True)
        heard = post.deliver(post.put(), post.put())
        assert len(peer.callers) == 2
    assert len(only(Delivered, heard)) == 2
    assert not only(Unreachable, heard)


def test_batches_with_more_to_come_share_an_association(tmp_path: Path, broker: str) -> None:
    with pynetdicom_scp() as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        for more in (True, True, False):
            post.deliver(post.put(), more=more)
        wait_until(lambda: peer.released == 1, "the release")
        assert len(peer.callers) == 1


def waiting(post: Post, batch: DeliverBatch) -> threading.Thread:
    """A thread in which the batch has read what it reads ahead, and waits for the one that it follows."""
    thread = threading.Thread(target=post.forwarder.deliver, args=[batch])
    thread.start()
    wait_until(lambda: batch.after in post.forwarder._sending._followed, "the batch to wait")
    return thread


def test_a_batch_that_follows_waits_for_the_other_and_takes_over_its_association(
    tmp_path: Path, broker: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with Workstation(tmp_path / "ws", free_port()) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        earlier, later = post.put(), post.put()
        first = post.batch(earlier)
        second = post.batch(later, after=first.id)
        follower = waiting(post, second)
        post.forwarder.deliver(first)
        follower.join()
        told = only(Delivered, post.inner(second.id))
        assert len(peer.files()) == 2
    assert [event.instance for event in told] == [earlier.id, later.id]
    assert caplog.text.count("Associated") == 1


def test_a_batch_that_follows_one_that_is_over_or_was_taken_back_does_not_wait(
    tmp_path: Path, broker: str
) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        batch = post.batch(post.put(), after="gone")
        post.forwarder.deliver(batch)
        assert only(Delivered, post.inner(batch.id))


def test_a_batch_that_follows_one_that_failed_does_not_try(tmp_path: Path, broker: str) -> None:
    calls = []

    def close_at_once() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                calls.append(connection)
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=close_at_once, daemon=True).start()
        post = Post(tmp_path, broker, ws={"port": server.getsockname()[1]})
        first = post.batch(post.put())
        second = post.batch(post.put(), after=first.id)
        follower = waiting(post, second)
        post.forwarder.deliver(first)
        follower.join()
        failures = only(Unreachable, post.inner(second.id))
    assert [failure.batch for failure in failures] == [first.id, second.id]
    assert failures[0].reason == failures[1].reason
    assert len(calls) == 1


def test_what_was_delivered_or_discarded_while_its_batch_waited_is_not_sent(
    tmp_path: Path, broker: str
) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        first = post.batch()
        delivered, discarded, due = post.put(), post.put(), post.put()
        follower = waiting(post, post.batch(delivered, discarded, due, after=first.id))
        post.spool.mark_delivered(delivered.id, "ws", {"status": 0})
        post.spool.received(discarded.id).unlink()
        post.forwarder.deliver(first)
        follower.join()
        assert post.spool.is_delivered(due.id, "ws")
        assert len(peer.files()) == 1
        post.forwarder.close()  # its last events are not to reach the next test


def test_a_batch_that_waits_for_another_ends_when_the_forwarder_stops(tmp_path: Path, broker: str) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        instance = post.put()
        follower = waiting(post, post.batch(instance, after=post.batch(instance).id))
        post.forwarder.stop(1.0, 1.0)
        follower.join(60.0)
        assert not follower.is_alive()
        assert not peer.files()
        post.forwarder.close()  # its last events are not to reach the next test
