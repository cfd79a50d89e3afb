"""Pixel data of a native rendition, and icons of any: decoded, in the colours that the spec asks for."""

import itertools
from collections.abc import Iterator

import numpy as np

from dicomferry.dicom import syntaxes
from dicomferry.dicom.elements import PIXEL_DATA, Element
from dicomferry.dicom.real_syntax import shown_in_fragments
from dicomferry.dicom.signatures import contradicts
from dicomferry.errors import Permanent, Unsuitable
from workers.codecs.image import YBR, YBR_422, Decoded, Image, to_rgb
from workers.dataset import attributes, pixels
from workers.dataset.overlays import BitPacker
from workers.dataset.replacement import MISFIT, PixelContext, Replacement
from workers.rendition import Rendition
from workers.verify import Proof

_MAX_LENGTH = 0xFFFFFFFE  # PS3.5 7.1.1: a length of 32 bits, even


def replacement(rendition: Rendition, pixel_data: Element, context: PixelContext) -> Replacement | None:
    """The pixel data in native form; None where it is native already and keeps its colours.

    Raises:
        Unsuitable: it is too long for a native transfer syntax, or only stays native as it is.
        Permanent: it is damaged or contradicts its attributes.
    """
    if rendition.source_syntax.native and not _becomes_rgb(rendition, context):
        # Attributes that are absent contradict nothing.
        if context.values.keys() >= attributes.SIZE:
            pixels.checked_frame_bits(pixel_data, rendition.describe(context))
        return None
    return _decoded(rendition, context)


def icon(rendition: Rendition, context: PixelContext) -> Replacement:
    """The pixel data of an icon, in fragments, in native form. It may be in a syntax of its own.

    Raises:
        Permanent: it is damaged, or no decoder knows it.
    """
    view, stated = rendition.received.source.view, rendition.received.meta.transfer_syntax_uid
    shown = shown_in_fragments(lambda at, size: view[at : at + size], context.elements[PIXEL_DATA].value)
    uid = shown if contradicts(shown, stated) else stated
    if uid != stated:
        rendition.note(f"an icon is {syntaxes.label(uid)}, the instance is not")
    elif rendition.source_syntax.native:
        raise Permanent("its fragments begin with no codestream that shows what it is (PS3.5 A.4)")
    return _decoded(rendition, context, uid)


def _becomes_rgb(rendition: Rendition, context: PixelContext) -> bool:
    """Whether native samples are YCbCr and are to become RGB."""
    if rendition.spec.colour != "rgb" or not context.values.keys() >= attributes.SIZE:
        return False
    image = attributes.describe(context.values)
    convertible = image.samples == 3 and image.bits_allocated == image.bits_stored == 8 and not image.signed
    return convertible and image.photometric in (YBR, YBR_422)


def _decoded(rendition: Rendition, context: PixelContext, uid: str | None = None) -> Replacement:
    image, target = rendition.describe(context), rendition.target_syntax
    length = image.native_length
    if length > _MAX_LENGTH:
        raise Unsuitable(f"{length} bytes of native pixel data are more than {target.label} can hold")
    wanted = rendition.spec.colour
    frames = (frame for frame, _ in rendition.frames(context, image, rgb=wanted == "rgb", uid=uid))
    first = next(frames, None)
    if first is None:
        return MISFIT
    if not context.nested:
        rendition.claim.allocate(length, rendition.out)
    colour = attributes.native_colour(first.colour, wanted) if image.samples == 3 else first.colour
    if colour != image.photometric:
        rendition.note(f"{image.photometric} became {colour}")
    proof = None if context.nested else rendition.start_proof()
    explicit = target.uid != syntaxes.IMPLICIT_LE
    return Replacement(
        vr=attributes.pixel_data_vr(image.bits_allocated, explicit=explicit),
        length=length,
        content=_content(rendition, itertools.chain((first,), frames), image, colour, proof),
        changes=attributes.corrected(image, context.values) | attributes.changes(image, colour),
        removed=attributes.ONLY_ENCAPSULATED,
    )


def _content(
    rendition: Rendition, frames: Iterator[Decoded], image: Image, colour: str, proof: Proof | None
) -> Iterator[bytes | memoryview]:
    if image.frame_bits % 8:
        for packed in _bit_packed(rendition, frames, image, proof):
            if proof is not None:
                proof.add_written(packed)
            yield packed
        return
    swapped = rendition.target_syntax.uid == syntaxes.EXPLICIT_BE and image.bits_allocated > 8
    for decoded in frames:
        samples = decoded.samples
        if colour != decoded.colour and image.samples == 3:
            samples = to_rgb(samples, image.bits_stored)
        content = np.ascontiguousarray(samples).reshape(-1).view(np.uint8).data
        if swapped:  # OW is words of 16 bits, whatever their content (PS3.5 A.3, 7.3)
            content = np.frombuffer(content, "<u2").byteswap().view(np.uint8).data
        if proof is not None:
            proof.add_native(samples, image)
            proof.add_written(content)
        yield content
    if image.frame_length * image.frames % 2:
        yield b"\x00"


def _bit_packed(
    rendition: Rendition, frames: Iterator[Decoded], image: Image, proof: Proof | None
) -> Iterator[bytes]:
    """Frames that end inside a byte; the next frame begins in the same byte (PS3.5 8.1.1)."""
    bits = BitPacker(rendition.scratch_file())
    for decoded in frames:
        if proof is not None:
            proof.add_native(decoded.samples, image)
        bits.add(np.unpackbits(decoded.samples, bitorder="little")[: image.frame_bits])
    yield from bits.finish().chunks()
