"""The SCP of ingest in this process, on a spool of the test, and requestors that do what DCMTK cannot."""

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
from tests.support.running.ports import free_port


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
        """What stands on the spool."""
        names = [path.name for path in self.spool.instances.glob("*/*")]
        return [found for name in names if (found := self.spool.read(name)) is not None]

    def encoded(self, instance: Instance) -> bytes:
        """The data set's bytes on the spool."""
        return data_set_of(self.spool.received(instance.id))

    def leftovers(self) -> list[str]:
        return [path.name for path in self.spool.incoming.iterdir()]


def data_set_of(path: Path) -> bytes:
    return path.read_bytes()[dataset_offset(path) :]


@contextmanager
def an_ingest(folder: Path, **tables: Any) -> Iterator[Ingest]:
    settings = settings_for(folder / "spool", **tables)
    with serving(settings) as listener:
        yield Ingest(settings, Spool(settings.spool), listener)


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
