"""The proof of a rendition: its frames are decoded back and compared with what went into the encoder.

Where there is one, by another library than the encoder's. The digest of the pixels is taken over canonical
cells: little endian, colour by pixel, the bits of the values alone, so that it is the same whatever syntax
the pixels were or are in.
"""

import hashlib
import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from imagecodecs import deflate_crc32  # libdeflate's: a tenth of the time that zlib takes

from dicomferry.ceilings import Ceilings
from dicomferry.dicom.part10 import meta_of
from dicomferry.dicom.syntaxes import BY_UID, DEFLATED_LE, EXPLICIT_BE, IMPLICIT_LE, label
from dicomferry.errors import Permanent
from dicomferry.spool.digests import Digest, digest_of
from workers import limits
from workers.codecs.image import Image
from workers.codecs.readers import reader_of
from workers.dataset.elements import EXPLICIT, EXPLICIT_BIG, IMPLICIT, PIXEL_DATA, Element, elements
from workers.dataset.frames import split
from workers.dataset.source import Source

SCHEMA = 1
ONE_IN = 16  # of "sampled"
# PS3.5 annex G and A.4: they hold every bit of a cell, and what stands beside the value must not be lost.
_WHOLE_CELLS = frozenset(("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"))
_BLOCK = 1 << 20  # samples compared at once: a frame's comparison must not cost several frames of memory


class VerificationFailed(Permanent):
    """A rendition is not what went into it: an encoder (or a decoder) is wrong, so it must not be sent."""


def is_chosen(setting: str, identity: str) -> bool:
    """Whether a rendition is to be verified; of "sampled" one in 16, the same ones each time.

    `identity` is an instance's id or any other text that names what is made.
    """
    if setting == "sampled":
        return hashlib.blake2b(identity.encode(), digest_size=1).digest()[0] % ONE_IN == 0
    return setting == "always"


@dataclass
class Proof:
    """What was seen of one Pixel Data element while its rendition in `uid` was made.

    Each frame is told in order: by `encoded`, or where it stays native by `decoded`, and then its bytes by
    `wrote`. `near` is how far a sample of JPEG-LS may be off.
    """

    uid: str
    near: int | None = None
    frames: int = 0
    written: list[tuple[int, int]] = field(default_factory=list)  # length and CRC of what was written
    worst: int = 0  # largest error of a sample; of lossy targets alone
    _before: Digest = field(default_factory=Digest)
    _after: Digest = field(default_factory=Digest)
    _squares: float = 0.0
    _samples: int = 0
    _range: int = 0

    @property
    def digest(self) -> str:
        """Of the pixels that went in."""
        return str(self._before)

    @property
    def lossless(self) -> bool:
        """Whether the target's syntax can be nothing else."""
        return BY_UID[self.uid].lossless

    def encoded(self, cells: np.ndarray, image: Image, codestream: bytes) -> None:
        """Decode `codestream` back and hold it against the `cells` that were encoded; `image` describes them.

        Raises:
            VerificationFailed: they are not what they should be.
        """
        self.frames += 1
        self.wrote(codestream)
        reader = reader_of(self.uid)
        try:
            found = reader.read(codestream, image)
        except (Permanent, RuntimeError, ValueError, IndexError, struct.error) as error:
            raise self._failed(f"cannot be decoded by {reader.library}: {str(error)[:200]}") from error
        if image.bits_allocated == 1 and found.size == image.rows * image.columns:
            found = np.packbits(found.astype(np.uint8).ravel(), bitorder="little")  # as `cells` are
        if found.size != cells.size or found.shape[:2] != cells.shape[:2]:
            raise self._failed(f"is {found.shape} for {reader.library} and was {cells.shape}")
        self._compare(cells, found, image)
        if self.uid in _WHOLE_CELLS and not np.array_equal(
            _whole(cells, image), _whole(found.reshape(cells.shape), image)
        ):
            raise self._failed("differs in bits beside the values")

    def decoded(self, cells: np.ndarray, image: Image) -> None:
        """Take note of a frame that stays native; `image` describes its `cells`."""
        self.frames += 1
        self._before.update(_bytes(_canonical(cells, image)))

    def wrote(self, content: bytes | memoryview) -> None:
        """Take note of bytes that are written: a codestream, or some of native pixel data."""
        self.written.append((len(content), deflate_crc32(content)))  # type: ignore[arg-type]  # any buffer

    def _compare(self, cells: np.ndarray, found: np.ndarray, image: Image) -> None:
        wrong, worst = 0, 0
        squares, total, total_squares = 0.0, 0.0, 0.0
        for before, after in _blocks(cells, found, image):
            self._before.update(_bytes(before))
            if self.lossless and np.array_equal(before, after):
                continue
            self._after.update(_bytes(after))
            numbers = _numbers(before, image)
            error = np.abs(numbers - _numbers(after, image))
            wrong += int(np.count_nonzero(error))
            worst = max(worst, int(error.max(initial=0)))
            squares += float(np.square(error, dtype=np.float64).sum())
            total += float(numbers.sum(dtype=np.float64))
            total_squares += float(np.square(numbers, dtype=np.float64).sum())
        if self.lossless and wrong:
            raise self._failed(f"differs in {wrong} of {cells.size} samples, by up to {worst}")
        if self.near is not None and worst > self.near:
            raise self._failed(f"is off by up to {worst}, though at most {self.near} was asked for")
        self._range = (1 << image.bits_stored) - 1
        variance = max(0.0, total_squares / cells.size - (total / cells.size) ** 2)
        # Any other image of the same kind would be off by twice the variance, a plain grey one by once.
        if squares / cells.size > 1.5 * variance + (self._range / 50) ** 2:
            raise self._failed(f"does not resemble what was encoded: it is off by up to {worst}")
        self.worst = max(self.worst, worst)
        self._squares += squares
        self._samples += cells.size

    def _failed(self, what: str) -> VerificationFailed:
        return VerificationFailed(f"verification failed: frame {self.frames} as {label(self.uid)} {what}")

    @property
    def psnr(self) -> float | None:
        """Peak signal to noise ratio in dB; None where there is no error."""
        if not self._squares:
            return None
        return round(10 * math.log10(self._range**2 * self._samples / self._squares), 2)

    @property
    def words(self) -> str:
        """What was found, for people."""
        if BY_UID[self.uid].native:
            return "verified: the file holds what was decoded"
        by = f"decoded back by {reader_of(self.uid).library}"
        if self.lossless or not self.worst:
            return f"verified: {by}, pixels equal"
        return f"verified: {by}, off by at most {self.worst}" + (
            f", PSNR {self.psnr} dB" if self.psnr else ""
        )

    def record(self) -> dict[str, Any]:
        """What stands beside the rendition: digests before and after, and who says so."""
        row = BY_UID[self.uid]
        return {
            "schema": SCHEMA,
            "transfer_syntax_uid": self.uid,
            "frames": self.frames,
            "digest_before": self.digest,
            # Of what is lossless, anything else has ended the rendition.
            "digest_after": self.digest if self.lossless else str(self._after),
            "encoder": getattr(row, "encoder", ""),
            "decoder": "" if row.native else reader_of(self.uid).library,
            "max_error": self.worst,
            "psnr": self.psnr,
            "verified": self.words,
        }


