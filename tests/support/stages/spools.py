"""Spools, filled as ingest does it: a file in ``incoming``, then the commit."""

import time
import uuid
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.uid import generate_uid

from dicomferry.dicom.part10 import dataset_offset, file_header
from dicomferry.spool import records
from dicomferry.spool.digests import digest_of
from dicomferry.spool.instance import Instance, instance_id
from dicomferry.spool.spool import SHARDS, Spool


def a_spool(root: Path) -> Spool:
    spool = Spool(root)
    spool.prepare()
    return spool


def instances_of(spool: Spool) -> list[Instance]:
    """What stands on the spool."""
    names = [name for shard in SHARDS for name in spool.ids(shard)]
    return [found for name in names if (found := spool.read(name)) is not None]


def put(
    spool: Spool,
    source: Path,
    *destinations: str,
    fresh_uid: bool = True,
    calling: str = "PACS",
    called: str = "FERRY",
    in_folder: bool = False,
) -> Instance:
    """Commit the file at `source`, under a new SOP Instance UID unless told not to.

    `in_folder`: as schema 1 did.
    """
    staged = spool.incoming / uuid.uuid4().hex
    content = source.read_bytes()
    dataset = dcmread(BytesIO(content))
    if fresh_uid:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset.save_as(staged, enforce_file_format=True)
    else:
        staged.write_bytes(content)
    encoded = staged.read_bytes()[dataset_offset(staged) :]
    syntax = dataset.file_meta.TransferSyntaxUID
    head = file_header(dataset.SOPClassUID, dataset.SOPInstanceUID, syntax, records.RECEIVED_ROOM)
    staged.write_bytes(head + encoded)
    digest = digest_of(encoded)
    instance = Instance(
        id=instance_id(dataset.SOPInstanceUID, digest, destinations),
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=dataset.SOPInstanceUID,
        study_instance_uid=dataset.StudyInstanceUID,
        series_instance_uid=dataset.SeriesInstanceUID,
        modality=dataset.get("Modality", "OT"),
        transfer_syntax_uid=syntax,
        calling_ae_title=calling,
        called_ae_title=called,
        peer="127.0.0.1",
        received_at=time.time(),
        size=len(encoded),
        digest=digest,
        route="test",
        destinations=destinations,
    )
    spool.commit(staged, instance, None if in_folder else len(head) - len(records.RECEIVED_ROOM))
    staged.unlink(missing_ok=True)
    return instance


def change_record(spool: Spool, instance: Instance, **fields: Any) -> None:
    """Have the record of an instance say something else, which no part ever does."""
    path = spool.received(instance.id)
    record = records.read(path)
    assert record is not None
    content = records.fitted(record | fields)
    assert content is not None
    with path.open("r+b") as file:
        file.seek(dataset_offset(path) - len(content))
        file.write(content)
