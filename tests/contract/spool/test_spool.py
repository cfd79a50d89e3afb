"""The spool on a real file system: commits, markers, leases."""

import fcntl
import json
import multiprocessing
import os
import subprocess
import threading
from pathlib import Path

import pytest
from pydicom import dcmread

from dicomferry.errors import Misconfigured
from dicomferry.spool import leases
from dicomferry.spool.departures import Departure
from dicomferry.spool.digests import digest_of
from dicomferry.spool.instance import RenditionSpec, State, instance_id
from dicomferry.spool.leases import LeaseContent
from dicomferry.spool.places import Places
from dicomferry.spool.spool import SHARDS, Spool, boot_id
from tests.support.images.files import shipped
from tests.support.running.processes import wait_until
from tests.support.running.services import program
from tests.support.stages.ingesting import data_set_of
from tests.support.stages.spools import a_spool, put

IMAGE = "MR_small_jp2klossless.dcm"


@pytest.fixture
def spool(tmp_path):
    return a_spool(tmp_path / "spool")


def state_of(spool, instance) -> State:
    state = spool.state(instance)
    assert state is not None
    return state


@pytest.fixture(params=["file", "folder"])
def in_folder(request):
    """Whether an instance stands there as schema 1 put it."""
    return request.param == "folder"


def ids(spool):
    return [name for shard in SHARDS for name in spool.ids(shard)]


@pytest.mark.parametrize("destinations", [("ws1",), ("ws1", "ws2")])
def test_what_was_committed_is_read_back_as_it_was(spool, in_folder, destinations):
    instance = put(spool, shipped(IMAGE), *destinations, in_folder=in_folder)
    assert spool.read(instance.id) == instance
    assert state_of(spool, instance.id).pending == destinations
    assert ids(spool) == [instance.id]
    assert spool.exists(instance.id)
    assert digest_of(data_set_of(spool.received(instance.id))) == instance.digest


def test_the_same_instance_while_pending_is_committed_once(spool, in_folder):
    first = put(spool, shipped(IMAGE), "ws1", fresh_uid=False, in_folder=in_folder)
    second = put(spool, shipped(IMAGE), "ws1", fresh_uid=False, in_folder=in_folder)
    assert first.id == second.id
    assert ids(spool) == [first.id]
    assert not list(spool.incoming.iterdir())


def test_a_record_that_is_too_long_for_its_room_has_a_file(spool):
    names = tuple(f"workstation-{number}" for number in range(200))
    instance = put(spool, shipped(IMAGE), *names)
    assert (spool.folder(instance.id) / "instance.json").exists()
    assert spool.read(instance.id) == instance
    assert state_of(spool, instance.id).pending == names


def test_other_programs_read_the_one_file(spool):
    instance = put(spool, shipped(IMAGE), "ws1")
    assert dcmread(spool.received(instance.id)).SOPInstanceUID == instance.sop_instance_uid
    subprocess.run([program("dcmdump"), "-q", spool.received(instance.id)], check=True, capture_output=True)


