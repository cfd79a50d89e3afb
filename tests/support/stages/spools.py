"""Spools, filled as ingest does it: a staging folder, then the commit."""

import time
import uuid
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import generate_uid

from dicomferry.dicom.part10 import dataset_offset
from dicomferry.spool.digests import digest_of
from dicomferry.spool.instance import Instance, instance_id
from dicomferry.spool.spool import Spool


def a_spool(root: Path) -> Spool:
    spool = Spool(root)
    spool.prepare()
    return spool


def instances_of(spool: Spool) -> list[Instance]:
    """What stands on the spool."""
    names = [path.name for path in spool.instances.glob("*/*")]
    return [found for name in names if (found := spool.read(name)) is not None]


def put(
    spool: Spool,
    source: Path,
    *destinations: str,
    fresh_uid: bool = True,
    calling: str = "PACS",
    called: str = "FERRY",
) -> Instance:
    """Commit the file at `source`, under a new SOP Instance UID unless told not to."""
    staging = spool.incoming / uuid.uuid4().hex
    staging.mkdir()
    received = staging / "received.dcm"
    content = source.read_bytes()
    dataset = dcmread(BytesIO(content))
    if fresh_uid:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(received, enforce_file_format=True)
    else:
        received.write_bytes(content)
    encoded = received.read_bytes()[dataset_offset(received) :]
    digest = digest_of(encoded)
    instance = Instance(
        id=instance_id(dataset.SOPInstanceUID, digest, destinations),
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=dataset.SOPInstanceUID,
        study_instance_uid=dataset.StudyInstanceUID,
        series_instance_uid=dataset.SeriesInstanceUID,
        modality=dataset.get("Modality", "OT"),
        transfer_syntax_uid=dataset.file_meta.TransferSyntaxUID,
        calling_ae_title=calling,
        called_ae_title=called,
        peer="127.0.0.1",
        received_at=time.time(),
        size=len(encoded),
        digest=digest,
        route="test",
        destinations=destinations,
    )
    spool.commit(staging, instance)
    return instance
