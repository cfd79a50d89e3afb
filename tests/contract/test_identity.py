"""What peers are told that we are (PS3.7 D.3.3.2): dicomferry, not the library that it is built on."""

from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import AE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicomferry.dicom.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomferry.settings import Destination
from forwarder.dimse.proposal import ECHO
from forwarder.dimse.scu import Association
from tests.support.images.files import fresh_copies
from tests.support.peers.dcmtk import send
from tests.support.peers.scps import pynetdicom_scp
from tests.support.stages.ingesting import an_ingest

OURS = (IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)


def test_the_name_is_fixed_and_of_the_form_that_the_standard_wants() -> None:
    assert OURS == ("2.25.122372030005293684069474262568868384579", "DICOMFERRY_020")
    assert len(IMPLEMENTATION_CLASS_UID) <= 64
    assert len(IMPLEMENTATION_VERSION_NAME) <= 16


def test_who_calls_ingest_is_told_our_name_and_so_is_who_reads_its_files(tmp_path: Path) -> None:
    ae = AE(ae_title="PACS")
    ae.add_requested_context(Verification)
    with an_ingest(tmp_path) as ingest:
        association = ae.associate("127.0.0.1", ingest.port, ae_title="FERRY")
        acceptor = association.acceptor
        assert (acceptor.implementation_class_uid, acceptor.implementation_version_name) == OURS
        association.release()
        assert send(ingest.port, fresh_copies("MR_small.dcm", 1, tmp_path / "mr")).returncode == 0
        (instance,) = ingest.instances()
        meta = pydicom.dcmread(ingest.spool.received(instance.id)).file_meta
    assert (meta.ImplementationClassUID, meta.ImplementationVersionName) == OURS


def test_the_destination_is_told_our_name() -> None:
    seen: list[tuple[str, str]] = []

    def note(event: Any) -> None:
        requestor = event.assoc.requestor
        seen.append((requestor.implementation_class_uid, requestor.implementation_version_name))

    with pynetdicom_scp(requested=note) as peer:
        destination = Destination(name="ws", title="WS", host="127.0.0.1", port=peer.port)
        Association.request(destination, "FERRY", [ECHO]).release()
    assert seen == [OURS]
