"""The frame of a DICOM file (PS3.10 section 7.1): preamble, prefix, File Meta Information."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dicomferry.errors import Permanent

PREFIX_LENGTH = 132
_LONG_VRS = frozenset(
    (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
)


def frame(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """The bytes that come before the data set in a file: preamble, ``DICM`` and File Meta Information.

    They depend on the arguments alone, so that a rendition's bytes depend only on its input.
    """
    # Written out, since pydicom takes 0.5 ms for it, which ingest would spend on every object.
    elements = b"".join(
        (
            struct.pack("<HH2s2xI", 2, 0x0001, b"OB", 2) + b"\x00\x01",  # File Meta Information Version
            _element(0x0002, b"UI", sop_class_uid),
            _element(0x0003, b"UI", sop_instance_uid),
            _element(0x0010, b"UI", transfer_syntax_uid),
            _implementation(),
        )
    )
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements


@cache
def _implementation() -> bytes:
    # pynetdicom takes long to load, and who only reads needs none of it.
    from pynetdicom import (  # noqa: PLC0415
        PYNETDICOM_IMPLEMENTATION_UID,
        PYNETDICOM_IMPLEMENTATION_VERSION,
    )

    return _element(0x0012, b"UI", PYNETDICOM_IMPLEMENTATION_UID) + _element(
        0x0013, b"SH", PYNETDICOM_IMPLEMENTATION_VERSION
    )


def _element(element: int, vr: bytes, text: str) -> bytes:
    """A File Meta element of a VR with a 16 bit length, padded to an even one (PS3.5 6.2)."""
    value = text.encode("ascii")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


def dataset_offset(path: Path) -> int:
    """Where the data set starts in the file at `path`, from (0002,0000) File Meta Information Group Length.

    Raises:
        Permanent: `path` is no DICOM file.
    """
    with path.open("rb") as file:
        head = file.read(PREFIX_LENGTH + 12)
    if len(head) < PREFIX_LENGTH + 12 or head[128:132] != b"DICM" or head[132:136] != b"\x02\x00\x00\x00":
        raise Permanent(f"{path.name} is no DICOM file: no DICM prefix and group length (PS3.10 7.1)")
    return PREFIX_LENGTH + 12 + int(struct.unpack_from("<I", head, 140)[0])


@dataclass(frozen=True, slots=True)
class Meta:
    """What a file says of its data set, without a look into it."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int  # of the data set's first byte


def read_meta(path: Path) -> Meta:
    """Read the File Meta Information of the file at `path`; what follows it is not touched.

    Raises:
        Permanent: `path` is no DICOM file, or it lacks one of the three UIDs.
    """
    offset = dataset_offset(path)
    with path.open("rb") as file:
        file.seek(PREFIX_LENGTH)
        elements = dict(_elements(file.read(offset - PREFIX_LENGTH)))
    try:
        sop_class, sop_instance, syntax = (
            elements[element].decode("ascii").rstrip("\0 ") for element in (0x0002, 0x0003, 0x0010)
        )
    except (KeyError, UnicodeDecodeError) as error:
        raise Permanent(f"{path.name} lacks a UID in its File Meta Information (PS3.10 7.1)") from error
    return Meta(sop_class, sop_instance, syntax, offset)


def _elements(group: bytes) -> Iterator[tuple[int, bytes]]:
    """Element numbers and values of a group in Explicit VR Little Endian (PS3.5 7.1.2)."""
    at = 0
    while at + 8 <= len(group):
        element, vr, length = struct.unpack_from("<2xH2sH", group, at)
        at += 8
        if vr in _LONG_VRS:
            length = int.from_bytes(group[at : at + 4], "little")
            at += 4
        yield element, group[at : at + length]
        at += length
