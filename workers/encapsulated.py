"""Pixel data of an encapsulated rendition: encoded, recompressed, or the same fragments."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from dicomferry.dicom import syntaxes
from dicomferry.dicom.elements import Element
from dicomferry.dicom.encoding import UNDEFINED
from dicomferry.errors import Permanent, Unsuitable
from workers import limits
from workers.codecs import decoders, encoders
from workers.codecs.image import RGB, YBR, YBR_422, Decoded, Image
from workers.dataset import attributes, functional_groups, lossy, pixels
from workers.dataset.fragment_writer import DELIMITER, Fragments
from workers.dataset.overlays import CellSeparator
from workers.dataset.replacement import MISFIT, PixelContext, Replacement, Replacer
from workers.dataset.scratch import ScratchFile
from workers.rendition import Rendition
from workers.verify import Findings, Proof

_NEAR = "1.2.840.10008.1.2.4.81"


def copied(rendition: Rendition, pixel_data: Element) -> Replacement:
    """The fragments received, with the delimiter that they lack."""

    def content() -> Iterator[bytes]:
        yield from rendition.received.source.chunks(pixel_data.value, pixel_data.stop)
        yield DELIMITER

    return Replacement(b"OB", UNDEFINED, content())


def recompressed(rendition: Rendition, context: PixelContext) -> Replacement:
    """A JPEG in its JPEG XL form, or restored from it, bit for bit the same.

    Raises:
        Unsuitable: a frame has no other form.
        Permanent: a frame is damaged.
    """
    image = attributes.describe(context.values)
    source_uid, target = rendition.received.meta.transfer_syntax_uid, rendition.target_syntax
    fragments = Fragments(rendition.scratch_file())
    proof = rendition.start_proof()
    received, ceilings = rendition.received, rendition.ceilings
    limits.extend(image.native_length)
    found = pixels.codestreams(
        received.source, context.elements, image, source_uid, ceilings=ceilings, note=rendition.note
    )

    def remade(codestream: bytes) -> bytes:
        other = encoders.recompress(codestream, source_uid, target.uid)
        if other is None:
            raise Unsuitable(f"this JPEG has no other form: {target.label} cannot be made of it")
        return other

    def decoded(codestream: bytes) -> tuple[np.ndarray, Image]:
        frame = decoders.decode(source_uid, codestream, image, rgb=False)
        return frame.samples, replace(image, photometric=frame.colour)

    def finish(read: tuple[bytes, int]) -> tuple[bytes, tuple[np.ndarray, Image] | None, Findings | None]:
        other = remade(read[0])
        if proof is None:
            return other, None, None
        cells = decoded(read[0])
        return other, cells, proof.examine(*cells, other)

    surplus = 0
    for (codestream, behind), finished in rendition.spread(found, image, finish):
        limits.begin_step(image.frame_length)
        surplus += behind
        other, cells, findings = finished or (remade(codestream), None, None)
        if proof is not None:
            proof.check_encoded(*(cells or decoded(codestream)), other, findings)
        fragments.add(other)
    rendition.note(*pixels.surplus_note(surplus))
    return _replacement(rendition, fragments, fragments.extended)


def encoded(rendition: Rendition, context: PixelContext) -> Replacement:
    """The pixel data encoded for the target, with all elements that must change.

    Raises:
        Unsuitable: the target cannot hold this image.
        Permanent: a frame is damaged.
    """
    image, capability = rendition.describe(context), rendition.target_syntax.capability
    every_bit = capability is not None and capability.every_bit
    # Values in other bits come down to where they belong.
    in_place = replace(image, photometric=_decoded_photometric(image), high_bit=image.bits_stored - 1)
    _check_capability(rendition.target_syntax, in_place)
    if every_bit and (image.high_bit == image.bits_stored - 1 or not image.has_field):
        return _encoded(rendition, context, image, None)
    try:
        separator = CellSeparator(image, context.values, rendition.scratch_file)
        return _encoded(rendition, context, image, separator)
    except Unsuitable:
        if not every_bit:
            raise
        return _encoded(rendition, context, image, None)  # cells as they are


def _encoded(
    rendition: Rendition, context: PixelContext, image: Image, separator: CellSeparator | None
) -> Replacement:
    target = rendition.target_syntax
    cells = separator.separated if separator else image
    fragments = Fragments(rendition.scratch_file())
    proof = rendition.start_proof(rendition.quality.near if target.uid == _NEAR else None)
    photometric = ""

    finish = partial(_finish, rendition, cells, separator, proof)
    for decoded, finished in rendition.frames(context, image, rgb=False, finish=finish):
        described = replace(cells, photometric=decoded.colour)
        if not photometric:
            _check_capability(target, described)
        values = separator.separate(decoded.samples) if separator else decoded.samples
        made, findings = finished or (encoders.encode(target.uid, values, described, rendition.quality), None)
        if photometric not in ("", made.photometric):
            raise Permanent(f"frames became {photometric} and {made.photometric}")
        photometric = made.photometric
        if proof is not None:
            proof.check_encoded(values, described, made.codestream, findings)
        fragments.add(made.codestream)
    if rendition.misfits(context):
        return MISFIT
    if photometric != image.photometric:
        rendition.note(f"{image.photometric} became {photometric}")
    if cells.high_bit != image.high_bit:
        rendition.note(f"values moved from High Bit {image.high_bit} to {cells.high_bit}")
    changes: dict[int, tuple[bytes, bytes | ScratchFile]] = {
        **attributes.corrected(image, context.values),
        **attributes.changes_encapsulated(image, photometric, cells.high_bit),
        **fragments.extended,
    }
    if separator:
        rendition.note(*separator.notes)
        changes |= separator.changes()
    if not rendition.loses:
        return _replacement(rendition, fragments, changes)
    received = rendition.received
    instance = received.meta.sop_class_uid, received.meta.sop_instance_uid
    ratio = image.frame_bits * image.frames / 8 / fragments.coded_length
    changes |= lossy.changes(context.values, target.uid, rendition.quality, ratio, instance)
    of_frames = functional_groups.item_replacers(
        context, received.source, instance, big=received.encoding.big
    )
    return _replacement(rendition, fragments, changes, lossy.appended(*instance), of_frames)


def _finish(
    rendition: Rendition,
    cells: Image,
    separator: CellSeparator | None,
    proof: Proof | None,
    decoded: Decoded,
) -> tuple[encoders.Encoded, Findings | None]:
    """Encode a frame, and examine what came of it, apart from its turn."""
    values = separator.values(decoded.samples) if separator else decoded.samples
    described = replace(cells, photometric=decoded.colour)
    made = encoders.encode(rendition.target_syntax.uid, values, described, rendition.quality)
    return made, proof.examine(values, described, made.codestream) if proof else None


def _check_capability(target: syntaxes.Syntax, image: Image) -> None:
    if target.uid == syntaxes.JPEG_IN_XL:
        raise Unsuitable(f"{target.label} is made of JPEG frames alone, not of pixels (PS3.5 8.2.15)")
    if reason := encoders.refusal(target.uid, image):
        raise Unsuitable(reason)


def _decoded_photometric(image: Image) -> str:
    """The photometric interpretation that the samples should have once they are decoded."""
    if image.photometric in ("YBR_RCT", "YBR_ICT"):
        return RGB
    return YBR if image.photometric == YBR_422 else image.photometric


def _replacement(
    rendition: Rendition,
    fragments: Fragments,
    changes: Mapping[int, tuple[bytes, bytes | ScratchFile]],
    appended: Mapping[int, bytes] | None = None,
    item_replacers: Mapping[int, Replacer] | None = None,
) -> Replacement:
    rendition.claim.allocate(fragments.coded_length, rendition.out)
    limits.begin_step(fragments.coded_length)
    return Replacement(
        vr=b"OB",  # PS3.5 A.4
        length=UNDEFINED,
        content=fragments.content(),
        changes=changes,
        removed=attributes.ONLY_ENCAPSULATED - changes.keys(),
        appended=appended or {},
        item_replacers=item_replacers or {},
    )
