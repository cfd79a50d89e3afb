"""What a file from elsewhere is, whose File Meta Information is missing or says too little.

Old archives hold data sets without a preamble, or with a File Meta Information that lacks UIDs. Their first
elements tell how they are encoded (DCMTK and GDCM go by them too), and their SOP Common Module which instance
they are (PS3.3 C.12.1). Files of our own need none of this.
"""

import mmap
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dicomferry.dicom import syntaxes
from dicomferry.dicom.elements import EXPLICIT, EXPLICIT_BIG, IMPLICIT, Bytes, Element, Encoding, elements
from dicomferry.dicom.part10 import PREFIX_LENGTH, Meta, is_bare_data_set, read_meta
from dicomferry.errors import Permanent

_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_MEDIA_SOP_CLASS, _MEDIA_SOP_INSTANCE, _TRANSFER_SYNTAX = 0x00020002, 0x00020003, 0x00020010
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_BARE = "the file has no preamble (PS3.10 7.1)"
EMPTY = "its File Meta Information leaves SOP UIDs empty: those of the data set were taken"
_TAKEN = "its File Meta Information lacks SOP UIDs: those of the data set were taken"
_SHOWN = {syntaxes.EXPLICIT_LE: EXPLICIT, syntaxes.IMPLICIT_LE: IMPLICIT, syntaxes.EXPLICIT_BE: EXPLICIT_BIG}


def is_dicom(path: Path) -> bool:
    """Whether the file at `path` begins like a DICOM file, with or without its header."""
    with path.open("rb") as file:
        head = file.read(PREFIX_LENGTH)
    return head[128:] == b"DICM" or is_bare_data_set(head)


def find_meta(path: Path) -> tuple[Meta, tuple[str, ...]]:
    """What the file at `path` is, and notes on what it does not say itself.

    A UID that only the data set can tell is empty.

    Raises:
        Permanent: it is no DICOM file, or does not tell its transfer syntax.
    """
    try:
        meta = read_meta(path)
    except Permanent:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            start = PREFIX_LENGTH if view[128:PREFIX_LENGTH] == b"DICM" else 0
            if not (start or is_bare_data_set(view[:8])):
                raise
            return _meta_of_content(view, start)
    return meta, () if meta.sop_class_uid and meta.sop_instance_uid else (EMPTY,)


def _meta_of_content(view: Bytes, start: int) -> tuple[Meta, tuple[str, ...]]:
    """The same, of a file whose group 0002, if it has one, starts at `start`."""
    values: dict[int, str] = {}
    for element in _group_2(view, start):
        values[element.tag] = _text(view, element)
        start = element.end
    sop = values.get(_MEDIA_SOP_CLASS, ""), values.get(_MEDIA_SOP_INSTANCE, "")
    notes: tuple[str, ...] = (_BARE,)
    if not all(map(_UID.fullmatch, sop)):
        sop, notes = ("", ""), (_TAKEN,)
    syntax = values.get(_TRANSFER_SYNTAX, "")
    if not syntax:
        syntax = _shown_syntax(view, start)
        label = syntaxes.label(syntax)
        notes = (f"no File Meta Information tells its transfer syntax: its data set shows {label}",)
    if not _UID.fullmatch(syntax):
        raise Permanent("the transfer syntax in the File Meta Information is no UID: it is damaged")
    return Meta(*sop, syntax, start), notes


def _group_2(view: Bytes, start: int) -> Iterator[Element]:
    if view[start : start + 2] != b"\x02\x00":
        return
    for element in elements(view, start, len(view), EXPLICIT):  # PS3.10 7.1
        yield element
        if view[element.end : element.end + 2] != b"\x02\x00":
            return


def _shown_syntax(view: Bytes, start: int) -> str:
    """The native transfer syntax in which the data set's first elements make sense."""
    for uid, encoding in _SHOWN.items():
        with suppress(Permanent):
            sop_uids(view, start, len(view), encoding)
            return uid
    raise Permanent(
        "no File Meta Information tells the transfer syntax (PS3.10 7.1), and the data set does not begin as "
        "one with SOP Class UID and SOP Instance UID does in a native one"
    )


def sop_uids(view: Bytes, start: int, end: int, encoding: Encoding) -> tuple[str, str]:
    """SOP Class UID and SOP Instance UID of the data set from `start` to `end`.

    Raises:
        Permanent: it has no such UIDs, or is damaged.
    """
    found = {}
    for element in elements(view, start, end, encoding):
        if element.tag > _SOP_INSTANCE:
            break
        found[element.tag] = _text(view, element)
    uids = found.get(_SOP_CLASS, ""), found.get(_SOP_INSTANCE, "")
    if not all(map(_UID.fullmatch, uids)):
        raise Permanent(
            "neither the File Meta Information nor the data set tells its SOP Class UID and SOP Instance UID "
            "(PS3.10 7.1)"
        )
    return uids


def _text(view: Bytes, element: Element) -> str:
    longest = 128  # bytes; a UID has 64 at most
    return view[element.value : min(element.stop, element.value + longest)].decode("latin-1").rstrip("\0 ")
