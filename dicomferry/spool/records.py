"""Records in the files that they are about: what is known of an object, what a worker noted of its pixels.

A record is the Private Information in the File Meta Information (PS3.10 7.1), which is never sent. So it
appears together with its file and needs none of its own. Whoever begins the file reserves room for it; it is
written when it is known.
"""

import json
from pathlib import Path
from typing import IO, Any

from dicomferry.dicom import part10
from dicomferry.errors import Permanent

ROOM = bytes(1024)  # in a rendition
RECEIVED_ROOM = bytes(2048)  # in an object as received
_NOTES = "notes"  # the field that is cut where a rendition's record is too long
_CUT = " ..."


def fill(file: IO[bytes], data_set: int, record: dict[str, Any]) -> None:
    """Write a rendition's record into the `ROOM` before the data set, which begins at byte `data_set`."""
    encoded = _encoded(record)
    if (over := len(encoded) - len(ROOM)) > 0:
        notes = str(record.get(_NOTES, ""))
        encoded = _encoded(record | {_NOTES: notes[: max(0, len(notes) - over - len(_CUT))] + _CUT})
    file.seek(data_set - len(ROOM))
    file.write(encoded[: len(ROOM)].ljust(len(ROOM)))


def fitted(record: dict[str, Any]) -> bytes | None:
    """What to write into `RECEIVED_ROOM`; None where the record is too long for it."""
    encoded = _encoded(record)
    return encoded.ljust(len(RECEIVED_ROOM)) if len(encoded) <= len(RECEIVED_ROOM) else None


def _encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode("ascii")


def read(path: Path | str) -> dict[str, Any] | None:
    """The record in the file at `path`; None where it has none.

    Raises:
        OSError: the file is not there.
    """
    try:
        record = json.loads(part10.private_information(path))
    except (Permanent, ValueError):
        return None
    return record if isinstance(record, dict) else None
