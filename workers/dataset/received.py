"""A received file, opened to be read piece by piece; never the whole of it is in memory."""

import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from dicomferry.ceilings import Ceilings
from dicomferry.dicom import encoding, syntaxes
from dicomferry.dicom.elements import EXPLICIT, EXPLICIT_BIG, IMPLICIT, PIXEL_DATA, Encoding, headers
from dicomferry.dicom.part10 import Meta
from dicomferry.dicom.real_syntax import OF_SIZE, PixelData, look_at, real_syntax
from dicomferry.errors import Permanent
from workers.dataset.source import Source
from workers.dataset.unlabelled import EMPTY, find_meta, sop_uids
from workers.room import Claim, NoRoom

_CHUNK = 1 << 20
_LONGEST_VALUE = 128  # bytes that are read of an attribute
_ENCODINGS = {
    syntaxes.IMPLICIT_LE: IMPLICIT,
    syntaxes.EXPLICIT_LE: EXPLICIT,
    syntaxes.EXPLICIT_BE: EXPLICIT_BIG,
}


@dataclass(frozen=True, slots=True)
class Received:
    """An open file: where its data set is and how it is encoded."""

    source: Source
    start: int
    end: int
    meta: Meta  # its transfer syntax is the real one
    encoding: Encoding  # the real one of its data elements, whatever the transfer syntax says
    notes: tuple[str, ...] = ()  # what the file states wrongly about itself, or not at all


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """How data elements are encoded in that transfer syntax (PS3.5 annex A)."""
    return _ENCODINGS[encoding.encoding_of(transfer_syntax_uid)]


@contextmanager
def open_received(path: Path, scratch: Path, ceilings: Ceilings, claim: Claim) -> Iterator[Received]:
    """Open a received file; a deflated data set is inflated into a nameless file in `scratch` first.

    `claim` is told of its bytes before they are written.

    Raises:
        NoRoom: the disk has no room for a deflated data set.
        Permanent: it is no DICOM file, or a deflated data set is damaged.
    """
    meta, unsaid = find_meta(path)
    with path.open("rb") as file, _mapped(file) as view:
        if meta.transfer_syntax_uid != syntaxes.DEFLATED_LE:
            yield _received(file, view, meta.offset, meta, unsaid)
            return
        with tempfile.TemporaryFile(dir=scratch) as inflated:
            _inflate(view, meta.offset, inflated, ceilings, claim)
            with _mapped(inflated) as content:
                yield _received(inflated, content, 0, meta, unsaid)


def is_as_stated(path: Path, meta: Meta) -> bool:
    """Whether the data set is in the transfer syntax of `meta`, as far as is seen without inflating."""
    if meta.transfer_syntax_uid == syntaxes.DEFLATED_LE:
        return True
    with suppress(Permanent), path.open("rb") as file, _mapped(file) as view:
        found = _received(file, view, meta.offset, meta, ())
        stated = meta.transfer_syntax_uid
        return found.meta.transfer_syntax_uid == stated and found.encoding == encoding_of(stated)
    return True


def _received(file: IO[bytes], view: mmap.mmap, start: int, meta: Meta, unsaid: tuple[str, ...]) -> Received:
    stated = encoding.encoding_of(meta.transfer_syntax_uid)
    stray = encoding.stray_length(lambda at, size: view[at : at + size], start, len(view), stated)
    start += stray
    if len(view) - start < 8:
        raise Permanent("the file ends before its data set begins: it is truncated")
    real = encoding.shown_encoding(view[start : start + 8]) or stated  # some archives label files wrongly
    meta, unsaid = _named(meta, view, start, _ENCODINGS[real], unsaid)
    notes = list(unsaid)
    if stray:
        notes.append("elements of group 0000 or 0002 at the head of the data set were left out")
    if real != stated:
        form = "Implicit" if real == syntaxes.IMPLICIT_LE else "Explicit"
        order = " Big Endian" if real == syntaxes.EXPLICIT_BE else ""
        notes.append(f"the data set is in {form} VR{order}, its transfer syntax is not")
    found = real_syntax(meta.transfer_syntax_uid, real, _pixel_data(view, start, real))
    if found.note:
        notes.append(found.note)
    meta = replace(meta, transfer_syntax_uid=found.uid)
    return Received(Source(view, file.fileno()), start, len(view), meta, _ENCODINGS[real], tuple(notes))


def _pixel_data(view: mmap.mmap, start: int, real: str) -> PixelData | None:
    """The form of the data set's Pixel Data; None if it has none, or is damaged before it."""
    values: dict[int, bytes] = {}
    with suppress(Permanent):  # who reads the elements will say what is wrong with them
        for tag, value, length in headers(view, start, len(view), _ENCODINGS[real]):
            if tag == PIXEL_DATA:
                return look_at(lambda at, size: view[at : at + size], value, length, values, real)
            if tag in OF_SIZE and length is not None:
                values.setdefault(tag, view[value : value + min(length, _LONGEST_VALUE)])
    return None


def _named(
    meta: Meta, view: mmap.mmap, start: int, real: Encoding, unsaid: tuple[str, ...]
) -> tuple[Meta, tuple[str, ...]]:
    """`meta` with SOP UIDs, of the data set where it lacks them, and the notes `unsaid` on that."""
    if meta.sop_class_uid and meta.sop_instance_uid:
        return meta, unsaid
    try:
        sop_class, sop_instance = sop_uids(view, start, len(view), real)
    except Permanent:
        if unsaid != (EMPTY,):
            raise
        return meta, ()  # an object that names itself nowhere stays as it is
    return replace(meta, sop_class_uid=sop_class, sop_instance_uid=sop_instance), unsaid


@contextmanager
def _mapped(file: IO[bytes]) -> Iterator[mmap.mmap]:
    if os.fstat(file.fileno()).st_size == 0:
        raise Permanent("the data set is empty")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        # Only headers are read through the map; read-ahead would fill memory with pixels.
        view.madvise(mmap.MADV_RANDOM)
        yield view


def _inflate(view: mmap.mmap, offset: int, out: IO[bytes], ceilings: Ceilings, claim: Claim) -> None:
    """Raw deflate (PS3.5 A.5)."""
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    refused: NoRoom | None = None
    try:
        for at in range(offset, len(view), _CHUNK):
            pending = view[at : at + _CHUNK]
            while pending and not decompressor.eof:
                content = decompressor.decompress(pending, _CHUNK)
                pending = decompressor.unconsumed_tail
                total += len(content)
                if total > ceilings.largest_inflated_mb << 20:
                    raise Permanent(
                        ceilings.refusal("the deflated data set is too large", "largest_inflated_mb")
                    )
                ceilings.check_ratio("a deflated data set", total, len(view) - offset)
                if refused is None:
                    try:
                        claim.grow(len(content))
                        out.write(content)
                    except NoRoom as error:
                        refused = error  # the rest is counted: whether it ever fits depends on the whole
    except zlib.error as error:
        raise Permanent("the deflated data set is damaged") from error
    if not decompressor.eof:
        raise Permanent("the deflated data set is truncated")
    if refused is not None:
        claim.demand(total)
        raise refused
    out.flush()


def deflate(source: IO[bytes], out: IO[bytes]) -> None:
    """Write a data set deflated, padded to even length (PS3.5 A.5)."""
    source.seek(0)
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    total = 0
    while chunk := source.read(_CHUNK):
        total += out.write(compressor.compress(chunk))
    total += out.write(compressor.flush())
    out.write(b"\x00" * (total % 2))
