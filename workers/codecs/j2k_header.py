"""The header of a JPEG 2000 or HTJ2K frame (T.800 annex A), and the work that it announces.

A hundred bytes can announce millions of packets, over which a decoder spends seconds and gigabytes. But each
packet has a header of at least a byte (T.800 B.10), and each tile a tile-part. So no codestream has more
packets than bytes.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from dicomferry.dicom.signatures import MAX_SEGMENTS
from dicomferry.errors import Permanent
from workers.codecs.codestreams import Header

_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_COD, _COC, _POC, _SOT, _SOD, _EOC = 0xFF52, 0xFF53, 0xFF5F, 0xFF90, 0xFF93, 0xFFD9
_TILE_PART = 14  # bytes of one without content: SOT and SOD
# What decoders do in no time, and truncated streams may lack.
_HARMLESS_TILES = 64
_HARMLESS_PACKETS = 1 << 12
_HARMLESS_LOOKS = 1 << 20  # a decoder looks at every packet again for each progression order change
_LOOKS_A_BYTE = 16
_PARTS_A_TILE = 255  # T.800 A.4.2
_MAX_LEVELS = 32


def without_jp2(codestream: bytes) -> bytes:
    """The JPEG 2000 codestream itself: some old encoders left the boxes of a JP2 file around it."""
    if not codestream.startswith(_JP2_START):
        return codestream
    start = codestream.find(_START)
    if start < 0:
        raise Permanent("a JP2 file in place of a frame holds no codestream")
    return codestream[start:]


def read_j2k(codestream: bytes) -> Header:
    """The header of a JPEG 2000 or HTJ2K frame, given without JP2 boxes.

    Raises:
        Permanent: it has no SIZ or no COD, its components differ, or a component is subsampled.
    """
    if codestream[:4] != _START or len(codestream) < 42:
        raise Permanent("a JPEG 2000 frame does not begin with SOC and SIZ (T.800 A.4)")
    right, bottom, left, top = struct.unpack_from(">4I", codestream, 8)
    (components,) = struct.unpack_from(">H", codestream, 40)
    described = codestream[42 : 42 + 3 * components]
    if not components or len(described) < 3 * components:
        raise Permanent("the SIZ of a JPEG 2000 frame is cut short")
    if described != described[:3] * components:
        raise Permanent("the components of a JPEG 2000 frame differ in precision or sampling")
    if described[1:3] != b"\x01\x01":
        raise Permanent("the components of a JPEG 2000 frame are subsampled (PS3.5 A.4.4)")
    main, _ = _coding(codestream, 2, components, _Coding())
    if main.style.levels < 0:
        raise Permanent("a JPEG 2000 frame has no COD: it is truncated or damaged")
    return Header(
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(described[0] & 0x7F) + 1,
        signed=bool(described[0] & 0x80),
        transformed=main.transform,
    )


@dataclass(frozen=True, slots=True)
class _Grid:
    """The tiles of an image, on the reference grid (T.800 B.3)."""

    image: tuple[tuple[int, int], tuple[int, int]]  # begin and end, across and down
    first: tuple[int, int]  # where the first tile begins
    size: tuple[int, int]  # of a tile

    @classmethod
    def read(cls, codestream: bytes) -> "_Grid":
        right, bottom, left, top, wide, high, first_left, first_top = struct.unpack_from(">8I", codestream, 8)
        fits = first_left <= left < right and first_top <= top < bottom
        if not (wide and high and fits and first_left + wide > left and first_top + high > top):
            raise Permanent("the SIZ of a JPEG 2000 frame describes no image (T.800 B.3)")
        return cls(((left, right), (top, bottom)), (first_left, first_top), (wide, high))

    def counts(self) -> tuple[int, int]:
        """How many tiles stand beside each other, and how many below."""
        across, down = (
            -(-(end - first) // size)
            for (_, end), first, size in zip(self.image, self.first, self.size, strict=True)
        )
        return across, down

    def edges(self, axis: int, numbers: range) -> list[tuple[int, int]]:
        """Where tiles begin and end, in one direction."""
        (begin, end), first, size = self.image[axis], self.first[axis], self.size[axis]
        return [(max(first + n * size, begin), min(first + (n + 1) * size, end)) for n in numbers]


@dataclass(frozen=True, slots=True)
class _Style:
    """How a component is coded: decomposition levels, and the exponents of precincts by resolution."""

    levels: int
    precincts: bytes

    def precincts_of(self, across: list[tuple[int, int]], down: list[tuple[int, int]]) -> int:
        """Precincts of all resolutions (T.800 B.6) of the tiles in these columns and rows."""
        total = 0
        for resolution in range(self.levels + 1):
            exponents = self.precincts[resolution] if self.precincts else 0xFF
            scale = self.levels - resolution
            columns = sum(_precincts(begin, end, scale, exponents & 15) for begin, end in across)
            total += columns * sum(_precincts(begin, end, scale, exponents >> 4) for begin, end in down)
        return total


def _precincts(begin: int, end: int, scale: int, exponent: int) -> int:
    """How many precincts an edge of a resolution crosses."""
    begin, end = -(-begin >> scale), -(-end >> scale)
    return (-(-end >> exponent)) - (begin >> exponent) if end > begin else 0


@dataclass(slots=True)
class _Coding:
    """What the marker segments of a main or tile-part header say."""

    layers: int = 0
    transform: bool = False
    style: _Style = _Style(-1, b"")  # of COD; this without one
    components: dict[int, _Style] = field(default_factory=dict)  # of COC
    changes: int = 0  # of the progression order (POC)

    def packets(self, across: list[tuple[int, int]], down: list[tuple[int, int]], components: int) -> int:
        """Packets of the tiles in these columns and rows."""
        others = [style for number, style in self.components.items() if number < components]
        total = (components - len(others)) * self.style.precincts_of(across, down)
        return self.layers * (total + sum(style.precincts_of(across, down) for style in others))


def _segments(codestream: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """Marker, begin and end of each segment's content from `at`; a marker that ends the header comes last."""
    for _ in range(MAX_SEGMENTS):
        if at + 4 > len(codestream):
            return
        marker, length = struct.unpack_from(">HH", codestream, at)
        if marker in (_SOT, _SOD, _EOC):
            yield marker, at, at
            return
        yield marker, at + 4, at + 2 + length
        at += 2 + max(length, 2)
    raise Permanent(f"a JPEG 2000 header has more than {MAX_SEGMENTS} marker segments: it is damaged")


