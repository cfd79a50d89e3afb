"""A received file, opened for reading a piece at a time: never the whole of it in memory."""

import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dicomferry import syntaxes
from dicomferry.ceilings import Ceilings
from dicomferry.errors import Permanent
from dicomferry.part10 import dataset_offset
from workers.elements import EXPLICIT, EXPLICIT_BIG, IMPLICIT, Encoding, elements
from workers.reencode import Source

_CHUNK = 1 << 20
_META_START = 132
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x00020002, 0x00020003, 0x00020010


@dataclass(frozen=True, slots=True)
class Received:
    """Where the data set of an open file stands and how it is encoded."""

    source: Source
    start: int
    end: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str

    @property
    def encoding(self) -> Encoding:
        """How its data elements are encoded."""
        return encoding_of(self.transfer_syntax_uid)


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """How data elements are encoded in that transfer syntax (PS3.5 annex A)."""
    if transfer_syntax_uid == syntaxes.IMPLICIT_LE:
        return IMPLICIT
    return EXPLICIT_BIG if transfer_syntax_uid == syntaxes.EXPLICIT_BE else EXPLICIT


@contextmanager
def opened(path: Path, scratch: Path, ceilings: Ceilings) -> Iterator[Received]:
    """Open a received file; a deflated data set is inflated into a nameless file in `scratch` first.

    Raises:
        Permanent: it is no DICOM file, or a deflated data set is damaged.
    """
    offset = dataset_offset(path)
    with path.open("rb") as file, _mapped(file) as view:
        meta = {
            element.tag: bytes(view[element.value : element.stop]).decode("ascii", "replace").rstrip(" \x00")
            for element in elements(view, _META_START, min(offset, len(view)), EXPLICIT)
            if element.tag in (_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX)
        }
        if len(meta) < 3 or not all(meta.values()):
            raise Permanent("the File Meta Information lacks a UID (PS3.10 7.1)")
        uids = meta[_TRANSFER_SYNTAX], meta[_SOP_CLASS], meta[_SOP_INSTANCE]
        if uids[0] != syntaxes.DEFLATED_LE:
            yield Received(Source(view, file.fileno()), offset, len(view), *uids)
            return
        with tempfile.TemporaryFile(dir=scratch) as inflated:
            _inflate(view, offset, inflated, ceilings)
            with _mapped(inflated) as content:
                yield Received(Source(content, inflated.fileno()), 0, len(content), *uids)


@contextmanager
def _mapped(file: IO[bytes]) -> Iterator[mmap.mmap]:
    if os.fstat(file.fileno()).st_size == 0:
        raise Permanent("the data set is empty")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        # Only headers are read through the map: reading ahead would fill memory with pixels.
        view.madvise(mmap.MADV_RANDOM)
        yield view


def _inflate(view: mmap.mmap, offset: int, out: IO[bytes], ceilings: Ceilings) -> None:
    """Raw deflate (PS3.5 A.5)."""
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    total = 0
    try:
        for at in range(offset, len(view), _CHUNK):
            pending = view[at : at + _CHUNK]
            while pending and not decompressor.eof:
                content = decompressor.decompress(pending, _CHUNK)
                pending = decompressor.unconsumed_tail
                total += out.write(content)
                if total > ceilings.largest_inflated_mb << 20:
                    raise Permanent(
                        ceilings.told("the deflated data set is too large", "largest_inflated_mb")
                    )
    except zlib.error as error:
        raise Permanent("the deflated data set is damaged") from error
    if not decompressor.eof:
        raise Permanent("the deflated data set is truncated")
    out.flush()


def deflate(source: IO[bytes], out: IO[bytes]) -> None:
    """Copy a data set deflated, padded to even length (PS3.5 A.5)."""
    source.seek(0)
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    total = 0
    while chunk := source.read(_CHUNK):
        total += out.write(compressor.compress(chunk))
    total += out.write(compressor.flush())
    out.write(b"\x00" * (total % 2))
