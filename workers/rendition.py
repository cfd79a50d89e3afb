"""One rendition in the making: its source, its target, and what its native and encapsulated forms share."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

from dicomferry.ceilings import Ceilings
from dicomferry.dicom import syntaxes
from dicomferry.dicom.elements import PIXEL_DATA, Element
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from dicomferry.spool.seats import Seats
from workers import limits
from workers.codecs.encoders import Quality
from workers.codecs.image import Decoded, Image
from workers.crew import Crew, Work
from workers.dataset import attributes, lossy, pixels
from workers.dataset.received import Received
from workers.dataset.replacement import PixelContext
from workers.dataset.scratch import ScratchFile
from workers.dataset.stored import StoredBits
from workers.room import Claim
from workers.verify import Proof

R = TypeVar("R")
S = TypeVar("S")


@dataclass(slots=True)
class Rendition:
    """One rendition in the making."""

    received: Received
    target_syntax: syntaxes.Syntax
    spec: RenditionSpec
    folder: Path  # of scratch files
    ceilings: Ceilings
    verified: bool
    claim: Claim  # on the disk
    seats: Seats | None  # where helpers may do some of the frames
    # By offset of its pixel data: the High Bit that an image's values need, as an attempt before this found.
    high_bits: Mapping[int, int]
    out: BinaryIO | None = None  # its file, where that takes the pixels as they are made
    cleanup: ExitStack = field(default_factory=ExitStack)  # closes scratch files
    found_high_bits: dict[int, int] = field(default_factory=dict)  # the same, found in this attempt
    notes: dict[str, None] = field(default_factory=dict)  # an ordered set
    proof: Proof | None = None  # of the image's pixels, if they were encoded or decoded

    @property
    def source_syntax(self) -> syntaxes.Syntax:
        """The transfer syntax of the instance received.

        Raises:
            Permanent: it cannot be decoded, and nothing can be made without that.
        """
        uid = self.received.meta.transfer_syntax_uid
        syntax = syntaxes.BY_UID.get(uid)
        if syntax is None or not (syntax.decoded or self.recompresses):
            raise Permanent(
                f"workers cannot decode {syntaxes.label(uid)}: it passes through unchanged or is parked"
            )
        return syntax

    @property
    def same(self) -> bool:
        """Whether the instance is in the target's syntax already, so that no codec runs."""
        return self.received.meta.transfer_syntax_uid == self.target_syntax.uid

    @property
    def recompresses(self) -> bool:
        """Whether a JPEG becomes its JPEG XL form or is restored from it (PS3.5 8.2.15)."""
        return syntaxes.is_recompression(self.received.meta.transfer_syntax_uid, self.target_syntax.uid)

    @property
    def loses(self) -> bool:
        """Whether pixel values may change, so that the rendition is another instance."""
        return self.target_syntax.uid in lossy.METHODS and not (self.same or self.recompresses)

    @property
    def quality(self) -> Quality:
        """The parameters of a lossy encoder."""
        default, spec = Quality(), self.spec
        return Quality(
            quality=default.quality if spec.quality is None else spec.quality,
            ratio=default.ratio if spec.ratio is None else spec.ratio,
            near=default.near if spec.near is None else spec.near,
        )

    def note(self, *texts: str) -> None:
        """Add notes for the report; a repeated one counts once."""
        self.notes.update(dict.fromkeys(texts))

    def start_proof(self, near: int | None = None) -> Proof | None:
        """Return a new proof of the image's pixels; None if the rendition is not verified."""
        if self.verified:
            self.proof = Proof(self.target_syntax.uid, near)
        return self.proof

    def scratch_file(self) -> ScratchFile:
        """A new file that is closed with the rendition."""
        file = ScratchFile(self.folder, self.claim.grow)
        self.cleanup.callback(file.close)
        return file

    def describe(self, context: PixelContext) -> Image:
        """The image that its attributes describe, corrected where they deny some of its values."""
        image = attributes.describe(context.values)
        if not image.has_field:
            self.note(
                f"{image.bits_stored} bits stored up to bit {image.high_bit} of {image.bits_allocated} "
                "contradict each other (PS3.5 8.1.1): cells were kept as they are"
            )
        high_bit = self.high_bits.get(_place(context))
        if high_bit is None:
            return image
        stored = image.bits_stored + high_bit - image.high_bit
        self.note(f"there are values of {stored} bits: Bits Stored said {image.bits_stored}")
        return replace(image, bits_stored=stored, high_bit=high_bit)

    def frames(
        self,
        context: PixelContext,
        image: Image,
        *,
        rgb: bool,
        uid: str | None = None,
        finish: Callable[[Decoded], S] | None = None,
    ) -> Iterator[tuple[Decoded, S | None]]:
        """The frames of a data set's pixel data as native cells; each is a step of limited time.

        `rgb` lets decoders convert YCbCr. `uid` is the syntax of codestreams, if not the instance's. From the
        first frame on whose values do not fit Bits Stored they are only measured: then `misfits`, and this
        attempt is in vain. What `finish` made of a frame comes with it where a helper did that already.

        Raises:
            Permanent: a frame is damaged or missing, or its colour differs from the first, or the image is
                over a ceiling.
        """
        limits.extend(image.native_length)
        limits.begin_step(image.frame_length)
        stored, place = StoredBits(image, context.values), _place(context)
        colour, surplus = None, 0
        found = self._decoded(context.elements, image, rgb, uid)

        def unless_in_vain(decoded: Decoded) -> S | None:
            return finish(decoded) if finish is not None and not self.misfits(context) else None

        spread = self.spread(found, image, unless_in_vain if finish is not None else None)
        for number, (decoded, finished) in enumerate(spread, 1):
            colour = colour or decoded.colour
            if decoded.colour != colour:
                raise Permanent(f"frame {number} is {decoded.colour}, those before it are {colour}")
            limits.begin_step(image.frame_length)
            surplus += decoded.surplus
            self.note(*decoded.notes)
            high_bit = stored.high_bit(decoded.samples)
            if high_bit > image.high_bit and not stored.can_grow(high_bit):
                self.note(f"bits above the {image.bits_stored} stored belong to no overlay, and were kept")
            elif high_bit > image.high_bit:
                self.found_high_bits[place] = max(high_bit, self.found_high_bits.get(place, 0))
            if not self.misfits(context):
                yield decoded, finished
        self.note(*pixels.surplus_note(surplus))

    def spread(
        self, frames: pixels.Frames[R], image: Image, finish: Callable[[R], S | None] | None = None
    ) -> Iterator[tuple[R, S | None]]:
        """Read all frames in order, some by helpers, which also `finish` theirs; see `crew`."""
        descriptor = self.received.source.descriptor
        work = Work(frames.count, image.frame_length, frames.read, finish, descriptor)
        crew = Crew(work, self.seats, self.ceilings.memory_mb)
        self.cleanup.callback(crew.end)
        for number in range(frames.count):
            made, finished = crew.frame(number)
            began = time.monotonic()
            yield made, finished
            if finish is not None and finished is None:
                crew.finished(time.monotonic() - began)
        crew.end()

    def misfits(self, context: PixelContext) -> bool:
        """Whether values were found that Bits Stored denies."""
        return _place(context) in self.found_high_bits

    def _decoded(
        self, elements: Mapping[int, Element], image: Image, rgb: bool, uid: str | None
    ) -> pixels.Frames[Decoded]:
        received, ceilings = self.received, self.ceilings
        pixel_data = elements[PIXEL_DATA]
        if not pixel_data.undefined:
            planar, big = image.planar == 1, received.encoding.big
            return pixels.native(
                received.source, pixel_data, image, planar=planar, big=big, ceilings=ceilings
            )
        uid = uid or received.meta.transfer_syntax_uid
        return pixels.decoded(
            received.source, elements, image, uid, rgb=rgb, ceilings=ceilings, note=self.note
        )


def _place(context: PixelContext) -> int:
    """What identifies pixel data in an instance: the offset where they start."""
    return context.elements[PIXEL_DATA].start
