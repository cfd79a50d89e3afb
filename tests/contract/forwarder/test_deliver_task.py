"""The deliver and probe tasks: what stands on the spool and what the dispatcher hears, with real peers."""

import dataclasses
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dicomferry.dicom.syntaxes import EXPLICIT_LE, GROUPS, IMPLICIT_LE, resolve
from dicomferry.messages import events
from dicomferry.messages.batches import DELIVER, DELIVER_QUEUE, PROBE, ProbeBatch, new_batch_id
from dicomferry.messages.broker import celery_app
from dicomferry.messages.events import EVENTS_KEY, Delivered, Finished, Learned, Refused, Unreachable
from dicomferry.spool.spool import Spool
from forwarder import sending
from gateway.commands.explain import explain
from tests.support.peers.dcmtk import Workstation
from tests.support.peers.scps import black_hole, ends_after, orthanc, pynetdicom_scp, relay
from tests.support.running.mounts import small_file_system
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.stages.celery_process import celery_process
from tests.support.stages.post import Post, make_rendition, only, told
from tests.support.stages.spools import put

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
J2K = "1.2.840.10008.1.2.4.90"

pytestmark = pytest.mark.usefixtures("patient")


def test_what_has_no_other_destination_leaves_the_spool_with_its_delivery(
    tmp_path: Path, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        instances = [post.put() for _ in range(3)]
        post.spool.add_attempt(instances[1].id, "ws")
        monkeypatch.setattr(Spool, "read", None)  # what it was told it does not look up
        heard = post.deliver(*map(told, instances))
        monkeypatch.undo()
        wait_until(lambda: len(peer.files()) == 3, "three files")
    assert [event.instance for event in only(Delivered, heard)] == [instance.id for instance in instances]
    left = {departure.instance: departure for departure in post.spool.departures()}
    assert left.keys() == {instances[0].id, instances[2].id}
    assert (left[instances[0].id].destination, left[instances[0].id].status) == ("ws", 0)
    assert left[instances[0].id].at == only(Delivered, heard)[0].at
    assert post.spool.is_delivered(instances[1].id, "ws")  # the attempt left a marker, so this is one too


def test_what_has_left_is_not_sent_again(tmp_path: Path, broker: str) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        parcel = told(post.put())
        post.deliver(parcel)
        assert not post.deliver(parcel)
        assert len(peer.files()) == 1


def test_a_damaged_file_is_refused_and_named(tmp_path: Path, broker: str) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        bad, good = post.put(), post.put()
        post.spool.received(bad.id).write_bytes(b"no DICOM file")
        heard = post.deliver(told(bad), told(good))
        assert [event.instance for event in only(Delivered, heard)] == [good.id]
    (refused,) = only(Refused, heard)
    assert refused.instance == bad.id
    assert refused.reason.startswith("not sent: ")


def test_a_file_that_became_shorter_is_refused_and_never_sent(tmp_path: Path, broker: str) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        shorter, whole = post.put(), post.put()
        path = post.spool.received(shorter.id)
        os.truncate(path, path.stat().st_size - 100)
        heard = post.deliver(told(shorter), told(whole))
        wait_until(lambda: len(peer.files()) == 1, "the sound one")
    (refused,) = only(Refused, heard)
    assert (refused.instance, refused.final) == (shorter.id, True)
    assert f"{shorter.size - 100} bytes of the {shorter.size} received" in refused.reason
    assert [event.instance for event in only(Delivered, heard)] == [whole.id]


def test_a_batch_reaches_a_stock_storescp_and_is_marked_before_it_is_told(
    tmp_path: Path, broker: str
) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        instances = [post.put(), post.put("MR_small.dcm"), post.put("MR_small_implicit.dcm")]
        heard = post.deliver(*instances)
        wait_until(lambda: len(peer.by_uid()) == 3, "three files")
        assert set(peer.by_uid()) == {instance.sop_instance_uid for instance in instances}
    assert [event.instance for event in only(Delivered, heard)] == [instance.id for instance in instances]
    assert only(Delivered, heard)[0].status == 0
    marker = post.spool.marker(instances[2].id, "delivered", "ws")
    assert marker is not None
    assert marker["at"] == pytest.approx(time.time(), abs=600)
    assert (marker["status"], marker["transfer_syntax_uid"], marker["why"], marker["key"]) == (
        0, IMPLICIT_LE, "as received", None,
    )  # fmt: skip


def test_what_the_peer_accepts_is_learned_with_the_first_batch(tmp_path: Path, broker: str) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        post.spool.learn("ws", {MR: [IMPLICIT_LE], CT: [J2K]})
        heard = post.deliver(post.put(), post.put("MR2_J2KR.dcm"))
    native = list(GROUPS["uncompressed"])
    assert only(Learned, heard)[0].accepted == {CT: native, MR: native}
    assert not only(Learned, heard)[0].probe
    assert post.spool.learned("ws") == {CT: native, MR: native}
    (refused,) = only(Refused, heard)
    assert (refused.final, refused.status, refused.attempts) == (True, None, 1)
    assert "does not accept MR Image Storage as J2K" in refused.reason


def test_a_rendition_is_sent_in_its_own_syntax_and_a_missing_one_is_left_out(
    tmp_path: Path, broker: str
) -> None:
    with pynetdicom_scp() as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        first, second, third = post.put("MR2_J2KR.dcm"), post.put("MR2_J2KR.dcm"), post.put("MR2_J2KR.dcm")
        parcel = make_rendition(post, first, post.spool.received(post.put("MR_small.dcm").id), EXPLICIT_LE)
        missing = dataclasses.replace(parcel, instance=second.id)
        damaged = make_rendition(post, third, Path(__file__), EXPLICIT_LE)
        heard = post.deliver(parcel, missing, damaged)
    (sent,) = peer.datasets
    assert sent[1] == EXPLICIT_LE
    assert only(Delivered, heard)[0].key == parcel.key
    assert "no DICOM file" in only(Refused, heard)[0].reason
    assert post.spool.state(second.id).pending == ("ws",)  # type: ignore[union-attr]


def test_an_object_that_is_padded_on_its_way_says_so(
    tmp_path: Path, broker: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Workstation(tmp_path / "ws", free_port(), "+xa") as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        odd = Path(__file__).parents[2] / "data" / "cases" / "wire" / "oddfrag.dcm"
        instance = put(post.spool, odd, "ws", fresh_uid=False)
        (delivered,) = only(Delivered, post.deliver(instance))
        (again,) = only(Delivered, post.deliver(instance))
    assert delivered.note == again.note == "its data set has an odd length: (7FE0,0010) padded"
    assert explain(post.settings, instance.sop_instance_uid)
    assert delivered.note in capsys.readouterr().out


def test_a_batch_that_comes_twice_is_sent_once_and_told_twice(tmp_path: Path, broker: str) -> None:
    with pynetdicom_scp(answer=lambda _: 0xB000) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        instance = post.put()
        batch = post.batch(instance)
        post.forwarder.deliver(batch)
        assert only(Delivered, post.inner(batch.id))[0].status == 0xB000
        post.forwarder.deliver(batch)  # Celery's duplicate: the lease is gone.
        again = post.deliver(instance)  # The dispatcher's: it has missed an event.
        assert only(Delivered, again)[0].status == 0xB000
        post.spool.retire(instance.id)
        assert post.deliver(instance) == []
        assert len(peer.datasets) == 1


def test_a_batch_whose_lease_somebody_holds_is_dropped(tmp_path: Path, broker: str) -> None:
    with pynetdicom_scp() as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        batch = post.batch(post.put())
        with post.spool.leases.acquire(batch.id):
            post.forwarder.deliver(batch)
        assert peer.datasets == []
    assert post.redis.llen(EVENTS_KEY) == 0


@pytest.mark.parametrize(
    ("status", "final"), [(0xC000, True), (0xA900, True), (0x0122, True), (0x0110, False)]
)
def test_a_refused_object_is_counted_and_the_others_go_on(
    tmp_path: Path, broker: str, status: int, final: bool
) -> None:
    with pynetdicom_scp(answer=lambda event: status if event.request.MessageID == 1 else 0) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        bad, good = post.put(), post.put()
        first = post.deliver(bad, good)
        second = post.deliver(bad)
    refused = only(Refused, first) + only(Refused, second)
    assert [(event.status, event.final, event.attempts) for event in refused] == [
        (status, final, 1),
        (status, final, 2),
    ]
    assert [event.instance for event in only(Delivered, first)] == [good.id]
    assert post.spool.attempts(bad.id, "ws") == 2


def test_the_log_names_what_was_delivered_and_refused_by_its_uid(
    tmp_path: Path, broker: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with pynetdicom_scp(answer=lambda event: 0xC000 if event.request.MessageID == 1 else 0) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        bad, good = post.put(), post.put()
        post.deliver(bad, good)
    told = [r.getMessage().split()[:4] for r in caplog.records if r.name == "forwarder.reports"]
    for word, instance in (("Refused", bad), ("Delivered", good)):
        name = f"instance={instance.id}", f"uid={instance.sop_instance_uid}", "destination=ws"
        assert [word, *name] in told


@pytest.mark.parametrize(
    ("status", "words"), [(0xA700, "out of resources"), (0x0213, "resource"), (0x0124, "not authorised")]
)
def test_a_peer_that_takes_nothing_now_ends_the_batch_and_costs_no_attempt(
    tmp_path: Path, broker: str, status: int, words: str
) -> None:
    with pynetdicom_scp(answer=lambda _: status) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        instances = [post.put(), post.put()]
        heard = post.deliver(*instances)
        assert len(peer.datasets) == 1
        wait_until(lambda: peer.released == 1, "the release")
    (unable,) = only(Unreachable, heard)
    assert words in unable.reason
    assert (unable.instance, unable.status, unable.broke_off) == (instances[0].id, status, False)
    assert not only(Refused, heard)
    assert [post.spool.attempts(instance.id, "ws") for instance in instances] == [0, 0]


def test_an_absent_peer_is_unreachable_in_words_and_everything_stays_pending(
    tmp_path: Path, broker: str
) -> None:
    post = Post(tmp_path, broker, ws={"port": free_port()})
    instance = post.put()
    heard = post.deliver(instance)
    assert [event.reason for event in only(Unreachable, heard)] == ["connection refused"]
    assert post.spool.state(instance.id).pending == ("ws",)  # type: ignore[union-attr]


def test_an_abort_in_the_middle_keeps_what_was_delivered_before_it(tmp_path: Path, broker: str) -> None:
    bad = []

    def abort_at_bad(event: Any) -> int:
        if event.request.AffectedSOPInstanceUID in bad:
            event.assoc.abort()
        return 0

    with pynetdicom_scp(answer=abort_at_bad) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        instances = [post.put() for _ in range(3)]
        bad.append(instances[1].sop_instance_uid)
        heard = post.deliver(*instances)
        assert len(peer.callers) == 2  # once more, in case it was the peer's habit
    assert [event.instance for event in only(Delivered, heard)] == [instances[0].id]
    (unreachable,) = only(Unreachable, heard)
    assert "by the destination" in unreachable.reason
    assert (unreachable.instance, unreachable.broke_off) == (instances[1].id, True)


@pytest.mark.parametrize("way", ["closes", "aborts", "releases", "repeats", "babbles"])
@pytest.mark.parametrize("most", [1, 10])
def test_a_peer_that_ends_associations_by_habit_costs_reconnections_and_no_circuit(
    tmp_path: Path, broker: str, way: str, most: int
) -> None:
    with pynetdicom_scp() as peer, relay(peer.port, ends_after(most, way)) as port:
        post = Post(tmp_path, broker, ws={"port": port})
        instances = [post.put() for _ in range(21)]
        heard = post.deliver(*instances[:20]) + post.deliver(instances[20])
        assert len(peer.callers) == -(-20 // most) + 1
    assert not only(Unreachable, heard)
    assert [event.instance for event in only(Delivered, heard)] == [i.id for i in instances]
    assert len({uid for uid, _, _ in peer.datasets}) == 21


def test_a_peer_that_needs_a_moment_before_it_associates_again_gets_it(
    tmp_path: Path, broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However long this machine takes for the peer's own end.
    monkeypatch.setattr(sending, "_REOPEN_PAUSES", (0.1,) * 600)
    monkeypatch.setattr(sending, "_PROMPT", 60.0)
    with pynetdicom_scp(maximum_associations=1) as peer:
        once = ends_after(1, "closes")

        def slow_to_end(requestor: socket.socket, acceptor: socket.socket) -> None:
            once(requestor, acceptor)
            requestor.shutdown(socket.SHUT_RDWR)
            time.sleep(0.3)  # its own end of it lasts

        with relay(peer.port, slow_to_end) as port:
            post = Post(tmp_path, broker, ws={"port": port})
            heard = post.deliver(*(post.put() for _ in range(3)))
    assert not only(Unreachable, heard)
    assert len(only(Delivered, heard)) == 3


def test_a_peer_that_closes_over_the_first_object_of_each_association_is_not_asked_again(
    tmp_path: Path, broker: str
) -> None:
    def refuse(event: Any) -> int:
        event.assoc.abort()
        return 0

    with pynetdicom_scp(answer=refuse) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        heard = post.deliver(post.put(), post.put())
        assert len(peer.callers) == 1
    assert only(Unreachable, heard)[0].broke_off


def test_original_calls_with_the_title_of_whoever_sent_each_object(tmp_path: Path, broker: str) -> None:
    with pynetdicom_scp() as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port, "calling": "original"})
        callers = ("CT1", "CT1", "MR1", "", "no\\title")
        heard = post.deliver(*(post.put(calling=caller) for caller in callers))
    assert len(only(Delivered, heard)) == 5
    assert peer.callers == ["CT1", "MR1", "FERRY"]


def test_a_sender_of_single_objects_makes_one_association(tmp_path: Path, broker: str) -> None:
    with Workstation(tmp_path / "ws", free_port()) as peer, pynetdicom_scp() as seen:
        post = Post(
            tmp_path, broker, ws={"port": seen.port, "linger": 30}, single={"port": peer.port, "linger": 30}
        )
        for _ in range(5):
            assert only(Delivered, post.deliver(post.put()))
            assert only(Delivered, post.deliver(post.put(), to="single"))
        assert len(seen.callers) == 1
        # A probe takes the place of the idle one, where there is no other.
        assert only(Learned, post.probe(CT, to="single"))
        post.forwarder.close()


def test_more_contexts_than_one_association_carries_take_several(tmp_path: Path, broker: str) -> None:
    with pynetdicom_scp(resolve(["all"])) as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        heard = post.probe(*(f"1.2.840.10008.5.1.4.1.1.{n}" for n in (1, 2, 4, 7, 20, 128)))
        assert len(peer.callers) > 1
        assert max(peer.proposed) <= 128
    (learned,) = only(Learned, heard)
    assert learned.probe
    assert len(learned.accepted) == 6
    assert all(set(syntaxes) == set(resolve(["all"])) for syntaxes in learned.accepted.values())
    assert post.spool.learned("ws") == learned.accepted


def test_a_probe_of_an_absent_silent_or_rejecting_peer_says_which(tmp_path: Path, broker: str) -> None:
    with black_hole() as hole, pynetdicom_scp(require_called_aet=True) as peer:
        post = Post(
            tmp_path, broker,
            off={"port": free_port()}, silent={"port": hole, "timeout": 0.5}, strict={"port": peer.port},
        )  # fmt: skip
        reasons = [
            only(Unreachable, post.probe(CT, to=name))[0].reason for name in ("off", "silent", "strict")
        ]
    assert reasons == ["connection refused", "no answer (timeout)", "called AE title not recognised"]


def test_orthanc_learns_and_receives(tmp_path: Path, broker: str) -> None:
    with orthanc(tmp_path / "orthanc", title="WS1") as (dicom, _):
        post = Post(tmp_path, broker, ws={"port": dicom})
        (learned,) = post.probe(CT, MR)
        assert J2K in learned.accepted[MR]  # type: ignore[union-attr]
        heard = post.deliver(post.put(), post.put("MR2_J2KR.dcm"))
    assert len(only(Delivered, heard)) == 2


def test_a_destination_that_is_configured_no_longer_leaves_its_objects_pending(
    tmp_path: Path, broker: str
) -> None:
    post = Post(tmp_path, broker, ws={})
    assert post.deliver(post.put(), to="gone") == []


def _free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def test_nothing_is_sent_that_could_not_be_marked_as_delivered(tmp_path: Path, broker: str) -> None:
    with small_file_system(tmp_path / "disk", 8 << 20) as disk, pynetdicom_scp([EXPLICIT_LE]) as seen:
        post = Post(disk, broker, ws={"port": seen.port})
        instance = post.put()
        filler = disk / "filler"
        filler.write_bytes(bytes(_free(disk) - (32 << 10)))
        (unreachable,) = only(Unreachable, post.deliver(instance))
        assert "spool is full" in unreachable.reason
        assert not seen.datasets
        filler.unlink()
        assert only(Delivered, post.deliver(instance))
        assert len(seen.datasets) == 1


def test_what_is_delivered_while_the_disk_fills_is_marked_when_there_is_room_and_not_sent_again(
    tmp_path: Path, broker: str
) -> None:
    with small_file_system(tmp_path / "disk", 8 << 20) as disk:
        filler = disk / "filler"

        def fill(_: Any) -> int:
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 12))
            threading.Timer(1.0, filler.unlink).start()
            return 0

        with pynetdicom_scp([EXPLICIT_LE], fill) as seen:
            post = Post(disk, broker, ws={"port": seen.port})
            assert only(Delivered, post.deliver(post.put()))
            assert len(seen.datasets) == 1


def test_a_full_disk_is_our_own_fault_and_held_like_a_peers(tmp_path: Path, broker: str) -> None:
    with pynetdicom_scp() as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        instance = post.put()
        marker = post.spool.folder(instance.id) / "delivered-ws.json"
        (marker.parent / f".{marker.name}.{os.getpid()}.{threading.get_ident()}.tmp").mkdir(
            parents=True
        )  # No marker can be written.
        heard = post.deliver(instance, post.put())
        assert len(peer.datasets) == 1
    assert only(Unreachable, heard)[0].reason.startswith("internal error: IsADirectoryError")


def test_an_object_that_cannot_be_read_is_named_as_the_cause(tmp_path: Path, broker: str) -> None:
    with pynetdicom_scp() as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port})
        good, bad = post.put(), post.put()
        received = post.spool.received(bad.id)
        received.unlink()
        received.mkdir()
        (failure,) = only(Unreachable, post.deliver(told(bad), told(good)))
    assert failure.instance == bad.id
    assert failure.reason.startswith("internal error: IsADirectoryError")


