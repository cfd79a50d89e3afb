"""What a lossy rendition says of the frames of an enhanced multi-frame image (PS3.3 C.7.6.16).

Frame Type says of a frame what Image Type says of the instance (PS3.3 C.8.16.1), and a frame that was derived
from another instance has the functional group Derivation Image (C.7.6.16.2.6; A.47.4, A.56.4 and the tables
of other enhanced IODs). Lossy Image Compression itself stands beside Image Type, as in every image.
"""

import itertools
import struct

from dicomferry.errors import Unsuitable
from workers.dataset import lossy
from workers.dataset.attributes import LONGEST_READ
from workers.dataset.reencode import Around, Replace, Replacement, Source

SHARED, PER_FRAME = 0x52009229, 0x52009230
DERIVATION_IMAGE = 0x00089124


def derived(around: Around, source: Source, instance: tuple[str, str], *, big: bool) -> dict[int, Replace]:
    """What changes in the items of the functional groups of the data set `around`, by their sequence's tag.

    `instance` is SOP class and UID of what was received, `big` whether it is in big endian.
    """
    found = [tag for tag in (SHARED, PER_FRAME) if tag in around.elements]
    home = _home(around, source, big=big)
    numbers = itertools.count(1)

    def shared(item: Around) -> Replacement:
        appended = {DERIVATION_IMAGE: lossy.derivation_image(*instance)} if home == SHARED else {}
        return Replacement(appended=appended, within=dict.fromkeys(item.elements, _frame_type))

    def of_frame(item: Around) -> Replacement:
        number = next(numbers)
        appended = {DERIVATION_IMAGE: lossy.derivation_image(*instance, number)} if home == PER_FRAME else {}
        return Replacement(appended=appended, within=dict.fromkeys(item.elements, _frame_type))

    return {tag: shared if tag == SHARED else of_frame for tag in found}


def _home(around: Around, source: Source, *, big: bool) -> int | None:
    """The sequence that Derivation Image is in or goes to: it must not be in both (PS3.3 C.7.6.16)."""
    tag = struct.pack(">HH" if big else "<HH", DERIVATION_IMAGE >> 16, DERIVATION_IMAGE & 0xFFFF)
    shared, per_frame = around.elements.get(SHARED), around.elements.get(PER_FRAME)
    if per_frame and per_frame.length and (not shared or not shared.length):
        return PER_FRAME
    if not shared or not shared.length:
        return None
    in_shared = source.view.find(tag, shared.value, shared.stop) >= 0
    in_frames = per_frame is not None and source.view.find(tag, per_frame.value, per_frame.stop) >= 0
    return PER_FRAME if in_frames and not in_shared else SHARED


def _frame_type(item: Around) -> Replacement | None:
    """The item of a functional group whose frame was derived."""
    before = item.values.get(lossy.FRAME_TYPE)
    if not before:
        return None
    if len(before) >= LONGEST_READ:
        raise Unsuitable("its Frame Type is too long to be continued")
    after = lossy.derived(before)
    return Replacement(changes={lossy.FRAME_TYPE: (b"CS", after)}) if after != before else None
