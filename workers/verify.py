"""The proof of a rendition: its frames are decoded back and compared with what went into the encoder.

They are decoded by another library than the encoder's, where there is one. The digest of the pixels is taken
over canonical cells: little endian, colour by pixel, only the bits of the values. So it is the same in every
transfer syntax.
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
from dicomferry.dicom.elements import EXPLICIT, EXPLICIT_BIG, IMPLICIT, PIXEL_DATA, Element, elements
from dicomferry.dicom.part10 import meta_of
from dicomferry.dicom.syntaxes import BY_UID, DEFLATED_LE, EXPLICIT_BE, IMPLICIT_LE, label
from dicomferry.errors import Permanent
from dicomferry.spool.digests import Digest, digest_of
from workers import limits
from workers.codecs.image import Image
from workers.codecs.proof_decoders import proof_decoder
from workers.dataset.frames import split
from workers.dataset.source import Source

SCHEMA = 1
ONE_IN = 16  # of "sampled"
# They carry every bit of a cell (PS3.5 annex G, A.4.13): the bits beside the value must not be lost either.
_WHOLE_CELLS = frozenset(("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"))
_BLOCK = 1 << 20  # samples compared at once: comparing a frame must not cost the memory of several


class VerificationFailed(Permanent):
    """A rendition differs from its source: an encoder or a decoder is wrong, so it must not be sent."""


def is_chosen(setting: str, identity: str) -> bool:
    """Whether to verify a rendition; of "sampled" one in 16, the same ones each time.

    `identity` is a text that names the instance, such as its UID.
    """
    if setting == "sampled":
        return hashlib.blake2b(identity.encode(), digest_size=1).digest()[0] % ONE_IN == 0
    return setting == "always"


@dataclass(frozen=True, slots=True)
class Findings:
    """What a helper found about one frame, as `Proof` adds it up."""

    written: tuple[int, int]
    max_error: int
    squares: float
    after: np.ndarray | None  # the frame as it was decoded back, where it may differ


@dataclass
class Proof:
    """What was found about one Pixel Data element while its rendition in `uid` was made.

    For each frame in order, call `check_encoded`; or, if the rendition is native, `add_native` and then
    `add_written` with its bytes. `near` is the largest error that a sample of JPEG-LS may have.
    """

    uid: str
    near: int | None = None
    frames: int = 0
    written: list[tuple[int, int]] = field(default_factory=list)  # length and CRC of what was written
    max_error: int = 0  # of a sample; lossy targets only
    _before: Digest = field(default_factory=Digest)
    _after: Digest = field(default_factory=Digest)
    _squares: float = 0.0
    _samples: int = 0
    _range: int = 0
    digests: bool = True  # whether to take them

    @property
    def digest(self) -> str:
        """The digest of the source's pixels."""
        return str(self._before)

    @property
    def lossless(self) -> bool:
        """Whether the target is always lossless."""
        return BY_UID[self.uid].lossless

    def examine(self, cells: np.ndarray, image: Image, codestream: bytes) -> Findings:
        """Check a frame as `check_encoded` does, elsewhere and before its turn; pure.

        Raises:
            VerificationFailed: they differ by more than the target allows.
        """
        part = Proof(self.uid, self.near, digests=False)
        found = part.check_encoded(cells, image, codestream)
        return Findings(part.written[0], part.max_error, part._squares, None if self.lossless else found)

    def check_encoded(
        self, cells: np.ndarray, image: Image, codestream: bytes, findings: Findings | None = None
    ) -> np.ndarray:
        """Decode `codestream` back and compare it with the `cells` that were encoded; `image` describes them.

        With `findings` that was done already. Returns what was decoded.

        Raises:
            VerificationFailed: they differ by more than the target allows.
        """
        if findings is not None:
            return self._add_findings(cells, image, findings)
        self.frames += 1
        self.add_written(codestream)
        decoder = proof_decoder(self.uid)
        try:
            found = decoder.decode(codestream, image)
        except (Permanent, RuntimeError, ValueError, IndexError, struct.error) as error:
            raise self._failed(f"cannot be decoded by {decoder.library}: {str(error)[:200]}") from error
        if image.bits_allocated == 1 and found.size == image.rows * image.columns:
            found = np.packbits(found.astype(np.uint8).ravel(), bitorder="little")  # as `cells` are
        if found.size != cells.size or found.shape[:2] != cells.shape[:2]:
            raise self._failed(f"is {found.shape} for {decoder.library} and was {cells.shape}")
        self._compare(cells, found, image)
        if self.uid in _WHOLE_CELLS and not np.array_equal(
            _unsigned(cells, image), _unsigned(found.reshape(cells.shape), image)
        ):
            raise self._failed("differs in bits beside the values")
        return found

    def _add_findings(self, cells: np.ndarray, image: Image, findings: Findings) -> np.ndarray:
        self.frames += 1
        self.written.append(findings.written)
        for digest, frame in ((self._before, cells), (self._after, findings.after)):
            for block in _blocks(frame.reshape(cells.shape), image) if frame is not None else ():
                digest.update(_bytes(block))
        self._add_errors(cells, image, findings.max_error, findings.squares)
        return cells if findings.after is None else findings.after

    def add_native(self, cells: np.ndarray, image: Image) -> None:
        """Add a frame of a native rendition; `image` describes its `cells`."""
        self.frames += 1
        self._before.update(_bytes(_canonical(cells, image)))

    def add_written(self, content: bytes | memoryview) -> None:
        """Add bytes that are written to the file: a codestream, or a piece of native pixel data."""
        self.written.append((len(content), deflate_crc32(content)))  # type: ignore[arg-type]  # any buffer

    def _compare(self, cells: np.ndarray, found: np.ndarray, image: Image) -> None:
        wrong, worst = 0, 0
        squares, total, total_squares = 0.0, 0.0, 0.0
        pairs = zip(_blocks(cells, image), _blocks(found.reshape(cells.shape), image), strict=True)
        for before, after in pairs:
            if self.digests:
                self._before.update(_bytes(before))
            if self.lossless and np.array_equal(before, after):
                continue
            if self.digests:
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
        top = (1 << image.bits_stored) - 1
        variance = max(0.0, total_squares / cells.size - (total / cells.size) ** 2)
        # The mean square error of an unrelated image is twice the variance, of a plain grey one the variance.
        if squares / cells.size > 1.5 * variance + (top / 50) ** 2:
            raise self._failed(f"does not resemble what was encoded: it is off by up to {worst}")
        self._add_errors(cells, image, worst, squares)

    def _add_errors(self, cells: np.ndarray, image: Image, worst: int, squares: float) -> None:
        self._range = (1 << image.bits_stored) - 1
        self.max_error = max(self.max_error, worst)
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
        """The result in words."""
        if BY_UID[self.uid].native:
            return "verified: the file holds what was decoded"
        by = f"decoded back by {proof_decoder(self.uid).library}"
        if self.lossless or not self.max_error:
            return f"verified: {by}, pixels equal"
        return f"verified: {by}, off by at most {self.max_error}" + (
            f", PSNR {self.psnr} dB" if self.psnr else ""
        )

    def record(self) -> dict[str, Any]:
        """The record for the rendition's File Meta Information: digests before and after, codecs, errors."""
        row = BY_UID[self.uid]
        return {
            "schema": SCHEMA,
            "transfer_syntax_uid": self.uid,
            "frames": self.frames,
            "digest_before": self.digest,
            # A lossless rendition with another digest was refused.
            "digest_after": self.digest if self.lossless else str(self._after),
            "encoder": getattr(row, "encoder", ""),
            "decoder": "" if row.native else proof_decoder(self.uid).library,
            "max_error": self.max_error,
            "psnr": self.psnr,
            "verified": self.words,
        }