# The Celery worker

START = """
import os
os.environ["REMAP_SIGTERM"] = "SIGQUIT"
import json, sys
from dicomferry.logs import configure
from dicomferry.settings import Settings
from forwarder.tasks import run
configure("forwarder")
run(Settings(**json.loads(sys.argv[1])))
"""


@pytest.fixture
def worker_settings(tmp_path: Path, broker: str) -> Iterator[tuple[Post, subprocess.Popen[bytes], int]]:
    """A running worker with a black hole and a stock pynetdicom SCP as destinations."""
    with black_hole() as hole, pynetdicom_scp() as peer:
        post = Post(tmp_path, broker, ws={"port": peer.port}, hole={"port": hole, "timeout": 60})
        with celery_process(START, post.settings, tmp_path / "forwarder.log") as worker:
            yield post, worker, peer.port


def test_the_worker_delivers_beside_black_holes_and_stops_in_seconds(
    worker_settings: tuple[Post, subprocess.Popen[bytes], int],
) -> None:
    post, worker, _ = worker_settings
    app = celery_app(post.settings)
    stuck = [post.batch(post.put(), to="hole") for _ in range(3)]
    batch = post.batch(post.put(), post.put())
    for one in (*stuck, batch):
        app.send_task(DELIVER, kwargs=one.to_message(), queue=DELIVER_QUEUE)
    probe = ProbeBatch(new_batch_id(), "ws", (CT,))
    post.spool.leases.create(probe.id)
    app.send_task(PROBE, kwargs=probe.to_message(), queue=DELIVER_QUEUE)

    heard = []

    def done() -> bool:
        heard.extend(filter(None, map(events.parse, post.redis.lpop(EVENTS_KEY, 1000) or [])))
        return {Finished(batch.id), Finished(probe.id)} <= set(filter(_hashable, heard))

    wait_until(done, "both batches", seconds=30)
    assert len(only(Delivered, heard)) == 2
    assert [event.accepted.keys() for event in only(Learned, heard) if event.probe] == [{CT}]
    assert "running" in {post.spool.leases.state(one.id) for one in stuck}

    worker.send_signal(signal.SIGTERM)
    # The black hole's own timeout is a minute: whoever waits for it is cut.
    assert worker.wait(timeout=45) == 0
    assert {post.spool.leases.state(one.id) for one in stuck} == {"gone"}


def _hashable(event: events.Event) -> bool:
    return not isinstance(event, Learned)
