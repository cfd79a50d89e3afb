"""What was seen of a rendition's pixels, where an operator looks for it."""

from pathlib import Path

import pytest

from dicomferry.messages.events import Rendered, dump, parse
from dicomferry.settings import Settings
from dicomferry.spool.instance import RenditionSpec
from dicomferry.spool.spool import boot_id
from gateway.commands.explain import explain
from tests.support.images.files import shipped
from tests.support.stages.spools import a_spool, put
from workers.transcode import transcode

JPEG_LS = RenditionSpec("1.2.840.10008.1.2.4.80")


def test_explain_says_who_decoded_a_rendition_back_and_the_digest_of_its_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(
        spool=tmp_path,
        ae=[{"title": "FERRY"}],
        destination=[{"name": "ws", "title": "WS1", "host": "127.0.0.1", "port": 104}],
        route=[{"to": ["ws"]}],
    )
    spool = a_spool(tmp_path)
    instance = put(spool, shipped("MR_small.dcm"), "ws")
    assert explain(settings, instance.sop_instance_uid)
    assert "rendition" not in capsys.readouterr().out
    report = transcode(
        spool.received(instance.id),
        spool.rendition(boot_id(), instance.id, JPEG_LS.key),
        JPEG_LS,
        verify="always",
        recorded=True,
    )
    assert explain(settings, instance.sop_instance_uid)
    told = capsys.readouterr().out
    assert "rendition JPEGLS: verified: decoded back by CharLS" in told
    assert f"pixels {report.digest}" in told


def test_an_event_carries_what_was_seen_and_one_of_an_older_worker_is_understood() -> None:
    event = Rendered("b", "i", "k", "YBR_RCT became RGB", "0f1e", "verified: decoded back by X, pixels equal")
    assert parse(dump(event)) == event
    assert event.words == "YBR_RCT became RGB; verified: decoded back by X, pixels equal; pixels 0f1e"
    older = '{"event":"Rendered","batch":"b","instance":"i","key":"k","notes":"n"}'
    assert parse(older) == Rendered("b", "i", "k", "n")
