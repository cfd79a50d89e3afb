"""What a peer writes into the fields that it controls, wherever an operator reads of it."""

import json
import logging
import unicodedata
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import pytest

from dicomferry.messages import events
from dicomferry.messages.batches import ProbeBatch, TranscodeBatch
from dicomferry.spool import orders
from dispatcher.history import lines_of
from gateway.commands import ordering, quarantine
from gateway.commands.dead_list import print_dead_list
from gateway.commands.explain import explain
from gateway.commands.selection import Filter, dead
from gateway.commands.status import print_status
from ingest.dimse.acceptor import serving
from tests.support.images.files import shipped
from tests.support.peers.raw import AC, CT, RQ, Raw, association_request, pdu, tiny_image
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.running.redis import private_redis
from tests.support.stages.bench import Bench
from tests.support.stages.spools import instances_of, put
from workers.batch import run_batch

HOSTILE = ["A[/b]", "X\nFAKE log line", "\x1b[31mred", "\u202egnp", "\x9b2J\x7f\x08", ":boom: [red]"]
UID, JPEG_LS = b"1.2.3", "1.2.840.10008.1.2.4.80"
EVERYTHING = Filter()


@contextmanager
def calling(port, said):
    with Raw(port) as peer:
        peer.send(pdu(RQ, association_request(calling=said.encode()[:16])))
        assert peer.read()[0] == AC
        yield peer


def assert_harmless(*texts):
    for text in texts:
        for line in text.split("\n"):
            assert not line.startswith("FAKE"), text
            assert not [c for c in line if unicodedata.category(c) in {"Cc", "Cf", "Zl", "Zp"}], ascii(line)


def printed(show):
    with redirect_stdout(StringIO()) as text:
        show()
    return text.getvalue()


@pytest.fixture
def bench(tmp_path):
    with private_redis() as url:
        bench = Bench(tmp_path / "spool", url)
        bench.configure(
            {"name": "ws1", "transfer_syntaxes": ["jpeg-ls"]}, ingest={"port": free_port(), "min_free_mb": 1}
        )
        try:
            yield bench
        finally:
            bench.stop()


@pytest.mark.parametrize("said", HOSTILE)
def test_what_a_peer_says_is_harmless_wherever_it_is_read(bench, said, caplog, capsys):
    caplog.set_level(logging.INFO)
    published = []
    publish = bench.redis.lpop
    bench.redis.lpop = lambda queue: published.append(publish(queue)) or published[-1]
    with serving(bench.settings), calling(bench.settings.ingest.port, said) as peer:
        assert peer.store(UID, tiny_image(UID, said.encode(), said.encode())) == 0x0000
        assert (
            peer.store(UID, tiny_image(UID, said.encode(), said.encode())[:-2]) == 0xC000
        )  # to the quarantine
        assert peer.store(said.encode(), tiny_image(UID, said.encode(), said.encode())) != 0x0000
    (instance,) = instances_of(bench.spool)
    bench.start()
    probe = bench.fetch(ProbeBatch)
    with bench.spool.leases.acquire(probe.id):
        answer = {CT: [JPEG_LS]}
        events.push(bench.redis, [events.Learned(probe.id, "ws1", answer, probe=True)])
    events.push(bench.redis, [events.Finished(probe.id)])
    run_batch(bench.spool, bench.redis, bench.fetch(TranscodeBatch))
    wait_until(lambda: bench.spool.marker(instance.id, "dead", "ws1"), "the delivery to be dead")
    wait_until(lambda: bench.spool.status()["lanes"][0]["dead"], "the status to say so")
    found = dead(bench.spool, EVERYTHING, 0.0)
    assert found
    wait_until(lambda: lines_of(bench.spool.history, "1.2.3"), "the history")
    labels = [json.loads(text)["headers"]["argsrepr"] for text in published if text]
    assert any("study 1.2.4" in text for text in labels)

    explained = printed(lambda: explain(bench.settings, "1.2.3"))
    stated = printed(lambda: print_status(bench.settings, as_json=False))
    print_dead_list(found, as_json=False)
    print_dead_list(found, as_json=True)
    kept = quarantine.select(bench.settings, EVERYTHING, "")
    quarantine.show(kept, as_json=False)
    quarantine.show(kept, as_json=True)
    ordering.discard(bench.settings, EVERYTHING, yes=True)
    listed = capsys.readouterr().out
    history = [line[5] for line in lines_of(bench.spool.history, "1.2.3")]
    logged = [record.getMessage() for record in caplog.records]
    assert_harmless(explained, stated, listed, *history, *logged, *labels)
    if said.isprintable():
        assert said[:16] in explained
        assert said[:16] in listed
        assert any(said[:16] in line for line in logged)
        assert any(said[:16] in label for label in labels)


@pytest.mark.parametrize("said", HOSTILE)
def test_what_an_older_version_wrote_down_as_it_came_is_harmless_too(tmp_path, said, capsys):
    """Records on the spool of 0.1.0, in which values stand as the peer sent them."""
    with private_redis() as url:
        bench = Bench(tmp_path / "spool", url)
        instance = put(bench.spool, shipped("CT_small.dcm"), "ws1", calling=said)
        path = bench.spool.folder(instance.id) / "instance.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"modality": said}))
        bench.spool.mark_dead(instance.id, "ws1", {"reason": f"refused: {said}", "at": 1.0, "status": None})
        folder = bench.spool.quarantine / "0123456789"
        folder.mkdir()
        record = {"reason": said, "calling_ae_title": said, "sop_instance_uid": said, "peer": said}
        (folder / "reason.json").write_text(json.dumps(record | {"transfer_syntax_uid": said}))
        explained = printed(lambda: explain(bench.settings, instance.sop_instance_uid))
        stated = printed(lambda: print_status(bench.settings, as_json=False))
        print_dead_list(dead(bench.spool, EVERYTHING, 0.0), as_json=False)
        quarantine.show(quarantine.select(bench.settings, EVERYTHING, ""), as_json=False)
        ordering.discard(bench.settings, EVERYTHING, yes=True)
        quarantine.discard(bench.settings, quarantine.select(bench.settings, EVERYTHING, ""), yes=True)
        assert orders.outstanding(bench.spool.orders)
        assert_harmless(explained, stated, capsys.readouterr().out)
        if said.isprintable():
            assert f"refused: {said}" in explained
