"""What a rendition changes in a data set: its pixel data and the elements that describe it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from dicomferry.dicom.elements import PIXEL_DATA, Element
from workers.dataset.scratch import ScratchFile


@dataclass(frozen=True, slots=True)
class PixelContext:
    """A data set, or an item of a sequence: what surrounds its pixel data."""

    elements: Mapping[int, Element]  # by tag
    values: Mapping[int, bytes]  # by tag, of the elements that describe the image; little endian
    nested: bool  # an item of a sequence: its pixel data is an icon


@dataclass(frozen=True, slots=True)
class Replacement:
    """The new pixel data of a data set, and the elements that change with it.

    Without `content` the pixel data stays. `content` is in the target's byte order; values of `changes` are
    little endian. `appended` are items in Explicit VR Little Endian, added to the sequence of that tag.
    `item_replacers` returns what changes in each item that the sequence of that tag has already.
    """

    vr: bytes = b""
    length: int = 0  # UNDEFINED for fragments
    content: Iterable[bytes | memoryview] | None = None
    # VR and value by tag
    changes: Mapping[int, tuple[bytes, bytes | ScratchFile]] = field(default_factory=dict)
    removed: frozenset[int] = frozenset()
    appended: Mapping[int, bytes] = field(default_factory=dict)
    item_replacers: Mapping[int, "Replacer"] = field(default_factory=dict)

    def touches(self, tag: int) -> bool:
        """Whether the element of that tag changes."""
        if tag == PIXEL_DATA:
            return self.content is not None
        return tag in self.changes or tag in self.removed or tag in self.appended


Replacer = Callable[[PixelContext], Replacement | None]

# Of pixel data whose values Bits Stored denies, in the attempt that finds it: what it writes is thrown away.
MISFIT = Replacement(content=())
