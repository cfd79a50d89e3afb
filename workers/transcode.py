"""From an instance as received to one rendition of it, file to file, a frame at a time.

The rendition's bytes depend on the input and the spec alone. It appears by rename and is not synced, since it
can be made again.
"""

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO, cast

from dicomferry.ceilings import Ceilings
from dicomferry.crashpoints import reach
from dicomferry.dicom import syntaxes
from dicomferry.dicom.elements import PIXEL_DATA
from dicomferry.dicom.part10 import file_header
from dicomferry.errors import NoPixelData, Permanent, Unsuitable
from dicomferry.spool import durable, records
from dicomferry.spool.instance import RenditionSpec
from dicomferry.spool.seats import Seats
from workers import encapsulated, native
from workers.dataset import attributes, lossy
from workers.dataset.completeness import FLOATS, truncation
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
    seats: Seats | None = None,
) -> Report:
    """Write the rendition `spec` of the file `source` to `target`.

    `verify` is "always", "sampled" or "never". An encapsulated rendition is decoded back and compared; the
    file of a native one is read back. With `recorded` the result is written into the rendition's File Meta
    Information (see `records`). Without `disk`, the rendition may have all that is free on the disk.
    Where `seats` has free ones, helpers do some of the frames; the bytes are the same.

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
        ):
            chosen = is_chosen(verify, received.meta.sop_instance_uid)
            room = records.ROOM if recorded and chosen else b""
            make = partial(Rendition, received, syntax, spec, target.parent, ceilings, chosen, claim, seats)
            report, found = _make(make({}), temporary, room)
            if found:  # values that Bits Stored denies, which stands before them in the file
                report, _ = _make(make(found), temporary, room)
        reach("transcoding.written")
        temporary.rename(target)
        reach("transcoding.renamed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return report


def _make(rendition: Rendition, temporary: Path, room: bytes) -> tuple[Report, dict[int, int]]:
    """Write and check one attempt; it counts if it found no High Bit to correct, which is returned too."""
    with rendition.claim.attempt(), rendition.cleanup, temporary.open("w+b", buffering=_BUFFER) as out:
        begin = _write(rendition, out, room)
        report = _report(rendition, out.tell())
        if rendition.proof is not None and not rendition.found_high_bits:
            out.flush()
            check_file(out, rendition.proof)
            if room:
                records.fill(out, begin, rendition.proof.record() | {"notes": report.notes})
    return report, rendition.found_high_bits


def _report(rendition: Rendition, size: int) -> Report:
    proof = rendition.proof
    notes = (*rendition.received.notes, *rendition.notes)
    return Report("; ".join(notes), proof.digest if proof else None, proof.words if proof else "", size)


def _write(rendition: Rendition, out: BinaryIO, room: bytes) -> int:
    """Write the whole file, with `room` for its record, and return the offset of its data set."""
    received, uid = rendition.received, rendition.target_syntax.uid
    instance = received.meta.sop_instance_uid
    if rendition.loses:
        instance = lossy.derived_uid(instance, uid, rendition.quality)
    begin = out.write(file_header(received.meta.sop_class_uid, instance, uid, room))
    replace = partial(_replace, rendition)
    reencoder = Reencoder(
        received.source,
        encoding_of(uid),
        replace,
        icons=not rendition.same,
        ceilings=rendition.ceilings,
        note=rendition.note,
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
    if context.nested:
        # An icon may be native in any syntax (PS3.5 A.4).
        converted = pixel_data is not None and pixel_data.undefined and not rendition.same
        return native.icon(rendition, context) if converted else None
    # Without a value, or with an empty offset table alone.
    if pixel_data is None or pixel_data.length <= (8 if pixel_data.undefined else 0):
        _check_without_pixel_data(rendition, context)
        emptied = pixel_data is not None and pixel_data.undefined and target.native
        return Replacement(b"OW", 0, ()) if emptied else None
    if pixel_data.undefined == source.native:
        form, kind = ("", "native") if pixel_data.undefined else ("not ", "compressed")
        raise Permanent(f"pixel data is {form}in fragments though the syntax is a {kind} one (PS3.5 A.4)")
    if rendition.same:
        stays = source.native or pixel_data.end > pixel_data.stop  # with its delimiter
        return None if stays else encapsulated.copied(rendition, pixel_data)
    if target.native:
        return native.replacement(rendition, pixel_data, context)
    if rendition.recompresses:
        return encapsulated.recompressed(rendition, context)
    return encapsulated.encoded(rendition, context)


def _check_without_pixel_data(rendition: Rendition, context: PixelContext) -> None:
    """Refuse a truncated data set, and a target that only images can have.

    Raises:
        Permanent: the data set is truncated.
        Unsuitable: the target needs pixel data; `NoPixelData`: and there are none in any form.
    """
    target = rendition.target_syntax
    # An attribute of pixels that is empty or 0 describes none.
    of_pixels = attributes.OF_PIXELS
    tags = {tag for tag in context.elements if tag not in of_pixels or context.values[tag].strip(b"\x00 ")}
    if reason := truncation(tags, rendition.received.meta.sop_class_uid):
        raise Permanent(reason)
    if target.native or rendition.same:
        return
    if tags & FLOATS:
        raise Unsuitable(f"{target.label} cannot hold float pixel data (PS3.5 A.4)")
    raise NoPixelData(f"{target.label} holds images, and this has no pixel data (PS3.5 A.4)")
