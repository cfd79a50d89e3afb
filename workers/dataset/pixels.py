"""The frames of a Pixel Data element by their numbers, as native cells, little endian, colour by pixel.

Native pixel data is read frame by frame from disk; encapsulated pixel data is split into frames and decoded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from dicomferry.ceilings import Ceilings
from dicomferry.dicom.elements import Element
from dicomferry.errors import Permanent, Unsuitable
from workers import limits
from workers.codecs import boundaries, decoders
from workers.codecs.image import YBR, YBR_422, Decoded, Image
from workers.dataset.frames import Fragments, contradiction, split
from workers.dataset.source import Source

R = TypeVar("R")

# How many of six samples (two pixels) native pixel data hold where pixels share colours.
_SAMPLES_OF_SIX = {YBR_422: 4, "YBR_PARTIAL_422": 4, "YBR_PARTIAL_420": 3}


@dataclass(frozen=True, slots=True)
class Frames(Generic[R]):
    """The frames of an image: `read` gives each by its number, from 0, in any order and in any process."""

    count: int
    read: Callable[[int], R]


def codestreams(
    source: Source,
    elements: Mapping[int, Element],
    image: Image,
    transfer_syntax_uid: str,
    *,
    ceilings: Ceilings,
    note: Callable[..., None],
) -> Frames[tuple[bytes, int]]:
    """The codestream of each frame of the encapsulated pixel data among `elements` that `image` describes.

    Behind each stands how many bytes behind it were left out. `note` is told what the offset tables say
    wrongly.

    Raises:
        Permanent: the fragments are damaged, hold another number of codestreams, or the image is over a
            ceiling; as for a frame, when it is read.
    """
    _check_ceilings(image, ceilings)
    uid = transfer_syntax_uid
    parts = split(source.view, elements, image.frames, ceilings, uid)
    note(*parts.notes)
    coded = sum(fragment.length for fragments in parts.frames for fragment in fragments)
    ceilings.check_ratio("an image", image.native_length, coded)

    def joined(fragments: Fragments) -> bytes:
        return b"".join([source.read(fragment.value, fragment.stop) for fragment in fragments])

    def read(number: int) -> tuple[bytes, int]:
        codestream = joined(parts.frames[number])
        if boundaries.count(uid, codestream) > 1:
            total = 0
            for each in parts.frames:
                total += boundaries.count(uid, joined(each))
                limits.begin_step(image.frame_length)
            raise Permanent(contradiction(image.frames, total, uid))
        ceilings.check_ratio("a frame", image.frame_length, len(codestream))
        return codestream, boundaries.surplus(uid, codestream)

    return Frames(len(parts.frames), read)


def surplus_note(surplus: int) -> tuple[str, ...]:
    """What is to be noted of that many bytes behind the codestreams of an image."""
    return (f"{surplus} bytes behind codestreams were left out",) if surplus else ()


def decoded(
    source: Source,
    elements: Mapping[int, Element],
    image: Image,
    transfer_syntax_uid: str,
    *,
    rgb: bool,
    ceilings: Ceilings,
    note: Callable[..., None],
) -> Frames[Decoded]:
    """Decode the frames of encapsulated pixel data. `rgb` lets decoders convert YCbCr.

    Raises:
        Permanent: as `codestreams`, or a frame is damaged.
    """
    found = codestreams(source, elements, image, transfer_syntax_uid, ceilings=ceilings, note=note)

    def read(number: int) -> Decoded:
        codestream, surplus = found.read(number)
        frame = decoders.decode(transfer_syntax_uid, codestream, image, rgb=rgb)
        return replace(frame, surplus=surplus) if surplus else frame

    return Frames(found.count, read)


def native(
    source: Source, pixel_data: Element, image: Image, *, planar: bool, big: bool, ceilings: Ceilings
) -> Frames[Decoded]:
    """The frames of native pixel data.

    `planar`: Planar Configuration 1, colour by plane. `big`: the data set is big endian. Cells of one bit
    stay packed in bytes, the first pixel in the least significant bit.

    Raises:
        Unsuitable: only native transfer syntaxes hold such cells.
        Permanent: there are fewer bytes than the attributes say, or the image is over a ceiling.
    """
    _check_decodable(image)
    _check_ceilings(image, ceilings)
    present = pixel_data.length * 8
    subsampled = _is_subsampled(image, present)
    bits = checked_frame_bits(pixel_data, image)
    # OW is words of 16 bits, whatever their content (PS3.5 A.3, 7.3).
    swapped = big and pixel_data.vr == b"OW"
    needed = (bits * image.frames + 7) // 8
    excess = pixel_data.length - needed
    notes: tuple[str, ...] = ()
    if excess > needed % 2:  # more than what pads it to even length (PS3.5 8.1.1)
        notes = (f"{excess} byte{'s were' if excess > 1 else ' was'} left out after the last frame",)

    def read(number: int) -> Decoded:
        content = _bits(source, pixel_data, number * bits, bits, swapped=swapped)
        return replace(_cells(content, image, planar=planar, subsampled=subsampled), notes=notes)

    return Frames(image.frames, read)


def checked_frame_bits(pixel_data: Element, image: Image) -> int:
    """Bits of one frame of native pixel data, checked against the length of Pixel Data.

    A few bytes of padding are accepted, a surplus frame is not: it would be lost silently.

    Raises:
        Permanent: there are fewer bytes than the attributes say, or a frame more.
    """
    if not image.frame_bits:
        raise Permanent("there are pixel data, and Rows, Columns, Samples per Pixel or Bits Allocated is 0")
    if image.bits_stored > image.bits_allocated:
        raise Permanent(f"{image.bits_stored} bits cannot be stored in {image.bits_allocated} (PS3.5 8.1.1)")
    present = pixel_data.length * 8
    bits = image.frame_bits
    if _is_subsampled(image, present):
        bits = bits * _SAMPLES_OF_SIX[image.photometric] // 6
    if bits * image.frames > present:
        raise Permanent(
            f"native pixel data has {pixel_data.length} bytes where {(bits * image.frames + 7) // 8} should "
            "be: it is truncated, or its attributes are wrong"
        )
    excess = present - bits * image.frames
    if excess >= max(bits, 16):
        raise Permanent(
            f"native pixel data has {pixel_data.length} bytes, at least a frame more than the {image.frames} "
            "that the attributes speak of: they are wrong"
        )
    return bits


def _check_decodable(image: Image) -> None:
    if not (image.rows and image.columns and image.samples in (1, 3)):
        raise Unsuitable(
            f"no image has {image.rows} rows, {image.columns} columns and {image.samples} samples"
        )
    if image.bits_allocated not in (1, 8, 16, 32, 64):
        raise Unsuitable(f"cells of {image.bits_allocated} bits stay native (PS3.5 8.1.1)")
    if image.photometric.startswith("YBR_PARTIAL"):
        raise Unsuitable(f"{image.photometric}, retired, stays native")


def _check_ceilings(image: Image, ceilings: Ceilings) -> None:
    """Refuse an image larger than the ceilings, before memory is allocated for it."""
    if image.frame_length > ceilings.largest_frame_mb << 20:
        raise Permanent(ceilings.refusal(f"a frame has {image.frame_length} bytes", "largest_frame_mb"))
    if image.native_length > ceilings.largest_image_mb << 20:
        raise Permanent(ceilings.refusal(f"an image has {image.native_length} bytes", "largest_image_mb"))
    if image.frames > ceilings.most_fragments:
        raise Permanent(ceilings.refusal(f"an image has {image.frames} frames", "most_fragments"))


def _is_subsampled(image: Image, present: int) -> bool:
    """Whether pixels share colours, by name and by length: some files say so and hold every sample."""
    return (
        image.photometric in _SAMPLES_OF_SIX
        and image.samples == 3
        and present < image.frame_bits * image.frames
    )


def _bits(source: Source, pixel_data: Element, start: int, count: int, *, swapped: bool) -> bytes:
    """`count` bits from bit `start`; the last byte is filled up with zeros."""
    first, last = start // 8, (start + count + 7) // 8
    begin, stop = first - first % 2, min(last + last % 2, pixel_data.length)
    content = source.read(pixel_data.value + begin, pixel_data.value + stop)
    if swapped:
        if len(content) % 2:
            raise Permanent("big endian pixel data of odd length: it is damaged")
        content = np.frombuffer(content, ">u2").astype("<u2").tobytes()
    content = content[first - begin : last - begin]
    if start % 8 == 0 and count % 8 == 0:
        return content
    bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    return np.packbits(bits[start % 8 : start % 8 + count], bitorder="little").tobytes()


def _cells(content: bytes, image: Image, *, planar: bool, subsampled: bool) -> Decoded:
    if image.bits_allocated == 1:
        return Decoded(np.frombuffer(content, np.uint8), image.photometric)
    cells = np.frombuffer(content, f"<{'i' if image.signed else 'u'}{image.bits_allocated // 8}")
    if image.samples == 1:
        return Decoded(cells.reshape(image.rows, image.columns), image.photometric)
    if subsampled:
        return Decoded(_upsampled(cells, image), YBR)
    colour = YBR if image.photometric == YBR_422 else image.photometric
    if planar:
        # Copied: numpy calls any strides of a single pixel contiguous; imagecodecs does not.
        return Decoded(np.moveaxis(cells.reshape(3, image.rows, image.columns), 0, -1).copy(), colour)
    return Decoded(cells.reshape(image.rows, image.columns, 3), colour)


def _upsampled(cells: np.ndarray, image: Image) -> np.ndarray:
    """4:2:2 to 4:4:4, lossless: both pixels of a pair get the colour that they shared."""
    if image.columns % 2:
        raise Permanent("YBR_FULL_422 with an odd number of columns (PS3.3 C.7.6.3.1.2)")
    pairs = cells.reshape(image.rows, image.columns // 2, 4)
    pixels = np.empty((image.rows, image.columns // 2, 2, 3), cells.dtype)
    pixels[..., 0] = pairs[..., :2]
    pixels[..., 1:] = pairs[..., None, 2:]
    return pixels.reshape(image.rows, image.columns, 3)
