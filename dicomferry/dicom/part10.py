"""What precedes the data set in a DICOM file (PS3.10 7.1): preamble, prefix, File Meta Information."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from dicomferry.dicom.encoding import LONG_VRS, Read, encoding_of, stray_length
from dicomferry.dicom.identifiers import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    PRIVATE_INFORMATION_CREATOR,
)
from dicomferry.dicom.syntaxes import DEFLATED
from dicomferry.errors import Permanent

PREFIX_LENGTH = 132
_TRANSFER_SYNTAX, _PRIVATE = 0x0010, 0x0102
_LONGEST_READ = 128  # bytes; a UID has 64 at most
_HEAD_LENGTH = 4096  # bytes of the first read; as a rule this is all that precedes the data set
# Tags that may begin a data set: group lengths, and the first of the SOP Common Module (PS3.3 C.12.1).
_FIRST_TAGS = frozenset(((2, 0), (2, 1), (2, 2), *((8, number) for number in range(0x19))))
_FIRST_VRS = frozenset((b"UL", b"OB", b"UI", b"CS", b"DA", b"TM", b"DT", b"SQ", b"LO", b"SH"))
_HEADER = struct.Struct("<2xH2sH")


def file_header(
    sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, private: bytes = b""
) -> bytes:
    """The bytes before the data set of a file: preamble, ``DICM`` and File Meta Information.

    They depend on the arguments alone, so that a rendition's bytes depend only on its input. `private`, of
    even length, is the Private Information (0002,0102), which comes last.
    """
    # Built by hand: pydicom takes 0.5 ms for it, which ingest would spend on every object.
    elements = b"".join(
        (
            struct.pack("<HH2s2xI", 2, 0x0001, b"OB", 2) + b"\x00\x01",  # File Meta Information Version
            _element(0x0002, b"UI", sop_class_uid),
            _element(0x0003, b"UI", sop_instance_uid),
            _element(0x0010, b"UI", transfer_syntax_uid),
            _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _element(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _element(0x0100, b"UI", PRIVATE_INFORMATION_CREATOR) if private else b"",
            struct.pack("<HH2s2xI", 2, _PRIVATE, b"OB", len(private)) + private if private else b"",
        )
    )
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements


def _element(element: int, vr: bytes, text: str) -> bytes:
    """A File Meta element of a VR with a 16 bit length, padded to an even one (PS3.5 6.2)."""
    value = text.encode("ascii")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value


@dataclass(frozen=True, slots=True)
class Meta:
    """What the File Meta Information says of the data set."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    offset: int  # of the data set's first byte
    stray: int = 0  # bytes of elements at its head that no data set has, see `encoding.stray_length`

    @property
    def begin(self) -> int:
        """Offset of the first element that belongs into the data set: what leaves begins there."""
        return self.offset + self.stray


def read_meta(path: Path) -> Meta:
    """Read the File Meta Information of the file at `path`, and nothing after it.

    Raises:
        Permanent: `path` is no DICOM file, or it lacks one of the three UIDs.
    """
    with path.open("rb", buffering=0) as file:
        return meta_of(file.fileno(), path.name)


def meta_of(descriptor: int, name: str) -> Meta:
    """As `read_meta`, from an open file that errors call `name`; its file offset does not change."""
    read = _make_reader(descriptor)
    values, offset, size = _group_2(descriptor, read, name)
    try:
        sop_class, sop_instance, syntax = (
            values[number].decode("ascii").rstrip("\0 ") for number in (0x0002, 0x0003, _TRANSFER_SYNTAX)
        )
    except (KeyError, UnicodeDecodeError) as error:
        raise Permanent(f"{name} lacks a UID in its File Meta Information (PS3.10 7.1)") from error
    stray = 0 if syntax in DEFLATED else stray_length(read, offset, size, encoding_of(syntax))
    return Meta(sop_class, sop_instance, syntax, offset, stray)


def dataset_offset(path: Path) -> int:
    """Offset of the data set in the file at `path`, in bytes.

    Raises:
        Permanent: `path` is no DICOM file.
    """
    with path.open("rb", buffering=0) as file:
        return _group_2(file.fileno(), _make_reader(file.fileno()), path.name)[1]


def private_information(path: Path | str) -> bytes:
    """The Private Information (0002,0102) of the file at `path`; empty where it has none.

    Raises:
        Permanent: `path` is no DICOM file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        read, name = _make_reader(descriptor), str(path).rpartition("/")[2]
        return _group_2(descriptor, read, name, _HEAD_LENGTH)[0].get(_PRIVATE, b"")
    finally:
        os.close(descriptor)


def _group_2(
    descriptor: int, read: Read, name: str, longest: int = _LONGEST_READ
) -> tuple[dict[int, bytes], int, int]:
    """The first bytes of each element's value, by element number; offset of the data set; size of the file.

    (0002,0000) File Meta Information Group Length tells the end, as in every file of ours. It is missing or
    wrong in many other files: where no element ends there, or the transfer syntax is still to come, the data
    set starts at the first element of another group. Of an element that comes twice the first one counts:
    what follows may be left over at the head of the data set.
    """
    values: dict[int, bytes] = {}
    at, stated = PREFIX_LENGTH, -1
    if read(0, PREFIX_LENGTH)[128:] != b"DICM":
        raise Permanent(f"{name} is no DICOM file: no DICM prefix (PS3.10 7.1)")
    while (header := read(at, 12))[:2] == b"\x02\x00" and len(header) >= 8:
        if at == stated and _TRANSFER_SYNTAX in values:
            break
        number, vr, length = _HEADER.unpack_from(header)
        at += 8
        if vr in LONG_VRS:
            length = int.from_bytes(header[8:], "little")
            at += 4
        values.setdefault(number, read(at, min(length, longest)))
        at += length
        if number == 0 and stated < 0:
            stated = at + int.from_bytes(values[0], "little")
    size = os.fstat(descriptor).st_size
    if at > size:
        raise Permanent(f"{name} ends inside its File Meta Information: it is cut or damaged")
    return values, at, size


def _make_reader(descriptor: int) -> Read:
    """A function of offset and size that reads the file; nearly all calls share one system call."""
    head = os.pread(descriptor, _HEAD_LENGTH, 0)

    def read(at: int, size: int) -> bytes:
        return head[at : at + size] if at + size <= len(head) else os.pread(descriptor, size, at)

    return read


def is_bare_data_set(head: bytes) -> bool:
    """Whether a file that begins with `head` is a data set without preamble and prefix."""
    order = ">" if head[:1] == b"\0" else "<"
    if len(head) < 8 or struct.unpack_from(order + "HH", head) not in _FIRST_TAGS:
        return False
    return head[4:6] in _FIRST_VRS or 0 < int.from_bytes(head[4:8], "little") <= _LONGEST_READ
