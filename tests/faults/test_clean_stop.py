"""A stop drains: what is being sent is finished, the rest given back; nothing twice, nothing forgotten."""

import re
import threading
from collections import Counter

import pytest

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from tests.support.images.files import fresh_copies, uid_of
from tests.support.peers.dcmtk import send
from tests.support.peers.scps import pynetdicom_scp
from tests.support.running.configuration import destination
from tests.support.running.processes import wait_until
from tests.support.running.site import Site, progress

FORWARDER_STOPS = re.compile("^forwarder .* Stopping$", re.MULTILINE)


@pytest.fixture
def slow():
    """A peer that holds back the answer to its third object until it is allowed to."""
    reached, allowed = threading.Event(), threading.Event()
    count = iter(range(10_000))

    def answer(_):
        if next(count) == 2:
            reached.set()
            allowed.wait(60)
        return 0x0000

    with pynetdicom_scp([EXPLICIT_LE], answer) as seen:
        yield seen, reached, allowed
        allowed.set()


def test_a_stop_in_the_middle_of_an_object_waits_for_its_answer_and_sends_nothing_twice(tmp_path, slow):
    seen, reached, allowed = slow
    site = Site(tmp_path / "site", destination("ws1", seen.port, max_associations=1))
    files = fresh_copies("CT_small.dcm", 12, tmp_path / "pacs")
    with site:
        assert send(site.port, files).returncode == 0
        wait_until(reached.is_set, "the third object", seconds=60)
        # The answer comes while the stop is under way, long after every other part has gone.
        stopping = threading.Thread(target=site.stop)
        stopping.start()
        wait_until(lambda: FORWARDER_STOPS.search(site.log.read_text()), "the stop to begin")
        wait_until(lambda: not site.pids("ingest"), "the other parts to go", seconds=30)
        allowed.set()
        stopping.join()
        assert len(seen.datasets) == 3, "nothing more is begun"
    site.log.unlink()
    with site:
        progress(lambda: len(seen.datasets), len(files))
        site.wait_drained()
    counts = Counter(uid for uid, _, _ in seen.datasets)
    assert counts == {uid_of(path): 1 for path in files}
