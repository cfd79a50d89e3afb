"""From an instance as received to one rendition of it, file to file, a frame at a time.

The rendition's bytes depend on the input and the spec alone. It is written by rename and not synced: it can
be made again.
"""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, BinaryIO, cast

import numpy as np

from dicomferry.ceilings import Ceilings
from dicomferry.crashpoints import reach
from dicomferry.dicom import syntaxes
from dicomferry.dicom.part10 import file_header
from dicomferry.errors import NoPixelData, Permanent, Unsuitable
from dicomferry.spool import durable, records
from dicomferry.spool.instance import RenditionSpec
from workers import limits
from workers.codecs import decoders, encoders
from workers.codecs.decoders import YBR, Decoded, Image
from workers.codecs.encoders import Quality
from workers.dataset import attributes, functional_groups, lossy, pixels
from workers.dataset.completeness import FLOATS, what_is_missing
from workers.dataset.elements import PIXEL_DATA, UNDEFINED, Element
from workers.dataset.encapsulate import DELIMITER, Fragments, Stored
from workers.dataset.overlays import Bits, Cells
from workers.dataset.received import Received, deflate, encoding_of, opened
from workers.dataset.reencode import Around, Reencoder, Replace, Replacement
from workers.verify import Proof, check_file, is_chosen

__all__ = ["LONGEST_NATIVE", "Report", "Unsuitable", "transcode"]