def _blocks(cells: np.ndarray, image: Image) -> Iterator[np.ndarray]:
    """Canonical cells, some rows at a time."""
    step = max(1, _BLOCK // max(1, cells[:1].size))
    for row in range(0, cells.shape[0], step):
        yield _canonical(cells[row : row + step], image)


def _canonical(cells: np.ndarray, image: Image) -> np.ndarray:
    """Little endian unsigned cells of Bits Allocated, without the bits outside of the value."""
    if image.bits_allocated < 8:  # packed already
        return np.ascontiguousarray(cells)
    plain = _unsigned(cells, image)
    if not image.has_field:  # any bit may be one of the value
        return plain
    if below := image.high_bit + 1 - image.bits_stored:
        plain = plain >> np.array(below, plain.dtype)
    if image.bits_stored < image.bits_allocated:
        plain = plain & np.array((1 << image.bits_stored) - 1, plain.dtype)
    return plain


def _bytes(cells: np.ndarray) -> memoryview:
    """The bytes of contiguous cells."""
    return cells.reshape(-1).view(np.uint8).data


def _unsigned(cells: np.ndarray, image: Image) -> np.ndarray:
    """Little endian unsigned cells, with all their bits."""
    if image.bits_allocated < 8:
        return cells
    return np.ascontiguousarray(cells).astype(f"<u{image.bits_allocated // 8}", copy=False)


def _numbers(canonical: np.ndarray, image: Image) -> np.ndarray:
    """The values of canonical cells, signed if the image is."""
    numbers = canonical.astype(np.int64)
    if image.signed:
        sign = 1 << image.bits_stored - 1
        numbers = (numbers ^ sign) - sign
    return numbers


def digest(cells: np.ndarray, image: Image) -> str:
    """The digest of an image of this one frame, as a proof takes it."""
    return digest_of(_bytes(_canonical(cells, image)))


def check_file(file: IO[bytes], proof: Proof) -> None:
    """Compare the Pixel Data in the written `file` with what `proof` was given.

    A deflated data set is not read back. The caller has flushed `file`.

    Raises:
        VerificationFailed: the file holds other pixel data.
    """
    descriptor = file.fileno()
    meta = meta_of(descriptor, "the rendition")
    if meta.transfer_syntax_uid == DEFLATED_LE:
        return
    encoding = IMPLICIT if meta.transfer_syntax_uid == IMPLICIT_LE else EXPLICIT
    encoding = EXPLICIT_BIG if meta.transfer_syntax_uid == EXPLICIT_BE else encoding
    with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as view:
        limits.begin_step(len(view))
        view.madvise(mmap.MADV_RANDOM)  # only headers are read through it, pixels through Source
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
    parts = split(source.view, {PIXEL_DATA: pixel_data}, len(proof.written), ours)
    for (length, _), fragments in zip(proof.written, parts.frames, strict=True):
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
