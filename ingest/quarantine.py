"""Objects that ingest could not parse: lists them, and reads them again with today's code and routes.

Each has a folder in ``quarantine`` with received.dcm, and reason.json as `reception` wrote it.
"""

import json
import os
import shutil
import uuid
from dataclasses import dataclass, fields
from pathlib import Path

from dicomferry.dicom.part10 import dataset_offset, private_information, read_meta
from dicomferry.errors import Permanent
from dicomferry.settings import Settings
from dicomferry.spool import records
from dicomferry.spool.digests import Digest
from dicomferry.spool.instance import Instance
from dicomferry.spool.spool import Spool
from ingest.admission import Rejected, admit
from ingest.header import Malformed
from ingest.reception import Request, build_instance, mismatch, read, refusal

_BLOCK = 1 << 20


class StillRefused(Permanent):
    """The object stays in the quarantine; the message says why."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One object in the quarantine; a field that its record lacks is empty."""

    id: str
    reason: str = ""
    sop_class_uid: str = ""
    sop_instance_uid: str = ""
    transfer_syntax_uid: str = ""
    calling_ae_title: str = ""
    called_ae_title: str = ""
    peer: str = ""  # address of the requestor
    received_at: float = 0.0  # seconds since the epoch
    size: int = 0  # bytes of the data set
    digest: str = ""


def quarantined(spool: Spool) -> list[Quarantined]:
    """The objects in the quarantine, oldest first."""
    folders = spool.quarantine.iterdir() if spool.quarantine.exists() else ()
    return sorted((_read_record(folder) for folder in folders), key=lambda kept: (kept.received_at, kept.id))


def _read_record(folder: Path) -> Quarantined:
    try:
        record = json.loads((folder / "reason.json").read_bytes())
    except (OSError, ValueError):
        return Quarantined(folder.name, "its record cannot be read")
    known = {field.name for field in fields(Quarantined)} - {"id"}
    return Quarantined(folder.name, **{key: value for key, value in record.items() if key in known})


def readmit(spool: Spool, settings: Settings, kept: Quarantined) -> Instance:
    """Read it again and, if we accept it now, move it durably from the quarantine to the spool.

    Raises:
        StillRefused: we still cannot parse, admit or route it. Nothing has changed.
        OSError: the spool cannot be written.
    """
    path = spool.quarantine / kept.id / "received.dcm"
    instance = _read_again(spool, settings, kept, path)
    staged = spool.incoming / uuid.uuid4().hex
    try:
        _place(path, staged)
        spool.commit(staged, instance, _room_in(path))
    finally:
        staged.unlink(missing_ok=True)
    discard(spool, kept)
    return instance


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has hard links
        shutil.copyfile(source, target)


def _room_in(path: Path) -> int | None:
    """Offset of the room for a record; None in what an earlier version received."""
    room = len(records.RECEIVED_ROOM)
    return dataset_offset(path) - room if len(private_information(path)) == room else None


def discard(spool: Spool, kept: Quarantined) -> None:
    """Remove it for good."""
    removed = spool.trash / f"{kept.id}.{uuid.uuid4().hex[:8]}"
    (spool.quarantine / kept.id).rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def _read_again(spool: Spool, settings: Settings, kept: Quarantined, path: Path) -> Instance:
    admitted = admit(settings, kept.calling_ae_title, kept.called_ae_title, kept.peer)
    if isinstance(admitted, Rejected):
        raise StillRefused(admitted.why)
    request = Request(kept.sop_class_uid, kept.sop_instance_uid, kept.sop_class_uid, kept.transfer_syntax_uid)
    refused = refusal(admitted, request)
    if refused is not None:
        raise StillRefused(refused.comment)
    try:
        offset = read_meta(path).offset
        header = read(path, offset, request)
    except (Malformed, Permanent) as error:
        raise StillRefused(str(error)) from error
    if _digest(path, offset) != kept.digest:
        raise StillRefused("its file is not what was received: the disk has changed it")
    refused = mismatch(request, header)
    if refused is not None:
        raise StillRefused(refused.comment)
    return build_instance(spool, admitted, request, header, kept.size, kept.digest, kept.received_at)


def _digest(path: Path, offset: int) -> str:
    digest = Digest()
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest)
