"""What makes room works on a disk that has none."""

from contextlib import suppress
from pathlib import Path

from dicomferry.settings import Settings
from dicomferry.spool import orders
from gateway.commands.quarantine import discard
from ingest.quarantine import quarantined
from tests.support.running.mounts import small_file_system
from tests.support.stages.spools import a_spool


def test_the_quarantine_is_discarded_on_a_full_disk_and_the_history_told_afterwards(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", 4 << 20) as disk:
        spool = a_spool(disk)
        settings = Settings(
            spool=disk,
            ae=[{"title": "FERRY"}],
            destination=[{"name": "ws", "title": "WS", "host": "127.0.0.1", "port": 104}],
            route=[{"to": ["ws"]}],
        )
        folder = spool.quarantine / ("a" * 32)
        folder.mkdir(parents=True)
        (folder / "received.dcm").write_bytes(bytes(100_000))
        (folder / "reason.json").write_text('{"reason": "no data set", "received_at": 1.0}')
        (kept,) = quarantined(spool)
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        discard(settings, [kept], yes=True)
        assert quarantined(spool) == []
        assert len(orders.outstanding(spool.orders)) == 1
