"""What an administrator does at three in the morning, through the command line, while everything runs."""

import json
import subprocess
import time

from tests.support.images.files import fresh_copies, shipped, uid_of
from tests.support.peers.dcmtk import Workstation, send
from tests.support.peers.scps import black_hole, pynetdicom_scp
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port
from tests.support.running.processes import DICOMFERRY, wait_until
from tests.support.running.site import Site, progress
from tests.support.stages.spools import a_spool, put

NATIVE = "CT_small.dcm"


def dead_of(site, *words):
    """What `dead list --json` says."""
    return json.loads(site.command("dead", "list", "--json", *words).stdout)


def test_status_tells_why_each_of_three_destinations_does_not_answer(tmp_path):
    files = fresh_copies(NATIVE, 1, tmp_path / "pacs")
    with pynetdicom_scp(require_calling_aet=["OTHER"]) as picky, black_hole() as hole:
        site = Site(
            tmp_path / "site",
            destination("picky", picky.port),
            destination("closed", free_port()),
            destination("hole", hole, timeout=1),
        )
        with site:
            assert send(site.port, files).returncode == 0
            names = ("picky", "closed", "hole")
            wait_until(lambda: all(site.lane(n)["circuit"] == "open" for n in names), "open circuits", 30)
            said = site.command("status").stdout
    of = {line.split()[0]: line for line in said.splitlines() if " not answering since " in line}
    assert ": calling AE title not recognised; asks again in" in of["picky"]
    assert ": connection refused; asks again in" in of["closed"]
    assert ": no answer (timeout); asks again in" in of["hole"]


def test_what_a_mended_destination_had_refused_is_delivered_when_it_is_retried(tmp_path):
    files = fresh_copies(NATIVE, 3, tmp_path / "pacs", PatientName="Secret^Name", PatientID="S3CR3T")
    broken = True
    with pynetdicom_scp(answer=lambda _: 0xC000 if broken else 0x0000) as peer:
        site = Site(tmp_path / "site", destination("ws1", peer.port, max_attempts=1))
        with site:
            send(site.port, files)
            wait_until(lambda: site.lane("ws1")["dead"] == len(files), "all to be dead", 30)
            shown = site.command("dead", "list", "--destination", "ws1", "--newer-than", "1h")
            assert shown.stdout.startswith("ws1: refused: cannot understand (0xC000) (3)\n")
            assert all(uid_of(file) in shown.stdout for file in files)
            assert [d["status"] for d in dead_of(site)] == [0xC000] * 3
            assert dead_of(site, "--reason", "aborted") == []
            status = site.command("status").stdout
            assert "dicomferry dead list" in status

            asked = site.command("dead", "retry")  # no terminal here
            assert asked.returncode == 2
            assert "3 dead deliveries to be tried again (ALL there are: no filter was given)" in asked.stdout
            assert "--yes" in asked.stderr
            assert len(dead_of(site)) == 3

            discarded = site.command("dead", "discard", "--instance", uid_of(files[0]), "--yes")
            assert discarded.returncode == 0, discarded.stderr
            assert "carried it out" in discarded.stdout
            wait_until(lambda: len(site.instances()) == 2, "the discarded one to be retired", 20)
            broken, refused = False, len(peer.datasets)
            retried = site.command("dead", "retry", "--reason", "cannot understand", "--yes")
            assert (retried.returncode, "carried it out" in retried.stdout) == (0, True), retried.stderr
            site.wait_drained()
            story = site.command("explain", uid_of(files[1])).stdout
            end = site.command("explain", uid_of(files[0])).stdout
    taken = [uid for uid, _, _ in peer.datasets[refused:]]
    assert sorted(taken) == sorted(map(uid_of, files[1:]))
    for word in ("dead", "retried", "delivered"):
        assert word in story
    assert "discarded" in end
    everything = site.log.read_text() + shown.stdout + status + asked.stdout + story + end
    assert "Secret" not in everything
    assert "S3CR3T" not in everything


def test_at_a_terminal_the_answer_no_changes_nothing(tmp_path):
    site = Site(tmp_path / "site", destination("ws1", free_port()))
    spool = a_spool(site.spool)
    spool.mark_dead(put(spool, shipped(NATIVE), "ws1").id, "ws1", {"reason": "damaged", "at": time.time()})
    words = [*DICOMFERRY, "dead", "discard", "--config", str(site.config)]
    answered = {}
    for answer in ("n\n", "y\n"):
        # script(1) gives the command a terminal.
        done = subprocess.run(
            ["script", "--quiet", "--return", "--command", " ".join(words), "/dev/null"],
            input=answer, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        answered[answer] = done.returncode, len(list((site.spool / "orders").iterdir()))
        assert "1 dead delivery to be given up for good" in done.stdout
    assert answered == {"n\n": (1, 0), "y\n": (0, 1)}


def test_a_destination_taken_out_of_the_configuration_is_decided_on_before_anything_starts(tmp_path):
    files = fresh_copies(NATIVE, 2, tmp_path / "pacs")
    new = Workstation(tmp_path / "new", free_port(), title="NEW")
    folder = tmp_path / "site"
    with Site(folder, destination("old", free_port())) as site:
        assert send(site.port, files).returncode == 0
        wait_until(lambda: site.lane("old")["pending"] == 2, "both to be pending", 20)
    site = Site(folder, destination("new", new.port, title="NEW"), keep_delivered="1h")
    refused = site.command("up")
    assert refused.returncode == 2
    assert "not in the configuration: old (2)" in refused.stderr
    assert "dispatcher refuses to start" in refused.stderr
    with new:
        asked = site.command("reroute", "--instance", uid_of(files[0]))
        assert (asked.returncode, "from old to new" in asked.stdout) == (2, True)
        rerouted = site.command("reroute", "--instance", uid_of(files[0]), "--yes")
        assert rerouted.returncode == 0
        assert "it is done as soon as one does" in rerouted.stdout
        assert site.status()["orders"] == 1
        with site.with_options("--park"):
            progress(lambda: len(new.files()), 1)
            (parked,) = dead_of(site)
            assert parked["sop_instance_uid"] == uid_of(files[1])
            assert "no destination old any more" in parked["reason"]
            assert site.command("reroute", "--yes").returncode == 0
            progress(lambda: len(new.files()), 2)
            wait_until(lambda: site.lane("new")["delivered"] == 2, "both to be delivered", 20)
            resent = site.command("resend", "--destination", "new", "--instance", uid_of(files[0]), "--yes")
            assert "1 delivery to be sent once more" in resent.stdout, resent.stderr
            progress(lambda: len(new.files()), 3)
            assert len(site.instances()) == 2  # kept
    names = [uid_of(path) for path in new.files()]
    assert (names.count(uid_of(files[0])), names.count(uid_of(files[1]))) == (2, 1)


def test_what_is_not_delivered_within_max_age_is_dead_and_says_why(tmp_path):
    (file,) = fresh_copies(NATIVE, 1, tmp_path / "pacs")
    site = Site(tmp_path / "site", destination("off", free_port(), max_age="10s"))
    with site:
        assert send(site.port, [file]).returncode == 0
        wait_until(lambda: site.lane("off")["dead"] == 1, "the delivery to be too old", 30)
        (dead,) = dead_of(site)
    assert dead["reason"].startswith("not delivered within max_age")
    assert "connection refused" in dead["reason"]
