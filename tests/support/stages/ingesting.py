"""Ingest on a spool of the test, in this process or in its own, and requestors that do what DCMTK cannot."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE
from pynetdicom.association import Association

from dicomferry.dicom.part10 import dataset_offset
from dicomferry.settings import Settings
from dicomferry.spool.instance import Instance
from dicomferry.spool.spool import Spool
from ingest.dimse.acceptor import serving
from ingest.dimse.listener import Listener
from tests.support.running.configuration import configured, destination
from tests.support.running.ports import free_port, is_listening
from tests.support.running.processes import DICOMFERRY, wait_until
from tests.support.stages.spools import instances_of


def settings_for(spool: Path, **tables: Any) -> Settings:
    """Settings of an ingest: called FERRY, everything goes to one workstation, unless `tables` differ."""
    ingest = {"port": free_port(), "min_free_mb": 1} | tables.pop("ingest", {})
    content = {
        "spool": spool,
        "ingest": ingest,
        "ae": [{"title": "FERRY"}],
        "destination": [{"name": "ws1", "title": "WS1", "host": "127.0.0.1", "port": 104}],
        "route": [{"to": ["ws1"]}],
    } | tables
    return Settings(**content)


@dataclass(frozen=True)
class Ingest:
    settings: Settings
    spool: Spool
    listener: Listener

    @property
    def port(self) -> int:
        return self.settings.ingest.port

    def instances(self) -> list[Instance]:
        return instances_of(self.spool)

    def encoded(self, instance: Instance) -> bytes:
        """The data set's bytes on the spool."""
        return data_set_of(self.spool.received(instance.id))

    def leftovers(self) -> list[str]:
        return leftovers(self.spool)


def leftovers(spool: Spool) -> list[str]:
    """Names of the files in ``incoming``."""
    return [path.name for path in spool.incoming.rglob("*") if path.is_file()]


def data_set_of(path: Path) -> bytes:
    return path.read_bytes()[dataset_offset(path) :]


@contextmanager
def an_ingest(folder: Path, **tables: Any) -> Iterator[Ingest]:
    settings = settings_for(folder / "spool", **tables)
    with serving(settings) as listener:
        yield Ingest(settings, Spool(settings.spool), listener)


class IngestProcess:
    """`dicomferry ingest` as its own process: its log and, by default, its spool are in `folder`."""

    def __init__(self, folder: Path, *before: str, **tables: Any) -> None:
        ingest = {"port": free_port(), "min_free_mb": 1, "processes": 1} | tables.pop("ingest", {})
        self.port = ingest["port"]
        config = configured(folder, destination("ws1", 104), ingest=ingest, **tables)
        self.log = folder / "log"
        command = [*before, *DICOMFERRY, "ingest", "--config", str(config)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: is_listening(self.port) or self.process.poll() is not None, "ingest", 60)
        assert self.process.poll() is None, self.log.read_text()

    def stop(self, seconds: float = 80.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def associated(
    port: int, *contexts: tuple[str, list[str]], called: str = "FERRY", calling: str = "PACS"
) -> Iterator[Association]:
    """An association of pynetdicom's; each context is a SOP class and its transfer syntaxes in order."""
    requestor = AE(calling)
    for sop_class, syntaxes in contexts:
        requestor.add_requested_context(sop_class, syntaxes)
    association = requestor.associate("127.0.0.1", port, ae_title=called)
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