def _blocks(cells: np.ndarray, found: np.ndarray, image: Image) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both as canonical cells, some rows at a time."""
    found = found.reshape(cells.shape)
    step = max(1, _BLOCK // max(1, cells[:1].size))
    for row in range(0, cells.shape[0], step):
        rows = slice(row, row + step)
        yield _canonical(cells[rows], image), _canonical(found[rows], image)


def _canonical(cells: np.ndarray, image: Image) -> np.ndarray:
    """Little endian unsigned cells of Bits Allocated without the bits that are no part of the value."""
    if image.bits_allocated < 8:  # packed already
        return np.ascontiguousarray(cells)
    plain = _whole(cells, image)
    if below := image.high_bit + 1 - image.bits_stored:
        plain = plain >> np.array(below, plain.dtype)
    if image.bits_stored < image.bits_allocated:
        plain = plain & np.array((1 << image.bits_stored) - 1, plain.dtype)
    return plain


def _bytes(cells: np.ndarray) -> memoryview:
    """Contiguous cells as the bytes that they are."""
    return cells.reshape(-1).view(np.uint8).data


def _whole(cells: np.ndarray, image: Image) -> np.ndarray:
    """Little endian unsigned cells, with every bit that stands in them."""
    if image.bits_allocated < 8:
        return cells
    return np.ascontiguousarray(cells).astype(f"<u{image.bits_allocated // 8}", copy=False)


def _numbers(canonical: np.ndarray, image: Image) -> np.ndarray:
    """The values that canonical cells stand for."""
    numbers = canonical.astype(np.int64)
    if image.signed:
        sign = 1 << image.bits_stored - 1
        numbers = (numbers ^ sign) - sign
    return numbers


def digest(cells: np.ndarray, image: Image) -> str:
    """The digest that a proof has of an image of this one frame."""
    return digest_of(_bytes(_canonical(cells, image)))


def check_file(file: IO[bytes], proof: Proof) -> None:
    """Read the Pixel Data of the file that was written and hold it against what `proof` saw.

    A deflated data set is not read back. Every byte of `file` is with the kernel.

    Raises:
        VerificationFailed: the file does not hold those frames.
    """
    descriptor = file.fileno()
    meta = meta_of(descriptor, "the rendition")
    if meta.transfer_syntax_uid == DEFLATED_LE:
        return
    encoding = IMPLICIT if meta.transfer_syntax_uid == IMPLICIT_LE else EXPLICIT
    encoding = EXPLICIT_BIG if meta.transfer_syntax_uid == EXPLICIT_BE else encoding
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as view:
        limits.begin_step(len(view))
        view.madvise(mmap.MADV_RANDOM)  # headers alone are read through it, pixels by Source
        try:
            listed = elements(view, meta.offset, len(view), encoding)
            pixel_data = next(element for element in listed if element.tag == PIXEL_DATA)
            read = _fragments if pixel_data.undefined else _native
            found = list(read(Source(view, descriptor), pixel_data, proof))
        except (StopIteration, Permanent) as error:
            raise VerificationFailed(f"verification failed: the file cannot be read back: {error}") from error
    if found != proof.written:
        raise VerificationFailed("verification failed: the pixel data in the file is not what was written")


def _fragments(source: Source, pixel_data: Element, proof: Proof) -> Iterator[tuple[int, int]]:
    """Length and CRC of each frame's codestream."""
    ours = Ceilings(most_fragments=len(proof.written))  # one fragment a frame
    parts = split(source.view, pixel_data, len(proof.written), ours)
    for (length, _), fragments in zip(proof.written, parts, strict=True):
        content = b"".join([source.read(fragment.value, fragment.stop) for fragment in fragments])
        if len(content) == length + length % 2:  # padded to even length (PS3.5 A.4)
            content = content[:length]
        yield len(content), deflate_crc32(content)


def _native(source: Source, pixel_data: Element, proof: Proof) -> Iterator[tuple[int, int]]:
    """Length and CRC of each piece of native pixel data."""
    at = pixel_data.value
    for length, _ in proof.written:
        crc = 0
        for chunk in source.chunks(at, min(at + length, pixel_data.stop)):
            crc = deflate_crc32(chunk, crc)
        yield min(length, pixel_data.stop - at), crc
        at += length
