"""The frames of encapsulated pixel data (PS3.5 A.4): which fragments make up each one.

Only item headers and first bytes are read, so a large object costs no more than a small one.
"""

import struct
from collections.abc import Sequence
from itertools import islice, pairwise

from dicomferry.ceilings import Ceilings
from dicomferry.errors import Permanent
from workers.dataset.elements import EXPLICIT, Bytes, Element, items

_CODESTREAM_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP")

Fragments = Sequence[Element]


def split(source: Bytes, pixel_data: Element, frames: int, ceilings: Ceilings) -> list[Fragments]:
    """The fragments of each frame, in order.

    A Basic Offset Table is used if it agrees with the fragments; many are empty or wrong.

    Raises:
        Permanent: the fragments cannot be divided into `frames` frames.
    """
    most = ceilings.most_fragments + 1  # and the Basic Offset Table
    found = list(islice(items(source, pixel_data, EXPLICIT), most + 1))
    if len(found) > most:
        raise Permanent(ceilings.refusal("pixel data has too many fragments", "most_fragments"))
    if not found:
        raise Permanent("encapsulated pixel data without a Basic Offset Table item (PS3.5 A.4)")
    table, fragments = found[0], [fragment for fragment in found[1:] if fragment.length]
    if len(fragments) < frames:
        raise Permanent(
            f"pixel data has {len(fragments)} fragments for {frames} frames: it is truncated or damaged"
        )
    if frames == 1:
        return [fragments]
    if len(fragments) == frames:
        return [[fragment] for fragment in fragments]
    starts = _starts_by_table(source, table, found[1:], frames) or _starts_by_content(source, fragments)
    if len(starts) != frames or starts[0] != 0:
        raise Permanent(
            f"pixel data has {len(fragments)} fragments for {frames} frames and no usable offset table"
        )
    bounds = [*starts, len(fragments)]
    return [fragments[bounds[index] : bounds[index + 1]] for index in range(frames)]


def _starts_by_table(source: Bytes, table: Element, fragments: Fragments, frames: int) -> list[int]:
    """Indices of the non-empty fragments that begin a frame, by the table; empty if the table is wrong."""
    if table.length != 4 * frames:
        return []
    offsets = struct.unpack_from(f"<{frames}I", source, table.value)
    numbers: dict[int, int] = {}
    number = 0
    for fragment in fragments:
        numbers[fragment.start - table.end] = number
        number += bool(fragment.length)
    starts = [numbers.get(offset, -1) for offset in offsets]
    ascending = all(left < right for left, right in pairwise(starts))
    return starts if ascending and starts[0] == 0 else []


def _starts_by_content(source: Bytes, fragments: Fragments) -> list[int]:
    return [
        number
        for number, fragment in enumerate(fragments)
        if source[fragment.value : fragment.value + 6].startswith(_CODESTREAM_STARTS)
    ]
