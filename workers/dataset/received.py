"""A received file, opened to be read piece by piece; never the whole of it is in memory."""

import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dicomferry.ceilings import Ceilings
from dicomferry.dicom import syntaxes
from dicomferry.dicom.part10 import Meta, read_meta
from dicomferry.errors import Permanent
from workers.dataset.elements import EXPLICIT, EXPLICIT_BIG, IMPLICIT, LONG_VRS, SHORT_VRS, Encoding
from workers.dataset.source import Source
from workers.room import Claim, NoRoom

_CHUNK = 1 << 20
_MAX_FIRST_ELEMENT = 256  # bytes of a first element: a group length, a character set, a UID


@dataclass(frozen=True, slots=True)
class Received:
    """An open file: where its data set is and how it is encoded."""

    source: Source
    start: int
    end: int
    meta: Meta
    encoding: Encoding  # the real one of its data elements, whatever the transfer syntax says

    @property
    def notes(self) -> tuple[str, ...]:
        """What the file states wrongly about itself."""
        if self.encoding == encoding_of(self.meta.transfer_syntax_uid):
            return ()
        form = "Explicit" if self.encoding.explicit else "Implicit"
        return (f"the data set is in {form} VR, its transfer syntax is not",)


def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """How data elements are encoded in that transfer syntax (PS3.5 annex A)."""
    if transfer_syntax_uid == syntaxes.IMPLICIT_LE:
        return IMPLICIT
    return EXPLICIT_BIG if transfer_syntax_uid == syntaxes.EXPLICIT_BE else EXPLICIT


@contextmanager
def open_received(path: Path, scratch: Path, ceilings: Ceilings, claim: Claim) -> Iterator[Received]:
    """Open a received file; a deflated data set is inflated into a nameless file in `scratch` first.

    `claim` is told of its bytes before they are written.

    Raises:
        NoRoom: the disk has no room for a deflated data set.
        Permanent: it is no DICOM file, or a deflated data set is damaged.
    """
    meta = read_meta(path)
    with path.open("rb") as file, _mapped(file) as view:
        if meta.transfer_syntax_uid != syntaxes.DEFLATED_LE:
            yield _received(file, view, meta.offset, meta)
            return
        with tempfile.TemporaryFile(dir=scratch) as inflated:
            _inflate(view, meta.offset, inflated, ceilings, claim)
            with _mapped(inflated) as content:
                yield _received(inflated, content, 0, meta)


def _received(file: IO[bytes], view: mmap.mmap, start: int, meta: Meta) -> Received:
    if len(view) - start < 8:
        raise Permanent("the file ends before its data set begins: it is truncated")
    encoding = _detect_encoding(view[start + 4 : start + 8], encoding_of(meta.transfer_syntax_uid))
    return Received(Source(view, file.fileno()), start, len(view), meta, encoding)


def _detect_encoding(header: bytes, stated: Encoding) -> Encoding:
    """The encoding that `header` shows, the bytes after the first tag; some archives label files wrongly.

    In Implicit VR they are a length, and no first element is so long that it looks like a VR (16,705 bytes).
    In Explicit VR they begin with a VR, and read as a length are too long for a first element.
    """
    if stated.big or header[:2] in SHORT_VRS | LONG_VRS:
        return stated if stated.big else EXPLICIT
    return IMPLICIT if int.from_bytes(header, "little") <= _MAX_FIRST_ELEMENT else stated


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