LONGEST_NATIVE = 0xFFFFFFFE  # PS3.5 7.1.1: a length of 32 bits, even
_BUFFER = 1 << 16  # bytes that small pieces are gathered in; frames are written as they come
_NEAR = "1.2.840.10008.1.2.4.81"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one instance."""

    notes: str = ""  # what was changed or found, in words
    digest: str | None = None  # of the pixel cells that went in; None where none were looked at
    verified: str = ""  # how the rendition was compared with what went in; empty where it was not


def transcode(
    source: Path,
    target: Path,
    spec: RenditionSpec,
    *,
    verify: str = "never",
    recorded: bool = False,
    ceilings: Ceilings = Ceilings(),
) -> Report:
    """Write the rendition `spec` of the file `source` to `target`.

    `verify` says whether it is proved: "always", "sampled" or "never". An encapsulated one is decoded back
    and compared, of a native one the file is read back. `recorded` says whether what was found then stands in
    the rendition's own File Meta Information (see `records`).

    Raises:
        Unsuitable: the transfer syntax asked for cannot hold this instance.
        Permanent: the instance is damaged, or nothing here can decode it; `verify.VerificationFailed`: what
            was written is not what went in.
        OSError: the disk is full, or a file is not there.
    """
    wanted = syntaxes.BY_UID.get(spec.transfer_syntax_uid)
    if wanted is None or not wanted.encoded:
        raise Unsuitable(f"workers cannot make {syntaxes.label(spec.transfer_syntax_uid)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = durable.temporary_path(target)
    try:
        with opened(source, target.parent, ceilings) as received, ExitStack() as stored:
            chosen = is_chosen(verify, received.meta.sop_instance_uid)
            room = records.ROOM if recorded and chosen else b""
            made = _Rendition(received, wanted, spec, target.parent, stored, ceilings, chosen)
            with temporary.open("w+b", buffering=_BUFFER) as out:
                begin = made.write(out, room)
                report = made.report()
                if made.proof is not None:
                    out.flush()
                    check_file(out, made.proof)
                    if room:
                        records.fill(out, begin, made.proof.record() | {"notes": report.notes})
        reach("transcoding.written")
        temporary.rename(target)
        reach("transcoding.renamed")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return report


@dataclass(slots=True)
class _Rendition:
    """Makes one rendition; it is told of pixel data by the reencoder, the image's and its icons'."""

    received: Received
    wanted: syntaxes.Syntax
    spec: RenditionSpec
    scratch: Path
    stored: ExitStack  # closes what waits in files
    ceilings: Ceilings
    verified: bool
    notes: dict[str, None] = field(default_factory=dict)  # in order, each once
    proof: Proof | None = None  # of pixels that were encoded or decoded

    @property
    def found(self) -> syntaxes.Syntax:
        """The transfer syntax that the instance came in.

        Raises:
            Permanent: it can neither be decoded nor stay.
        """
        uid = self.received.meta.transfer_syntax_uid
        found = syntaxes.BY_UID.get(uid)
        if found is None or not (found.decoded or self.recompresses):
            raise Permanent(
                f"workers cannot decode {syntaxes.label(uid)}: it passes through unchanged or is parked"
            )
        return found

    @property
    def same(self) -> bool:
        """Whether the instance is in the target's syntax already: then no codec runs."""
        return self.received.meta.transfer_syntax_uid == self.wanted.uid

    @property
    def recompresses(self) -> bool:
        """Whether it is a JPEG that becomes its JPEG XL form, or comes back from it (PS3.5 8.2.15)."""
        return syntaxes.is_recompression(self.received.meta.transfer_syntax_uid, self.wanted.uid)

    @property
    def loses(self) -> bool:
        """Whether pixel values may change, so that it becomes another instance."""
        return self.wanted.uid in lossy.METHODS and not (self.same or self.recompresses)

    @property
    def quality(self) -> Quality:
        """What a lossy encoder is told."""
        usual, spec = Quality(), self.spec
        return Quality(
            quality=usual.quality if spec.quality is None else spec.quality,
            ratio=usual.ratio if spec.ratio is None else spec.ratio,
            near=usual.near if spec.near is None else spec.near,
        )

    def report(self) -> Report:
        """What became of it."""
        proof = self.proof
        notes = (*self.received.notes, *self.notes)
        return Report("; ".join(notes), proof.digest if proof else None, proof.words if proof else "")

    def write(self, out: BinaryIO, room: bytes) -> int:
        """Write the whole file, with that room for its record; where its data set begins."""
        received, uid = self.received, self.wanted.uid
        icons = not (self.found.native or self.same)
        instance = received.meta.sop_instance_uid
        if self.loses:
            instance = lossy.derived_uid(instance, uid, self.quality)
        begin = out.write(file_header(received.meta.sop_class_uid, instance, uid, room))
        target, ceilings = encoding_of(uid), self.ceilings
        reencoder = Reencoder(received.source, target, self.replace, icons=icons, ceilings=ceilings)
        if uid != syntaxes.DEFLATED_LE:
            reencoder.write(out, received.start, received.end, received.encoding)
            return begin
        with tempfile.TemporaryFile(dir=self.scratch) as plain:
            reencoder.write(cast(BinaryIO, plain), received.start, received.end, received.encoding)
            deflate(cast(IO[bytes], plain), out)
        return begin

    def replace(self, around: Around) -> Replacement | None:
        """What takes the place of the pixel data in a data set, if it does not stay as it is."""
        pixel_data = around.elements.get(PIXEL_DATA)
        if pixel_data is None:
            self._without_pixel_data(around)
            return None
        if pixel_data.undefined == self.found.native:
            if around.nested and not pixel_data.undefined:
                return None  # an icon's may be native in any syntax
            form, kind = ("", "native") if pixel_data.undefined else ("not ", "compressed")
            raise Permanent(f"pixel data is {form}in fragments though the syntax is a {kind} one (PS3.5 A.4)")
        if self.same:
            delimited = pixel_data.end > pixel_data.stop
            return None if self.found.native or around.nested or delimited else self._copied(pixel_data)
        if around.nested or self.wanted.native:
            stays = self.found.native and not self._becomes_rgb(around)
            return (self._still_native if stays else self._native)(pixel_data, around)
        if self.recompresses:
            return self._recompressed(pixel_data, around)
        return self._encoded(pixel_data, around)

    def _without_pixel_data(self, around: Around) -> None:
        """Nothing is to be done where there are no pixels, unless there should be some."""
        tags = around.elements.keys()
        if not around.nested and (missing := what_is_missing(tags, self.received.meta.sop_class_uid)):
            raise Permanent(missing)
        if self.wanted.native or self.same:
            return
        if tags & FLOATS:
            raise Unsuitable(f"{self.wanted.label} cannot hold float pixel data (PS3.5 A.4)")
        raise NoPixelData(f"{self.wanted.label} holds images, and this has no pixel data (PS3.5 A.4)")

    def _copied(self, pixel_data: Element) -> Replacement:
        """The fragments as they are, and the delimiter that they lack."""

        def content() -> Iterator[bytes]:
            yield from self.received.source.chunks(pixel_data.value, pixel_data.stop)
            yield DELIMITER

        return Replacement(b"OB", UNDEFINED, content())

    def _becomes_rgb(self, around: Around) -> bool:
        """Whether native samples are YCbCr and change their colours; an icon's stay as they are."""
        if around.nested or self.spec.colour != "rgb" or not around.values.keys() >= attributes.SIZE:
            return False
        image = attributes.describe(around.values)
        plain = image.samples == 3 and image.bits_allocated == image.bits_stored == 8 and not image.signed
        return plain and image.photometric in (YBR, pixels.SUBSAMPLED)

    @staticmethod
    def _still_native(pixel_data: Element, around: Around) -> None:
        """Leave native pixel data as they are, if they are all there; an icon's as they may be."""
        if (
            around.values.keys() >= attributes.SIZE and not around.nested
        ):  # what is not said is not contradicted
            pixels.must_hold(pixel_data, attributes.describe(around.values))

    def _native(self, pixel_data: Element, around: Around) -> Replacement:
        """In native form, with the colours that are wanted; `around.values` are the attributes around it."""
        image = attributes.describe(around.values)
        length = pixels.native_length(image)
        if length > LONGEST_NATIVE:
            raise Unsuitable(
                f"{length} bytes of native pixel data are more than {self.wanted.label} can hold"
            )
        frames = self._frames(pixel_data, image, rgb=self.spec.colour == "rgb")
        first = next(frames)
        colour = (
            attributes.native_colour(first.colour, self.spec.colour) if image.samples == 3 else first.colour
        )
        if colour != image.photometric:
            self.notes[f"{image.photometric} became {colour}"] = None
        proof = None
        if self.verified and not around.nested:
            proof = self.proof = Proof(self.wanted.uid)
        return Replacement(
            vr=attributes.pixel_data_vr(
                image.bits_allocated, explicit=self.wanted.uid != syntaxes.IMPLICIT_LE
            ),
            length=length,
            content=self._native_content(first, frames, image, colour, proof),
            changes=attributes.changes(image, colour),
            removed=attributes.ONLY_ENCAPSULATED,
        )

    def _native_content(
        self, first: Decoded, frames: Iterator[Decoded], image: Image, colour: str, proof: Proof | None
    ) -> Iterator[bytes | memoryview]:
        if pixels.frame_bits(image) % 8:
            for packed in self._bit_packed(first, frames, image, proof):
                if proof is not None:
                    proof.wrote(packed)
                yield packed
            return
        decoded: Decoded | None = first
        swapped = self.wanted.uid == syntaxes.EXPLICIT_BE and image.bits_allocated > 8
        while decoded is not None:
            samples = decoded.samples
            if colour != decoded.colour and image.samples == 3:
                samples = decoders.to_rgb(samples, image.bits_stored)
            content = np.ascontiguousarray(samples).reshape(-1).view(np.uint8).data
            if swapped:  # OW is words of 16 bits whatever stands in them (PS3.5 A.3, 7.3).
                content = np.frombuffer(content, "<u2").byteswap().view(np.uint8).data
            if proof is not None:
                proof.decoded(samples, image)
                proof.wrote(content)
            yield content
            decoded = next(frames, None)
        if image.frame_length * image.frames % 2:
            yield b"\x00"

    def _bit_packed(
        self, first: Decoded, frames: Iterator[Decoded], image: Image, proof: Proof | None
    ) -> Iterator[bytes]:
        """Frames that end inside of a byte: the next one begins there (PS3.5 8.1.1)."""
        bits = Bits(self._stored())
        count = pixels.frame_bits(image)
        for decoded in itertools.chain((first,), frames):
            if proof is not None:
                proof.decoded(decoded.samples, image)
            bits.add(np.unpackbits(decoded.samples, bitorder="little")[:count])
        yield from bits.finish().chunks()

    def _recompressed(self, pixel_data: Element, around: Around) -> Replacement:
        """A JPEG in its other form, bit for bit the same."""
        image = attributes.describe(around.values)
        source_uid = self.received.meta.transfer_syntax_uid
        fragments = Fragments(self._stored())
        proof = self.proof = Proof(self.wanted.uid) if self.verified else None
        for codestream in pixels.codestreams(self.received.source, pixel_data, image, self.ceilings):
            limits.begin_step(len(codestream))
            other = encoders.recompress(codestream, source_uid, self.wanted.uid)
            if other is None:
                raise Unsuitable(f"this JPEG has no other form: {self.wanted.label} cannot be made of it")
            if proof is not None:
                decoded = decoders.decode(source_uid, codestream, image, rgb=False)
                proof.encoded(decoded.samples, replace(image, photometric=decoded.colour), other)
            fragments.add(other)
        return self._fragments(fragments, fragments.extended)

    def _encoded(self, pixel_data: Element, around: Around) -> Replacement:
        image = attributes.describe(around.values)
        self._refuse(replace(image, photometric=_plain_photometric(image)))
        whole = self.wanted.capability is not None and self.wanted.capability.every_bit
        cells = None if whole else Cells(image, around.values, self._stored)
        plain = cells.plain if cells else image
        fragments = Fragments(self._stored())
        if self.verified:
            self.proof = Proof(self.wanted.uid, self.quality.near if self.wanted.uid == _NEAR else None)
        photometric = ""
        for decoded in self._frames(pixel_data, image, rgb=False):
            described = replace(plain, photometric=decoded.colour)
            if not photometric:
                self._refuse(described)
            values = cells.separate(decoded.samples) if cells else decoded.samples
            encoded = encoders.encode(self.wanted.uid, values, described, self.quality)
            if photometric not in ("", encoded.photometric):
                raise Permanent(f"frames became {photometric} and {encoded.photometric}")
            photometric = encoded.photometric
            if self.proof is not None:
                self.proof.encoded(values, described, encoded.codestream)
            fragments.add(encoded.codestream)
        if photometric != image.photometric:
            self.notes[f"{image.photometric} became {photometric}"] = None
        changes = attributes.changes_encapsulated(image, photometric, plain.high_bit) | fragments.extended
        if cells:
            self.notes.update(dict.fromkeys(cells.notes))
        moved = cells.changes() if cells else {}
        appended: dict[int, bytes] = {}
        within: dict[int, Replace] = {}
        if self.loses:
            instance = self.received.meta.sop_class_uid, self.received.meta.sop_instance_uid
            ratio = pixels.frame_bits(image) * image.frames / 8 / fragments.coded_length
            changes |= lossy.changes(around.values, self.wanted.uid, self.quality, ratio, instance)
            appended = lossy.appended(*instance)
            big = self.received.encoding.big
            within = functional_groups.derived(around, self.received.source, instance, big=big)
        return self._fragments(fragments, changes | moved, appended, within)

    def _fragments(
        self,
        fragments: Fragments,
        changes: dict[int, tuple[bytes, bytes | Stored]] | dict[int, tuple[bytes, bytes]],
        appended: dict[int, bytes] | None = None,
        within: dict[int, Replace] | None = None,
    ) -> Replacement:
        limits.begin_step(fragments.coded_length)
        return Replacement(
            vr=b"OB",  # PS3.5 A.4
            length=UNDEFINED,
            content=fragments.content(),
            changes=changes,
            removed=attributes.ONLY_ENCAPSULATED - changes.keys(),
            appended=appended or {},
            within=within or {},
        )

    def _refuse(self, image: Image) -> None:
        if self.wanted.uid == syntaxes.JPEG_IN_XL:
            raise Unsuitable(
                f"{self.wanted.label} is made of JPEG frames alone, not of pixels (PS3.5 8.2.15)"
            )
        if reason := encoders.refusal(self.wanted.uid, image):
            raise Unsuitable(reason)

    def _frames(self, pixel_data: Element, image: Image, *, rgb: bool) -> Iterator[Decoded]:
        """The frames as native cells, in the colours that they have; `rgb` lets decoders convert YCbCr."""
        received, of = self.received, (self.received.source, pixel_data, image)
        if not self.found.native:
            uid = received.meta.transfer_syntax_uid
            return self._noted(image, pixels.decoded(*of, uid, rgb=rgb, ceilings=self.ceilings))
        planar, big = image.planar == 1, received.encoding.big
        return self._noted(image, pixels.native(*of, planar=planar, big=big, ceilings=self.ceilings))

    def _noted(self, image: Image, frames: Iterator[Decoded]) -> Iterator[Decoded]:
        """The frames; each has its own time for all that is done with it."""
        limits.begin_step(image.frame_length)
        for decoded in frames:
            limits.begin_step(image.frame_length)
            self.notes.update(dict.fromkeys(decoded.notes))
            yield decoded

    def _stored(self) -> Stored:
        stored = Stored(self.scratch)
        self.stored.callback(stored.close)
        return stored


def _plain_photometric(image: Image) -> str:
    """What the samples are expected to be once they are decoded."""
    if image.photometric in ("YBR_RCT", "YBR_ICT"):
        return decoders.RGB
    return YBR if image.photometric == pixels.SUBSAMPLED else image.photometric
