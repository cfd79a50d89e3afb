"""Upper limits for what one instance may take of memory and disk.

A header of a few bytes can claim a petabyte. Every claim is checked against these ceilings before anything
is allocated. Each ceiling is the key of `[worker]` of the same name; a refusal names it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Ceilings:
    """The ceilings of a worker; MB are 2^20 bytes."""

    memory_mb: int = 4096  # what one of its processes may allocate
    largest_frame_mb: int = 512  # one frame in native form; encoders need up to six times as much memory
    largest_image_mb: int = 65_536  # all frames in native form: rows x columns x samples x frames
    largest_ratio: int = 20_000  # of a frame over 64 MB to its codestream; more is a decompression bomb
    largest_inflated_mb: int = 16_384  # a deflated data set, inflated
    most_fragments: int = 1 << 22  # of one Pixel Data element; also the most frames of one image
    most_elements: int = 1 << 20  # of one data set or sequence item

    def refusal(self, what: str, key: str) -> str:
        """Why `what`, which exceeds the ceiling `key`, is refused."""
        return f"{what}: the ceiling is {getattr(self, key)}; if it is sound, raise [worker] {key}"
