"""The record of a rendition: what was seen of its pixels while it was made.

It stands in the rendition's own File Meta Information, as Private Information (PS3.10 7.1), which never
travels: so it appears with the rendition, and costs no file of its own. Room is left for it before the pixels
are known.
"""

import json
from pathlib import Path
from typing import IO, Any

from dicomferry.dicom import part10
from dicomferry.errors import Permanent

ROOM = bytes(1024)
_NOTES = "notes"  # what is cut where a record is too long
_CUT = " ..."


def fill(file: IO[bytes], data_set: int, record: dict[str, Any]) -> None:
    """Put a record into the `ROOM` that stands before the data set, which begins at that offset."""
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