def _coding(codestream: bytes, at: int, components: int, before: _Coding) -> tuple[_Coding, int]:
    """What a header from `at` says beyond `before`, and where it ends."""
    found = _Coding(before.layers, before.transform, before.style, dict(before.components), before.changes)
    wide = components > 256
    own: dict[int, _Style] = {}
    for marker, begin, end in _segments(codestream, at):
        at = begin
        content = codestream[begin:end] if marker in (_COD, _COC, _POC) else b""
        if marker == _COD:
            found.layers, found.transform, found.style = _read_cod(content)
            found.components = {}
        elif marker == _COC and len(content) > 1 + wide:
            number = int.from_bytes(content[: 1 + wide], "big")
            own[number] = _read_style(content[1 + wide], content[2 + wide :])
        elif marker == _POC:
            found.changes += len(content) // (9 if wide else 7)
    found.components |= own
    return found, at


def _read_cod(content: bytes) -> tuple[int, bool, _Style]:
    if len(content) < 10:
        raise Permanent("the COD of a JPEG 2000 frame is cut short")
    (layers,) = struct.unpack_from(">H", content, 2)
    return layers, content[4] == 1, _read_style(content[0], content[5:])


def _read_style(coding: int, content: bytes) -> _Style:
    """SPcod or SPcoc (T.800 A.6.1)."""
    if not content or content[0] > _MAX_LEVELS:
        raise Permanent("a JPEG 2000 frame has more decomposition levels than there are (T.800 A.6.1)")
    levels = content[0]
    precincts = content[5 : 6 + levels] if coding & 1 else b""
    if coding & 1 and len(precincts) <= levels:
        raise Permanent("a JPEG 2000 frame lacks precinct sizes: it is damaged")
    return _Style(levels, precincts)


def check_work(codestream: bytes, components: int) -> None:
    """Check that a codestream can hold what it announces, in its main header and in those of its tile-parts.

    `read_j2k` has read it.

    Raises:
        Permanent: it announces more tiles or packets than its bytes can hold.
    """
    main, end = _coding(codestream, 2, components, _Coding())
    grid = _Grid.read(codestream)
    across, down = grid.counts()
    tiles, size = across * down, len(codestream)
    if tiles > max(_HARMLESS_TILES, size // _TILE_PART):
        raise Permanent(f"a JPEG 2000 frame announces {tiles} tiles and has {size} bytes")
    columns, rows = grid.edges(0, range(across)), grid.edges(1, range(down))
    packets = main.packets(columns, rows, components)
    most_parts = max(_HARMLESS_PACKETS, _PARTS_A_TILE * tiles)
    changes: dict[int, int] = {}  # by tile, which may have them in each of its parts
    for tile, at in _tile_parts(codestream, end, most_parts):
        own, _ = _coding(codestream, at, components, main)
        if tile < tiles:
            column, row = [columns[tile % across]], [rows[tile // across]]
            more = own.packets(column, row, components) - main.packets(column, row, components)
            packets += max(more, 0)  # or parts that come again would hide others
            changes[tile] = changes.get(tile, 0) + own.changes - main.changes
    orders = 1 + main.changes + max(changes.values(), default=0)
    looks = packets * orders
    if packets > max(_HARMLESS_PACKETS, size) or looks > max(_HARMLESS_LOOKS, _LOOKS_A_BYTE * size):
        again = f" in {orders} progression orders" if orders > 1 else ""
        raise Permanent(f"a JPEG 2000 frame announces {packets} packets{again} and has {size} bytes")


def _tile_parts(codestream: bytes, at: int, most: int) -> Iterator[tuple[int, int]]:
    """The tile of each tile-part whose header is more than SOT, and where the rest begins (T.800 A.4.2)."""
    for _ in range(most):
        if at + 12 > len(codestream) or codestream[at : at + 2] != b"\xff\x90":
            return
        tile, length = struct.unpack_from(">HI", codestream, at + 4)
        if codestream[at + 12 : at + 14] != b"\xff\x93":
            yield tile, at + 12
        if length < _TILE_PART:  # 0: the last one, up to EOC
            return
        at += length
    raise Permanent(f"a JPEG 2000 frame has more than {most} tile-parts: it is damaged")
