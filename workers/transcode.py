"""From an instance as received to one rendition of it, file to file, a frame at a time.

The rendition's bytes depend on the input and the spec alone. It appears by rename and is not synced, since it
can be made again.
"""

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

from dicomferry.ceilings import Ceilings
from dicomferry.crashpoints import reach
from dicomferry.dicom import syntaxes
from dicomferry.dicom.part10 import file_header
from dicomferry.errors import NoPixelData, Permanent, Unsuitable
from dicomferry.spool import durable, records
from dicomferry.spool.instance import RenditionSpec
from workers import encapsulated, native
from workers.dataset import lossy
from workers.dataset.completeness import FLOATS, truncation
from workers.dataset.elements import PIXEL_DATA
from workers.dataset.received import deflate, encoding_of, open_received
from workers.dataset.reencode import Reencoder
from workers.dataset.replacement import PixelContext, Replacement
from workers.rendition import Rendition
from workers.room import Room
from workers.verify import check_file, is_chosen

__all__ = ["Report", "Unsuitable", "transcode"]

_BUFFER = 1 << 16  # bytes in which small pieces are gathered; frames are written directly


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one instance."""

    notes: str = ""  # what was changed or found, in words
    digest: str | None = None  # of the pixel cells received; None if none were compared
    verified: str = ""  # how the rendition was compared with them; empty if it was not
    size: int = 0  # bytes of the file


def transcode(
    source: Path,
    target: Path,
    spec: RenditionSpec,
    *,
    verify: str = "never",
    recorded: bool = False,
    ceilings: Ceilings = Ceilings(),
    disk: Room | None = None,
) -> Report:
    """Write the rendition `spec` of the file `source` to `target`.

    `verify` is "always", "sampled" or "never". An encapsulated rendition is decoded back and compared; the
    file of a native one is read back. With `recorded` the result is written into the rendition's File Meta
    Information (see `records`). Without `disk`, the rendition may have all that is free on the disk.

    Raises:
        Unsuitable: the transfer syntax cannot hold this instance.
        NoRoom: the disk has no room for it.
        Permanent: the instance is damaged, or no decoder knows its syntax; `verify.VerificationFailed`: the
            rendition differs from the source.
        OSError: the disk is full, or a file is missing.
    """
    syntax = syntaxes.BY_UID.get(spec.transfer_syntax_uid)
    if syntax is None or not syntax.encoded:
        raise Unsuitable(f"workers cannot make {syntaxes.label(spec.transfer_syntax_uid)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = durable.temporary_path(target)
    try:
        with (
            (disk or Room(target.parent)).claim(target) as claim,
            open_received(source, target.parent, ceilings, claim) as received,
            ExitStack() as cleanup,
        ):
            chosen = is_chosen(verify, received.meta.sop_instance_uid)
            room = records.ROOM if recorded and chosen else b""
            rendition = Rendition(received, syntax, spec, target.parent, cleanup, ceilings, chosen, claim)
            with temporary.open("w+b", buffering=_BUFFER) as out:
                begin = _write(rendition, out, room)
                report = _report(rendition, out.tell())
                if rendition.proof is not None:
                    out.flush()
                    check_file(out, rendition.proof)
                    if room:
                        records.fill(out, begin, rendition.proof.record() | {"notes": report.notes})
        reach("transcoding.written")
        temporary.rename(target)
        reach("transcoding.renamed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return report


def _report(rendition: Rendition, size: int) -> Report:
    proof = rendition.proof
    notes = (*rendition.received.notes, *rendition.notes)
    return Report("; ".join(notes), proof.digest if proof else None, proof.words if proof else "", size)


def _write(rendition: Rendition, out: BinaryIO, room: bytes) -> int:
    """Write the whole file, with `room` for its record, and return the offset of its data set."""
    received, uid = rendition.received, rendition.target_syntax.uid
    icons = not (rendition.source_syntax.native or rendition.same)
    instance = received.meta.sop_instance_uid
    if rendition.loses:
        instance = lossy.derived_uid(instance, uid, rendition.quality)
    begin = out.write(file_header(received.meta.sop_class_uid, instance, uid, room))
    replace = partial(_replace, rendition)
    reencoder = Reencoder(
        received.source, encoding_of(uid), replace, icons=icons, ceilings=rendition.ceilings
    )
    if rendition.source_syntax.native or rendition.same:  # its pixels may be copied
        rendition.claim.allocate(received.end - received.start, None)
    if uid != syntaxes.DEFLATED_LE:
        rendition.out = out
        reencoder.write(out, received.start, received.end, received.encoding)
        return begin
    with tempfile.TemporaryFile(dir=rendition.folder) as inflated:
        reencoder.write(cast(BinaryIO, inflated), received.start, received.end, received.encoding)
        deflate(cast(IO[bytes], inflated), out)
    return begin


def _replace(rendition: Rendition, context: PixelContext) -> Replacement | None:
    """What replaces the pixel data of a data set; None where it stays as it is."""
    pixel_data = context.elements.get(PIXEL_DATA)
    source, target = rendition.source_syntax, rendition.target_syntax
    if pixel_data is None:
        if not context.nested:
            _check_without_pixel_data(rendition, context)
        return None
    if pixel_data.undefined == source.native:
        if context.nested and not pixel_data.undefined:
            return None  # an icon may be native in any syntax
        form, kind = ("", "native") if pixel_data.undefined else ("not ", "compressed")
        raise Permanent(f"pixel data is {form}in fragments though the syntax is a {kind} one (PS3.5 A.4)")
    if rendition.same:
        delimited = pixel_data.end > pixel_data.stop
        stays = source.native or context.nested or delimited
        return None if stays else encapsulated.copied(rendition, pixel_data)
    if context.nested or target.native:
        return native.replacement(rendition, pixel_data, context)
    if rendition.recompresses:
        return encapsulated.recompressed(rendition, pixel_data, context)
    return encapsulated.encoded(rendition, pixel_data, context)


def _check_without_pixel_data(rendition: Rendition, context: PixelContext) -> None:
    """Refuse a truncated data set, and a target that only images can have.

    Raises:
        Permanent: the data set is truncated.
        Unsuitable: the target needs pixel data; `NoPixelData`: and there are none in any form.
    """
    tags, target = context.elements.keys(), rendition.target_syntax
    if reason := truncation(tags, rendition.received.meta.sop_class_uid):
        raise Permanent(reason)
    if target.native or rendition.same:
        return
    if tags & FLOATS:
        raise Unsuitable(f"{target.label} cannot hold float pixel data (PS3.5 A.4)")
    raise NoPixelData(f"{target.label} holds images, and this has no pixel data (PS3.5 A.4)")
