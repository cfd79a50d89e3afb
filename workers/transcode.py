"""From an instance as received to one rendition of it, file to file, a frame at a time.

The rendition's bytes depend on the input and the spec alone. It is written by rename and not synced: it can
be made again.
"""

import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from dicomferry import durable, syntaxes
from dicomferry.errors import Permanent
from dicomferry.part10 import dataset_offset, frame
from dicomferry.spool import RenditionSpec
from workers import attributes, codecs
from workers.elements import EXPLICIT, EXPLICIT_BIG, IMPLICIT, Element, Encoding, elements
from workers.frames import Fragments, split
from workers.reencode import Native, Reencoder, Source

LONGEST_NATIVE = 0xFFFFFFFE  # PS3.5 7.1.1: a length of 32 bits, even
_INFLATED_LIMIT = 16 << 30
_CHUNK = 1 << 20
_META_START = 132
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x00020002, 0x00020003, 0x00020010


class Unsuitable(Permanent):
    """The instance is sound, but this transfer syntax cannot hold it; another one may."""


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one instance."""

    notes: str = ""  # what was changed or found, in words
    digest: str | None = None  # of the pixel cells that went in; None where none were looked at
    verified: str = ""  # how the rendition was compared with what went in; empty where it was not


@dataclass(frozen=True, slots=True)
class _Received:
    """A received file, open: where its data set stands and how it is encoded."""

    source: Source
    start: int
    end: int
    transfer_syntax_uid: str
    sop_class_uid: str
    sop_instance_uid: str

    @property
    def encoding(self) -> Encoding:
        if self.transfer_syntax_uid == syntaxes.IMPLICIT_LE:
            return IMPLICIT
        return EXPLICIT_BIG if self.transfer_syntax_uid == syntaxes.EXPLICIT_BE else EXPLICIT


def transcode(source: Path, target: Path, spec: RenditionSpec, *, verify: str = "never") -> Report:
    """Write the rendition `spec` of the file `source` to `target`.

    `verify` says whether it is decoded again and compared: "always", "sampled" or "never".

    Raises:
        Unsuitable: the transfer syntax asked for cannot hold this instance.
        Permanent: the instance is damaged, or nothing here can decode it.
        OSError: the disk is full, or a file is not there.
    """
    del verify  # nothing encodes yet: native renditions are what the decoder said
    wanted = syntaxes.BY_UID.get(spec.transfer_syntax_uid)
    if wanted is None or not wanted.encoded:
        raise Unsuitable(f"workers cannot make {syntaxes.label(spec.transfer_syntax_uid)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = durable.unpublished(target)
    try:
        with _open(source, target.parent) as received, temporary.open("wb", buffering=_CHUNK) as out:
            notes = _write(received, out, spec)
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Report(notes)


def _write(received: _Received, out: BinaryIO, spec: RenditionSpec) -> str:
    found = syntaxes.BY_UID.get(received.transfer_syntax_uid)
    if found is None or not found.decoded:
        raise Permanent(
            f"workers cannot decode {syntaxes.label(received.transfer_syntax_uid)}: "
            "it passes through unchanged or is parked"
        )
    pixels = None if found.native else _Pixels(received, spec)
    encoding = IMPLICIT if spec.transfer_syntax_uid == syntaxes.IMPLICIT_LE else EXPLICIT
    out.write(frame(received.sop_class_uid, received.sop_instance_uid, spec.transfer_syntax_uid))
    reencoder = Reencoder(received.source, encoding, pixels.decode if pixels else None)
    reencoder.write(out, received.start, received.end, received.encoding)
    return "; ".join(pixels.notes) if pixels else ""


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Makes the encapsulated pixel data of one file native; an icon's as well as the image's."""

    received: _Received
    spec: RenditionSpec
    notes: dict[str, None] = field(default_factory=dict)  # in order, each once

    def decode(self, pixel_data: Element, values: Mapping[int, bytes]) -> Native:
        """The native form of `pixel_data`; `values` are the attributes around it."""
        image = attributes.describe(values)
        if image.native_length > LONGEST_NATIVE:
            label = syntaxes.label(self.spec.transfer_syntax_uid)
            raise Unsuitable(
                f"{image.native_length} bytes of native pixel data are more than {label} can hold"
            )
        parts = split(self.received.source.view, pixel_data, image.frames)
        colour, samples = self._frame(parts[0], image)
        if colour != image.photometric:
            self.notes[f"{image.photometric} became {colour}"] = None
        return Native(
            vr=attributes.pixel_data_vr(
                image.bits_allocated, explicit=self.spec.transfer_syntax_uid != syntaxes.IMPLICIT_LE
            ),
            length=image.native_length,
            frames=self._frames(colour, samples, parts, image),
            changes=attributes.changes(image, colour),
        )

    def _frames(
        self, colour: str, first: bytes, parts: list[Fragments], image: codecs.Image
    ) -> Iterator[bytes]:
        yield first
        for number, fragments in enumerate(parts[1:], 2):
            found, samples = self._frame(fragments, image)
            if found != colour:
                raise Permanent(f"frame {number} is {found}, those before it are {colour}")
            yield samples
        if image.frame_length * image.frames % 2:
            yield b"\x00"

    def _frame(self, fragments: Fragments, image: codecs.Image) -> tuple[str, bytes]:
        """Colour and native bytes of one frame."""
        read = self.received.source.read
        codestream = b"".join([read(fragment.value, fragment.stop) for fragment in fragments])
        wants_rgb = self.spec.colour == "rgb"
        decoded = codecs.decode(self.received.transfer_syntax_uid, codestream, image, rgb=wants_rgb)
        self.notes.update(dict.fromkeys(decoded.notes))
        colour = attributes.native_colour(decoded.colour, self.spec.colour)
        samples = decoded.samples
        if image.samples == 3 and colour != decoded.colour:
            samples = codecs.to_rgb(samples, image.bits_stored)
        return colour, np.ascontiguousarray(samples).tobytes()


@contextmanager
def _open(path: Path, scratch: Path) -> Iterator[_Received]:
    """Open a received file; a deflated data set is inflated into a nameless file in `scratch` first."""
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
            yield _Received(Source(view, file.fileno()), offset, len(view), *uids)
            return
        with tempfile.TemporaryFile(dir=scratch) as inflated:
            _inflate(view, offset, inflated)
            with _mapped(inflated) as content:
                yield _Received(Source(content, inflated.fileno()), 0, len(content), *uids)


@contextmanager
def _mapped(file: IO[bytes]) -> Iterator[mmap.mmap]:
    if os.fstat(file.fileno()).st_size == 0:
        raise Permanent("the data set is empty")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        # Only headers are read through the map: reading ahead would fill memory with pixels.
        view.madvise(mmap.MADV_RANDOM)
        yield view


def _inflate(view: mmap.mmap, offset: int, out: IO[bytes]) -> None:
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
                if total > _INFLATED_LIMIT:
                    raise Permanent(
                        f"a deflated data set of more than {_INFLATED_LIMIT} bytes is not believed"
                    )
    except zlib.error as error:
        raise Permanent("the deflated data set is damaged") from error
    if not decompressor.eof:
        raise Permanent("the deflated data set is truncated")
    out.flush()
