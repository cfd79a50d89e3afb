"""The digest of a data set as received, or of an image's pixels: 128 bits of BLAKE3.

It must resist collisions, since it identifies an object that is pending already. BLAKE3 is the fastest such
hash, and every object that arrives is hashed.
"""

from blake3 import blake3

_BYTES = 16


class Digest:
    """The digest of all parts given to `update`, in order; `str()` is its hexadecimal form, as stored."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = blake3()

    def update(self, part: bytes | memoryview) -> None:
        """Add the next part."""
        self._state.update(part)

    def __str__(self) -> str:
        return self._state.hexdigest(length=_BYTES)


def digest_of(content: bytes | memoryview) -> str:
    """The digest of `content`."""
    digest = Digest()
    digest.update(content)
    return str(digest)
