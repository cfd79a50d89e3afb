"""The frames of encapsulated pixel data (PS3.5 A.4): which fragments make up each one.

Only item headers and first bytes are read, so a large object costs no more than a small one.
"""

import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeAlias

from dicomferry.ceilings import Ceilings
from dicomferry.dicom import syntaxes
from dicomferry.dicom.elements import EXPLICIT, PIXEL_DATA, Bytes, Element, items
from dicomferry.dicom.signatures import HEAD
from dicomferry.errors import Permanent
from workers.codecs import boundaries
from workers.dataset.fragment_writer import EXTENDED_LENGTHS, EXTENDED_OFFSETS

_BASIC, _EXTENDED = "Basic Offset Table", "Extended Offset Table"

Fragments = Sequence[Element]
Offsets: TypeAlias = "array[int]"


@dataclass(frozen=True, slots=True)
class Split:
    """The fragments of each frame, in order, and what an offset table says wrongly of them."""

    frames: list[Fragments]
    notes: tuple[str, ...] = ()


def split(
    source: Bytes, elements: Mapping[int, Element], frames: int, ceilings: Ceilings, uid: str = ""
) -> Split:
    """Divide the fragments among `frames` frames of the transfer syntax `uid`.

    `elements` are those of the data set, by tag. Where the codestreams show where frames begin, they decide:
    many offset tables are empty or wrong. Each frame is checked again when its fragments are joined.

    Raises:
        Permanent: the fragments cannot be divided into `frames` frames without losing, inventing or mixing
            some.
    """
    table, found = _items(source, elements[PIXEL_DATA], ceilings, uid)
    fragments = [fragment for fragment in found if fragment.length]
    if len(fragments) < frames:
        raise Permanent(
            f"pixel data has {len(fragments)} fragments for {frames} frames: it is truncated or damaged"
        )
    tables = _tables(source, elements, table, len(fragments))
    starts = _starts(source, fragments, frames, uid, list(tables.values()))
    if hidden := _hidden(source, fragments, starts, uid):
        raise Permanent(contradiction(frames, len(starts) + hidden, uid))
    bounds = [*starts, len(fragments)]
    expected = array("Q", (fragments[start].start - found[0].start for start in starts))
    for name, offsets in tables.items():
        if offsets != expected and array("Q", sorted(offsets)) == expected:
            raise Permanent(f"the {name} puts the frames in another order than they stand in (PS3.5 A.4)")
    wrong = [name for name, offsets in tables.items() if offsets != expected]
    if _EXTENDED in tables and _EXTENDED not in wrong and not _lengths_fit(source, elements, fragments):
        wrong.append(_EXTENDED)
    notes = [f"the {name} contradicts the fragments: it was not used" for name in wrong]
    if table is None:
        notes.append("pixel data begins with a fragment in place of the Basic Offset Table (PS3.5 A.4)")
    return Split([fragments[begin:end] for begin, end in pairwise(bounds)], tuple(notes))


def contradiction(frames: int, codestreams: int, uid: str) -> str:
    """Why pixel data with another number of codestreams than Number of Frames says is refused."""
    at_least = "at least " if codestreams >= boundaries.MAX_COUNTED else ""
    some = f"{at_least}{codestreams} codestream{'s' * (codestreams != 1)} ({syntaxes.label(uid)})"
    fate = "frames would be lost" if codestreams > frames else "it is truncated, or that number is wrong"
    return f"Number of Frames is {frames}, pixel data holds {some}: {fate}"


def _items(
    source: Bytes, pixel_data: Element, ceilings: Ceilings, uid: str
) -> tuple[Element | None, list[Element]]:
    """The Basic Offset Table, or None if a fragment stands in its place, and the fragments."""
    most = ceilings.most_fragments + 1  # and the Basic Offset Table
    found = list(islice(items(source, pixel_data, EXPLICIT), most + 1))
    if len(found) > most:
        raise Permanent(ceilings.refusal("pixel data has too many fragments", "most_fragments"))
    if not found:
        raise Permanent("encapsulated pixel data without a Basic Offset Table item (PS3.5 A.4)")
    table = found[0]
    is_start = boundaries.begins(uid)
    if is_start is None and table.length:
        offsets = _integers(source, table, "I", most)
        if not offsets or max(offsets) >= pixel_data.length:
            raise Permanent("the first item of pixel data is no Basic Offset Table (PS3.5 A.4)")
    if is_start is not None and is_start(_head(source, table)):
        return None, found
    return table, found[1:]


