"""One rendition in the making: its source, its target, and what its native and encapsulated forms share."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from dicomferry.ceilings import Ceilings
from dicomferry.dicom import syntaxes
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from workers import limits
from workers.codecs.encoders import Quality
from workers.codecs.image import Decoded, Image
from workers.dataset import lossy, pixels
from workers.dataset.elements import Element
from workers.dataset.received import Received
from workers.dataset.scratch import ScratchFile
from workers.room import Claim
from workers.verify import Proof


@dataclass(slots=True)
class Rendition:
    """One rendition in the making."""

    received: Received
    target_syntax: syntaxes.Syntax
    spec: RenditionSpec
    folder: Path  # of scratch files
    cleanup: ExitStack  # closes scratch files
    ceilings: Ceilings
    verified: bool
    claim: Claim  # on the disk
    out: BinaryIO | None = None  # its file, where that takes the pixels as they are made
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

    def frames(self, pixel_data: Element, image: Image, *, rgb: bool) -> Iterator[Decoded]:
        """The frames as native cells; `rgb` lets decoders convert YCbCr. Each is a step of limited time."""
        limits.extend(image.native_length)
        limits.begin_step(image.frame_length)
        for decoded in self._decoded(pixel_data, image, rgb=rgb):
            limits.begin_step(image.frame_length)
            self.note(*decoded.notes)
            yield decoded

    def _decoded(self, pixel_data: Element, image: Image, *, rgb: bool) -> Iterator[Decoded]:
        received, ceilings = self.received, self.ceilings
        if self.source_syntax.native:
            planar, big = image.planar == 1, received.encoding.big
            return pixels.native(
                received.source, pixel_data, image, planar=planar, big=big, ceilings=ceilings
            )
        uid = received.meta.transfer_syntax_uid
        return pixels.decoded(received.source, pixel_data, image, uid, rgb=rgb, ceilings=ceilings)