def test_markers_of_the_same_object_that_came_before_are_not_those_of_this_one(spool):
    """A dispatcher was killed while it removed an instance, and its sender sends it again."""
    first = put(spool, shipped(IMAGE), "ws1", "ws2", fresh_uid=False)
    for name in first.destinations:
        spool.mark_delivered(first.id, name, {"status": 0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Places, "_throw_away", killed)  # the object has joined its markers
        with pytest.raises(KeyboardInterrupt):
            spool.retire(first.id)
    assert spool.state(first.id) is None
    assert spool.is_taken(first.id)
    second = put(spool, shipped(IMAGE), "ws1", "ws2", fresh_uid=False)
    assert second.id == first.id
    assert state_of(spool, second.id).pending == ("ws1", "ws2")
    spool.mark_delivered(second.id, "ws1", {"status": 0})
    assert state_of(spool, second.id).pending == ("ws2",)


def killed(*_):
    raise KeyboardInterrupt


def test_what_is_left_of_an_instance_that_is_gone_is_removed_and_nothing_else(spool, in_folder):
    gone, there = (put(spool, shipped(IMAGE), "ws1", in_folder=in_folder) for _ in range(2))
    for instance in (gone, there):
        spool.add_attempt(instance.id, "ws1")
    spool.received(gone.id).unlink()
    (spool.folder(gone.id) / "instance.json").unlink(missing_ok=True)
    for instance in (gone, there):
        spool.remove_rest(instance.id)
    assert ids(spool) == [there.id]
    assert spool.attempts(there.id, "ws1") == 1


def test_no_marker_is_left_of_what_is_gone(spool):
    instance = put(spool, shipped(IMAGE), "ws1")
    spool.received(instance.id).unlink()
    with pytest.raises(FileNotFoundError):
        spool.mark_delivered(instance.id, "ws1", {})
    with pytest.raises(FileNotFoundError):
        spool.add_attempt(instance.id, "ws1")
    assert not ids(spool)


def test_ids_differ_by_destinations_content_and_repetition():
    ids = {
        instance_id("1.2.3", "digest", ("ws1",)),
        instance_id("1.2.3", "digest", ("ws2",)),
        instance_id("1.2.3", "other", ("ws1",)),
        instance_id("1.2.3", "digest", ("ws1",), again="x"),
    }
    assert len(ids) == 4


def test_a_delivered_marker_wins_over_a_dead_one(spool, in_folder):
    instance = put(spool, shipped(IMAGE), "ws1", in_folder=in_folder)
    spool.mark_dead(instance.id, "ws1", {"reason": "refused"})
    spool.mark_delivered(instance.id, "ws1", {"status": 0})
    state = state_of(spool, instance.id)
    assert state.delivered == {"ws1"}
    assert not state.dead


def test_an_instance_that_is_not_delivered_everywhere_is_never_retired(spool, in_folder):
    instance = put(spool, shipped(IMAGE), "ws1", "ws2", in_folder=in_folder)
    spool.mark_delivered(instance.id, "ws1", {})
    assert not spool.retire(instance.id)
    assert spool.read(instance.id) == instance
    spool.mark_delivered(instance.id, "ws2", {})
    assert spool.retire(instance.id)
    assert spool.read(instance.id) is None
    assert not list(spool.trash.iterdir())
    assert not ids(spool)


def left(instance, status=0, key=None):
    return Departure(instance.id, instance.destinations[0], status, key, 1700000000.123)


def test_an_instance_may_leave_with_its_last_delivery(spool):
    instance = put(spool, shipped(IMAGE), "ws1")
    departure = left(instance, 0xB000, "1.2.840.10008.1.2.1-0a1b2c3d")
    assert spool.depart(departure)
    assert not spool.depart(departure)
    assert (spool.read(instance.id), spool.state(instance.id), ids(spool)) == (None, None, [])
    assert spool.departures() == [departure]
    assert spool.departed(departure) == instance
    assert not spool.bring_back(departure)
    assert spool.retire(instance.id)
    assert not spool.departures()


def test_what_has_markers_or_stands_in_a_folder_takes_a_marker(spool):
    attempted, several = put(spool, shipped(IMAGE), "ws1"), put(spool, shipped(IMAGE), "ws1", "ws2")
    spool.add_attempt(attempted.id, "ws1")
    for instance in (attempted, several, put(spool, shipped(IMAGE), "ws1", in_folder=True)):
        assert not spool.depart(left(instance))
        assert spool.exists(instance.id)


def test_the_same_object_that_comes_again_is_another_instance(spool):
    first = put(spool, shipped(IMAGE), "ws1", fresh_uid=False)
    assert spool.depart(left(first))
    again = put(spool, shipped(IMAGE), "ws1", fresh_uid=False)
    assert again.id == first.id
    spool.redirect(again.id, ("ws1", "ws2"), "by hand")
    assert not spool.bring_back(left(first))
    assert not spool.retire(first.id)
    assert not spool.departures()
    assert state_of(spool, again.id).pending == ("ws1", "ws2")


def test_what_leaves_is_brought_back_where_an_order_wants_more(spool):
    instance = put(spool, shipped(IMAGE), "ws1")
    file = spool.received(instance.id)
    spool.redirect(instance.id, ("ws1", "ws2"), "by hand")
    file.rename(spool.root / "delivered" / left(instance).name)  # it looked for markers before
    spool.remove_rest(instance.id)
    assert not spool.retire(instance.id)
    assert spool.read(instance.id) == instance
    state = state_of(spool, instance.id)
    assert (state.pending, state.delivered) == (("ws2",), {"ws1"})


def test_attempts_are_counted_across_processes_and_forgotten_when_cleared(spool, in_folder):
    instance = put(spool, shipped(IMAGE), "ws1", in_folder=in_folder)
    assert [spool.add_attempt(instance.id, "transcode") for _ in range(3)] == [1, 2, 3]
    assert state_of(Spool(spool.root), instance.id).attempts == {"transcode": 3}
    spool.clear_attempts(instance.id, "transcode")
    assert spool.attempts(instance.id, "transcode") == 0


def test_equal_specs_have_equal_keys_and_other_settings_other_keys():
    rgb, again, ybr = (RenditionSpec("1.2.840.10008.1.2.1", c) for c in ("rgb", "rgb", "as-encoded"))
    assert rgb.key == again.key != ybr.key


def test_renditions_of_another_boot_or_of_no_instance_are_swept(spool):
    pending = put(spool, shipped(IMAGE), "ws1").id
    for boot, instance in ((boot_id(), pending), (boot_id(), "retired"), ("earlier", pending)):
        path = spool.rendition(boot, instance, "k")
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
    spool.sweep()
    assert list(spool.renditions.glob("*/*/*")) == [spool.rendition(boot_id(), pending, "k")]
    assert not (spool.renditions / "earlier").exists()


def test_a_spool_of_another_schema_is_refused_and_not_touched(spool):
    (spool.root / "schema.json").write_text('{"schema": 99}')
    with pytest.raises(Misconfigured, match="has schema 99"):
        Spool(spool.root).prepare()
    assert (spool.root / "schema.json").read_text() == '{"schema": 99}'


def test_a_spool_of_schema_1_is_from_now_on_refused_by_the_version_that_wrote_it(spool):
    (spool.root / "schema.json").write_text('{"schema": 1}')
    Spool(spool.root).prepare()
    assert json.loads((spool.root / "schema.json").read_text()) == {"schema": 2}


# Leases


def test_a_lease_is_held_by_one_and_gone_when_it_is_done(spool):
    spool.leases.create("b")
    assert spool.leases.state("b") == "idle"
    with spool.leases.acquire("b") as held:
        assert held
        assert spool.leases.state("b") == "running"
        with spool.leases.acquire("b") as second:
            assert not second
        assert not spool.leases.revoke("b")
    assert spool.leases.state("b") == "gone"


@pytest.mark.parametrize(
    "claim",
    [LeaseContent(), LeaseContent(("i1", "i2")), LeaseContent((), "ws1"), LeaseContent(("i1", "i2"), "ws1")],
)
def test_a_lease_says_what_its_batch_is_about(spool, claim):
    spool.leases.create("b", claim)
    assert spool.leases.read("b") == claim
    assert spool.leases.revoke("b")
    assert spool.leases.read("b") == LeaseContent()


def test_a_lease_of_an_earlier_build_names_its_instances_alone(spool):
    (spool.leases.folder / "b").write_text("i1\ni2")
    assert spool.leases.read("b") == LeaseContent(("i1", "i2"))


def test_a_lease_is_open_for_writing_without_which_nfs_locks_nothing_exclusively(spool):
    spool.leases.create("b")
    with spool.leases.acquire("b"):
        held = [
            int(link.name)
            for link in Path("/proc/self/fd").iterdir()
            if link.is_symlink() and link.readlink() == spool.leases.folder / "b"
        ]
        assert [fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE for descriptor in held] == [os.O_RDWR]


def test_threads_of_one_process_do_not_share_a_lease(spool):
    spool.leases.create("b")
    seen = []
    with spool.leases.acquire("b"):
        thread = threading.Thread(target=lambda: seen.append(spool.leases.state("b")))
        thread.start()
        thread.join()
    assert seen == ["running"]


def test_a_batch_whose_lease_was_taken_back_is_dropped(spool):
    spool.leases.create("b")
    assert spool.leases.revoke("b")
    with spool.leases.acquire("b") as held:
        assert not held


def test_a_lease_that_was_unlinked_between_opening_and_locking_is_no_lease(spool):
    spool.leases.create("b")
    late = os.open(spool.leases.folder / "b", os.O_RDONLY)
    assert spool.leases.revoke("b")
    fcntl.flock(late, fcntl.LOCK_EX | fcntl.LOCK_NB)  # can be locked, and still:
    assert os.fstat(late).st_nlink == 0
    os.close(late)


def test_the_dispatcher_s_glance_does_not_cost_a_batch(spool, monkeypatch):
    monkeypatch.setattr(leases, "_LOCK_TRIES", 1000)  # the thread that ends it may be late
    spool.leases.create("b")
    descriptor = os.open(spool.leases.folder / "b", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    threading.Timer(0.02, os.close, [descriptor]).start()
    with spool.leases.acquire("b") as held:
        assert held


def _hold(root, ready):
    with Spool(root).leases.acquire("b"):
        ready.set()
        threading.Event().wait(60)


def test_a_killed_holder_leaves_the_lease_idle(spool):
    spool.leases.create("b")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(spool.root, ready))
    holder.start()
    assert ready.wait(30)
    assert spool.leases.state("b") == "running"
    holder.kill()
    holder.join()
    wait_until(lambda: spool.leases.state("b") == "idle", "the kernel to free the lease")
    assert spool.leases.revoke("b")


def test_what_a_killed_dispatcher_left_beside_its_status_is_swept(spool: Spool) -> None:
    spool.write_status({"at": 1.0})
    (spool.root / ".status.json.4711.1.tmp").write_text("half of")
    spool.sweep()
    assert not list(spool.root.glob(".status*"))
    assert spool.status() == {"at": 1.0}


@pytest.mark.parametrize("name", ["", ".", "ab", "x" * 48])
def test_a_name_that_no_instance_has_removes_nothing(spool: Spool, name: str) -> None:
    """A file of an empty name in `delivered` once stood for the folder of all instances."""
    kept = put(spool, shipped("CT_small.dcm"), "ws1")
    (spool.root / "delivered" / f"{name}.1795831010000.0000.ws..dcm").touch()
    assert spool.departures() == []
    with pytest.raises(ValueError, match="no instance"):
        spool.remove_rest(name)
    assert spool.read(kept.id) == kept
