"""What a lossy rendition states for the frames of an enhanced multi-frame image (PS3.3 C.7.6.16).

Frame Type states for a frame what Image Type states for the instance (PS3.3 C.8.16.1), and a frame that was
derived from another instance has the functional group Derivation Image (C.7.6.16.2.6; A.47.4, A.56.4 and the
tables of other enhanced IODs). Lossy Image Compression itself is beside Image Type, as in every image.
"""

import itertools
import struct

from dicomferry.errors import Unsuitable
from workers.dataset import lossy
from workers.dataset.attributes import LONGEST_READ
from workers.dataset.replacement import PixelContext, Replacement, Replacer
from workers.dataset.source import Source

SHARED, PER_FRAME = 0x52009229, 0x52009230
DERIVATION_IMAGE = 0x00089124


def item_replacers(
    context: PixelContext, source: Source, instance: tuple[str, str], *, big: bool
) -> dict[int, Replacer]:
    """What changes in the items of each functional groups sequence, by its tag.

    `instance` is SOP class and UID of the instance received, `big` whether that is in big endian.
    """
    found = [tag for tag in (SHARED, PER_FRAME) if tag in context.elements]
    place = _derivation_sequence(context, source, big=big)
    numbers = itertools.count(1)

    def shared(item: PixelContext) -> Replacement:
        appended = {DERIVATION_IMAGE: lossy.derivation_image(*instance)} if place == SHARED else {}
        return Replacement(appended=appended, item_replacers=dict.fromkeys(item.elements, _derive_frame_type))

    def of_frame(item: PixelContext) -> Replacement:
        number = next(numbers)
        appended = {DERIVATION_IMAGE: lossy.derivation_image(*instance, number)} if place == PER_FRAME else {}
        return Replacement(appended=appended, item_replacers=dict.fromkeys(item.elements, _derive_frame_type))

    return {tag: shared if tag == SHARED else of_frame for tag in found}


def _derivation_sequence(context: PixelContext, source: Source, *, big: bool) -> int | None:
    """The sequence of Derivation Image, which must not be in both (PS3.3 C.7.6.16): where it is or fits."""
    tag = struct.pack(">HH" if big else "<HH", DERIVATION_IMAGE >> 16, DERIVATION_IMAGE & 0xFFFF)
    shared, per_frame = context.elements.get(SHARED), context.elements.get(PER_FRAME)
    if per_frame and per_frame.length and (not shared or not shared.length):
        return PER_FRAME
    if not shared or not shared.length:
        return None
    in_shared = source.view.find(tag, shared.value, shared.stop) >= 0
    in_frames = per_frame is not None and source.view.find(tag, per_frame.value, per_frame.stop) >= 0
    return PER_FRAME if in_frames and not in_shared else SHARED


def _derive_frame_type(item: PixelContext) -> Replacement | None:
    """What changes in a functional group's item: its Frame Type, if any, says that the frame was derived."""
    before = item.values.get(lossy.FRAME_TYPE)
    if not before:
        return None
    if len(before) >= LONGEST_READ:
        raise Unsuitable("its Frame Type is too long to be continued")
    after = lossy.mark_derived(before)
    return Replacement(changes={lossy.FRAME_TYPE: (b"CS", after)}) if after != before else None
