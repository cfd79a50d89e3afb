"""Objects that crash, hang or bloat the codec that opens them, among healthy ones, through a whole `up`.

Every worker is given a decoder that does so for certain frames; everything else is what runs in earnest.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.faults.history import Arrived, History, Journal, Parked, Sent, violations
from tests.support.faults.siege import SiegedSite
from tests.support.faults.traffic import Pacs, Receiver, Sending
from tests.support.images.synthetic import dataset, encapsulated
from tests.support.running.configuration import destination
from tests.support.running.processes import wait_until

RLE = "1.2.840.10008.1.2.5"
SC = "1.2.840.10008.5.1.4.1.1.7"

# Run by each Python process before anything else; it changes the worker alone.
BAD_CODEC = f"""
import sys
if "worker" in sys.orig_argv:
    import ctypes, signal
    from workers.codecs import decoders
    _sound = decoders.DECODERS["{RLE}"]

    def _decode(codestream, *rest, **others):
        if bytes(codestream[:5]) == b"crash":
            ctypes.string_at(0)
        if bytes(codestream[:4]) == b"hang":
            left, _ = signal.getitimer(signal.ITIMER_REAL)
            if left:  # a deadline runs: it is over sooner, for this frame alone, however busy the machine is
                signal.setitimer(signal.ITIMER_REAL, left / 60)
            ctypes.PyDLL(None).sleep(1000)  # holds the interpreter's lock, as a codec in C does
        if bytes(codestream[:3]) == b"eat":
            eaten = []
            while True:
                eaten.append(bytearray(32 << 20))
        return _sound(codestream, *rest, **others)

    decoders.DECODERS["{RLE}"] = _decode
"""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


@pytest.fixture
def receiver(journal: Journal) -> Iterator[Receiver]:
    with Receiver("plain", ["uncompressed"], journal) as receiver:
        yield receiver


@pytest.fixture
def site(tmp_path: Path, receiver: Receiver) -> Iterator[SiegedSite]:
    site = SiegedSite(
        tmp_path / "site",
        destination("plain", receiver.port, title="PLAIN"),
        worker={"concurrency": 2, "memory_mb": 512},
    )
    site.customize(BAD_CODEC)
    with site:
        yield site


def poisoned(folder: Path, what: str) -> Sending:
    folder.mkdir(exist_ok=True)
    made = dataset((16, 16), 8, SOPInstanceUID=f"1.2.3.{ord(what[0])}")
    path = encapsulated(folder / f"{what}.dcm", made, RLE, [what.encode().ljust(64)])
    return Sending(path, str(made.SOPInstanceUID), RLE, SC, f"bytes that {what}", f"pixels that {what}")


def test_poison_is_parked_after_three_tries_and_its_batch_gets_through(
    site: SiegedSite, receiver: Receiver, journal: Journal, tmp_path: Path
) -> None:
    with Pacs(tmp_path / "objects", site.port, journal, seed=5, per_second=0, threads=1) as pacs:
        bad = {what: poisoned(tmp_path / "objects", what) for what in ("crash", "hangs", "eat")}
        for sending in bad.values():
            pacs.add(sending)
        healthy = {sending.uid for sending in pacs.add_new(40)}
        wait_until(lambda: not pacs.unanswered, "all to be answered", 120)
        wait_until(lambda: healthy <= {a.uid for a in journal.of(Arrived)}, "the healthy ones", 300)
        wait_until(lambda: not site.on_spool()[1], "nothing to be left to do", 300)
    parked, left = site.on_spool()
    reasons = {record.uid: record.reason for record in parked}
    assert set(reasons) == {sending.uid for sending in bad.values()}
    assert "killed its worker three times" in reasons[bad["crash"].uid]
    assert "SIGSEGV" in reasons[bad["crash"].uid]
    assert "killed its worker three times" in reasons[bad["hangs"].uid]
    assert "when its time was over" in reasons[bad["hangs"].uid]
    assert "more memory than its worker may have, three times" in reasons[bad["eat"].uid]
    history = History(
        {"plain": frozenset(receiver.accepts)}, {}, journal.of(Sent), journal.of(Arrived), [], parked, left
    )
    assert violations(history) == []
    dead = {entry["sop_instance_uid"]: entry for entry in _dead(site)}
    assert set(dead) == set(reasons), "an operator sees them"
    assert Parked(bad["crash"].uid, "plain", reasons[bad["crash"].uid]) in parked


def _dead(site: SiegedSite) -> list[dict[str, str]]:
    import json

    listed = site.command("dead", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    found = json.loads(listed.stdout)
    return list(found)
