"""The record of a rendition: what its worker noted of the pixels.

It is the Private Information in the rendition's File Meta Information (PS3.10 7.1), which is never sent. So
it appears together with the rendition and needs no file of its own. The worker reserves `ROOM` for it before
it knows the pixels.
"""

import json
from pathlib import Path
from typing import IO, Any

from dicomferry.dicom import part10
from dicomferry.errors import Permanent

ROOM = bytes(1024)
_NOTES = "notes"  # the field that is cut where a record is too long
_CUT = " ..."


def fill(file: IO[bytes], data_set: int, record: dict[str, Any]) -> None:
    """Write a record into the `ROOM` before the data set; `data_set` is the data set's offset in bytes."""
    encoded = _encoded(record)
    if (over := len(encoded) - len(ROOM)) > 0:
        notes = str(record.get(_NOTES, ""))
        encoded = _encoded(record | {_NOTES: notes[: max(0, len(notes) - over - len(_CUT))] + _CUT})
    file.seek(data_set - len(ROOM))
    file.write(encoded[: len(ROOM)].ljust(len(ROOM)))


def _encoded(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode("ascii")


def read(path: Path) -> dict[str, Any] | None:
    """The record in the file at `path`; None where it has none.

    Raises:
        OSError: the file is not there.
    """
    try:
        record = json.loads(part10.private_information(path))
    except (Permanent, ValueError):
        return None
    return record if isinstance(record, dict) else None