def _head(source: Bytes, item: Element) -> bytes:
    return source[item.value : min(item.stop, item.value + HEAD)]


def _starts(
    source: Bytes, fragments: Fragments, frames: int, uid: str, tables: Sequence[Offsets]
) -> list[int]:
    """Indices of the fragments that begin a frame."""
    if frames == 1:
        return [0]
    is_start = boundaries.begins(uid)
    if is_start is None:
        if len(fragments) == frames:
            return list(range(frames))
        return _starts_by_table(fragments, frames, tables)
    starts = [number for number, fragment in enumerate(fragments) if is_start(_head(source, fragment))]
    if len(starts) > frames:  # a fragment may begin by chance with bytes that look like a codestream's
        starts = [n for n in starts if not n or _ends_codestream(source, fragments[n - 1], uid)]
    if starts and starts[0] != 0:
        raise Permanent(f"pixel data does not begin with a codestream ({syntaxes.label(uid)})")
    if len(starts) != frames:
        raise Permanent(contradiction(frames, len(starts), uid))
    return starts


def _hidden(source: Bytes, fragments: Fragments, starts: Sequence[int], uid: str) -> int:
    """How many codestreams begin inside of frames, and are not seen once their fragments are joined."""
    hides = boundaries.hides(uid, _head(source, fragments[0]))
    if hides is None or len(starts) == len(fragments):
        return 0
    begin_frames = set(starts)
    return sum(
        number not in begin_frames
        and hides(_head(source, fragment))
        and _ends_codestream(source, fragments[number - 1], uid)
        for number, fragment in enumerate(fragments)
    )


def _ends_codestream(source: Bytes, fragment: Element, uid: str) -> bool:
    return boundaries.has_ended(
        uid, source[max(fragment.value, fragment.stop - boundaries.TAIL) : fragment.stop]
    )


def _starts_by_table(fragments: Fragments, frames: int, tables: Sequence[Offsets]) -> list[int]:
    first = fragments[0].start
    numbers = {fragment.start - first: number for number, fragment in enumerate(fragments)}
    for table in tables:
        starts = [numbers.get(offset, -1) for offset in table]
        if len(starts) == frames and starts[0] == 0 and all(a < b for a, b in pairwise(starts)):
            return starts
    raise Permanent(
        f"pixel data has {len(fragments)} fragments for {frames} frames and no usable offset table"
    )


def _tables(
    source: Bytes, elements: Mapping[int, Element], table: Element | None, most: int
) -> dict[str, Offsets]:
    """The offsets in the Basic and the Extended Offset Table, by its name, if it has any."""
    found = {_BASIC: _integers(source, table, "I", most)} if table and table.length else {}
    extended = elements.get(EXTENDED_OFFSETS)
    if extended is not None and extended.length:
        found[_EXTENDED] = _integers(source, extended, "Q", most)
    return found


def _lengths_fit(source: Bytes, elements: Mapping[int, Element], fragments: Fragments) -> bool:
    """Whether the Extended Offset Table Lengths are those of the fragments, with or without padding."""
    element = elements.get(EXTENDED_LENGTHS)
    lengths = _integers(source, element, "Q", len(fragments)) if element is not None else array("Q")
    return len(lengths) == len(fragments) and all(
        0 <= fragment.length - length <= 1 for fragment, length in zip(fragments, lengths, strict=True)
    )


def _integers(source: Bytes, element: Element, kind: str, most: int) -> Offsets:
    """The unsigned integers of a table; none if there are more than `most`, or a part of one."""
    count, rest = divmod(element.length, struct.calcsize(f"<{kind}"))
    whole = count <= most and not rest
    return array("Q", struct.unpack_from(f"<{count}{kind}", source, element.value) if whole else ())
