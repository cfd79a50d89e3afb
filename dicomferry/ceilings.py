"""Upper limits for what one instance may take of memory and disk.

A header of a few bytes can claim a petabyte. Every claim is checked against these ceilings before anything
is allocated. Each ceiling is the key of `[worker]` of the same name; a refusal names it.
"""

from dataclasses import dataclass

from dicomferry.errors import Permanent

# Bytes up to which any ratio is believed: a blank image compresses well.
_HARMLESS = 64 << 20


@dataclass(frozen=True)
class Ceilings:
    """The ceilings of a worker; MB are 2^20 bytes."""

    memory_mb: int = 4096  # what one of its processes may allocate
    largest_frame_mb: int = 512  # one frame in native form; encoders need up to six times as much memory
    largest_image_mb: int = 65_536  # all frames in native form: rows x columns x samples x frames
    # Of a frame, an image or a deflated data set over 64 MB to what holds it; more is a decompression bomb.
    largest_ratio: int = 20_000
    largest_inflated_mb: int = 16_384  # a deflated data set, inflated
    most_fragments: int = 1 << 22  # of one Pixel Data element; also the most frames of one image
    most_elements: int = 1 << 20  # of one data set or sequence item

    def refusal(self, what: str, key: str) -> str:
        """Why `what`, which exceeds the ceiling `key`, is refused."""
        return f"{what}: the ceiling is {getattr(self, key)}; if it is sound, raise [worker] {key}"

    def check_ratio(self, what: str, size: int, coded: int) -> None:
        """Check the ratio of `what`: `size` bytes that are said to be in `coded` ones.

        Raises:
            Permanent: it is over `largest_ratio`.
        """
        if size > max(_HARMLESS, coded * self.largest_ratio):
            words = f"{what} of {size} bytes is said to be in {coded}"
            raise Permanent(self.refusal(words, "largest_ratio"))
