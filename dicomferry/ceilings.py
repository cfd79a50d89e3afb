"""How much an instance may take, and how much of what its headers claim is believed.

A header of a few bytes can claim a petabyte. What it claims is held against these before anything is
allocated; each is a key of `[worker]` by the same name, which the refusal names.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ceilings:
    """The ceilings of a worker; MB are 2^20 bytes."""

    memory_mb: int = 4096  # what one of its processes may allocate
    largest_frame_mb: int = 512  # one frame in native form; encoders need up to six times as much memory
    largest_image_mb: int = 65_536  # all frames in native form: rows x columns x samples x frames
    largest_ratio: int = 20_000  # of a frame of more than 64 MB and its codestream: beyond it is a bomb
    largest_inflated_mb: int = 16_384  # a deflated data set, inflated
    most_fragments: int = 1 << 22  # of one Pixel Data element; so many frames at most
    most_elements: int = 1 << 20  # of one data set, or one item of a sequence

    def told(self, what: str, key: str) -> str:
        """The refusal of `what`, which is over the ceiling `key`."""
        return f"{what}: the ceiling is {getattr(self, key)}; if it is sound, raise [worker] {key}"
