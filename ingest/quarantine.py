"""What ingest could not understand when it came, looked at again with today's code and routes.

Each stands in a folder of ``quarantine``: received.dcm, and reason.json as `reception` wrote it.
"""

import json
import os
import shutil
import uuid
from dataclasses import dataclass, fields
from pathlib import Path

from dicomferry.dicom.part10 import read_meta
from dicomferry.errors import Permanent
from dicomferry.settings import Settings
from dicomferry.spool.digests import Digest
from dicomferry.spool.instance import Instance
from dicomferry.spool.spool import Spool
from ingest.admission import Rejected, admit
from ingest.header import Malformed, read_header
from ingest.reception import Request, instance_of, mismatch, refusal

_BLOCK = 1 << 20


class NotTaken(Permanent):
    """It stays in the quarantine, for this reason."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One object in the quarantine; what its record does not tell is empty."""

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
    """All that is in the quarantine, oldest first."""
    folders = spool.quarantine.iterdir() if spool.quarantine.exists() else ()
    return sorted((_read(folder) for folder in folders), key=lambda kept: (kept.received_at, kept.id))


def _read(folder: Path) -> Quarantined:
    try:
        record = json.loads((folder / "reason.json").read_bytes())
    except (OSError, ValueError):
        return Quarantined(folder.name, "its record cannot be read")
    known = {field.name for field in fields(Quarantined)} - {"id"}
    return Quarantined(folder.name, **{key: value for key, value in record.items() if key in known})


def take_in(spool: Spool, settings: Settings, kept: Quarantined) -> Instance:
    """Read it again; where it is understood now, it stands on the spool, durably, and in quarantine no more.

    Raises:
        NotTaken: it is not understood, not admitted or not routed today either. Nothing was changed.
        OSError: the spool does not take it.
    """
    path = spool.quarantine / kept.id / "received.dcm"
    instance = _understand(spool, settings, kept, path)
    staging = spool.incoming / uuid.uuid4().hex
    try:
        staging.mkdir()
        _place(path, staging / "received.dcm")
        spool.commit(staging, instance)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    discard(spool, kept)
    return instance


def _place(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copyfile(source, target)


def discard(spool: Spool, kept: Quarantined) -> None:
    """Remove it for good."""
    grave = spool.trash / f"{kept.id}.{uuid.uuid4().hex[:8]}"
    (spool.quarantine / kept.id).rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


def _understand(spool: Spool, settings: Settings, kept: Quarantined, path: Path) -> Instance:
    admitted = admit(settings, kept.calling_ae_title, kept.called_ae_title, kept.peer, associations=0)
    if isinstance(admitted, Rejected):
        raise NotTaken(admitted.why)
    request = Request(kept.sop_class_uid, kept.sop_instance_uid, kept.sop_class_uid, kept.transfer_syntax_uid)
    refused = refusal(admitted, request)
    if refused is not None:
        raise NotTaken(refused.comment)
    try:
        offset = read_meta(path).offset
        header = read_header(path, offset, kept.transfer_syntax_uid)
    except (Malformed, Permanent) as finding:
        raise NotTaken(str(finding)) from finding
    if _digest(path, offset) != kept.digest:
        raise NotTaken("its file is not what was received: the disk has changed it")
    refused = mismatch(request, header)
    if refused is not None:
        raise NotTaken(refused.comment)
    return instance_of(spool, admitted, request, header, kept.size, kept.digest, kept.received_at)


def _digest(path: Path, offset: int) -> str:
    digest = Digest()
    with path.open("rb") as file:
        file.seek(offset)
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest)
