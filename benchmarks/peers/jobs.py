"""The jobs that contenders do, and the objects for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom import dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import generate_uid

from benchmarks.peers.bare import DECODE, ENCODE
from benchmarks.peers.images import KINDS, Kind, frames_of, write
from dicomferry.dicom.syntaxes import EXPLICIT_LE, GROUPS, TABLE
from workers.codecs.encoders import Quality, encode

UIDS = {syntax.keyword: syntax.uid for syntax in TABLE}
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_DISTINCT = 16  # different frames of a job; the other objects repeat them under UIDs of their own
_CT, _MR = KINDS[0], KINDS[3]
_COLOUR = next(kind for kind in KINDS if kind.samples == 3)


@dataclass(frozen=True)
class Job:
    """Objects of one kind, sent in the syntax `sent` to a sink that shows only `shown` (native if empty)."""

    name: str
    kind: Kind
    modality: str
    sop_class: str
    sent: str  # keyword of a transfer syntax
    count: int
    shown: str = ""

    @property
    def passes(self) -> bool:
        """Whether no codec is needed."""
        return UIDS[self.sent] == EXPLICIT_LE

    def allowed(self) -> Sequence[str]:
        """UIDs of the transfer syntaxes that may arrive."""
        return (UIDS[self.shown],) if self.shown else GROUPS["uncompressed"]


_CTS = ("CT", _STORAGE + "2")
_MRS = ("MR", _STORAGE + "4")
_NATIVE = "ExplicitVRLittleEndian"
JOBS: tuple[Job, ...] = (
    Job("J2K CT 512", _CT, *_CTS, "JPEG2000Lossless", 400),
    Job("pass-through CT 512", _CT, *_CTS, _NATIVE, 400),
    Job("pass-through MR 64", replace(_MR, rows=64, columns=64), *_MRS, _NATIVE, 1000),
    Job("J2K MR 1024", replace(_MR, rows=1024, columns=1024), *_MRS, "JPEG2000Lossless", 100),
    Job("JPEG-LS CT 512", _CT, *_CTS, "JPEGLSLossless", 200),
    Job("RLE CT 512", _CT, *_CTS, "RLELossless", 200),
    Job("HTJ2K CT 512", _CT, *_CTS, "HTJ2KLossless", 200),
    Job("JPEG US 640 x 10 frames", _COLOUR, "US", _STORAGE + "3.1", "JPEGBaseline8Bit", 20),
    Job("J2K to JPEG-LS CT 512", _CT, *_CTS, "JPEG2000Lossless", 100, shown="JPEGLSLossless"),
)
# For the workers alone: one object, whose frames they share.
MANY_FRAMES = Job(
    "J2K 1024 x 60 frames", replace(_MR, rows=1024, columns=1024, frames=60), "MR", _STORAGE + "4.1",
    "JPEG2000Lossless", 1,
)  # fmt: skip
J2K_CT, PASSED_CT, SMALL_MR, RLE_CT = (JOBS[n].name for n in (0, 1, 2, 5))


FAST_CODECS = tuple(JOBS[n].name for n in (4, 5, 6))


@dataclass(frozen=True)
class Objects:
    """What is sent for a job, and what must arrive."""

    job: Job
    paths: list[Path]
    uids: list[str]  # SOP Instance UIDs, in the order of `paths`
    images: list[list[np.ndarray]]  # the frames of each distinct image
    codestreams: list[list[bytes]]  # the same, as they are sent

    @property
    def sent_bytes(self) -> int:
        """Bytes of one object's file, on average."""
        return sum(path.stat().st_size for path in self.paths) // len(self.paths)

    def first(self, count: int) -> "Objects":
        """The first `count` of them."""
        return replace(self, paths=self.paths[:count], uids=self.uids[:count])

    def bare(self) -> Callable[[int], None]:
        """A function that does the bare codec's work for object number n."""
        image = self.job.kind.described
        encoder = ENCODE[self.job.shown] if self.job.shown else None

        def work(number: int) -> None:
            for codestream, cells in zip(
                self.codestreams[number % len(self.images)],
                self.images[number % len(self.images)],
                strict=True,
            ):
                DECODE[self.job.sent](codestream, image)
                if encoder is not None:
                    encoder(cells, image)

        return work

    def defect(self, arrived: dict[str, Path]) -> str:
        """What is wrong with the files at the sink (by SOP Instance UID), in words; empty if nothing is.

        All must be there. The pixels of the first, the middle and the last are compared.
        """
        if missing := set(self.uids) - arrived.keys():
            return f"{len(missing)} of {len(self.uids)} objects are missing"
        for number in {0, len(self.uids) // 2, len(self.uids) - 1}:
            if words := self._difference(arrived[self.uids[number]], self.images[number % len(self.images)]):
                return words
        return ""

    def _difference(self, path: Path, frames: list[np.ndarray]) -> str:
        dataset = dcmread(path)
        if dataset.file_meta.TransferSyntaxUID not in self.job.allowed():
            return f"arrived as {dataset.file_meta.TransferSyntaxUID.name}"
        native = b"".join(cells.tobytes() for cells in frames)
        if self.job.shown:
            streams = generate_frames(dataset.PixelData, number_of_frames=len(frames))
            found = b"".join(imagecodecs.jpegls_decode(stream).tobytes() for stream in streams)
        else:
            found = bytes(dataset.PixelData)
        if self.job.sent == "JPEGBaseline8Bit":  # lossy; contenders leave it in YCbCr or convert to RGB
            return "" if len(found) == len(native) else f"{len(found)} bytes instead of {len(native)}"
        return "" if found == native else "the pixels are not those that were sent"


def make(job: Job, count: int, folder: Path) -> Objects:
    """Write `count` objects of one study into `folder`."""
    folder.mkdir(parents=True)
    kind, uid = job.kind, UIDS[job.sent]
    distinct = min(max(_DISTINCT // kind.frames, 2), count)
    cells = frames_of(replace(kind, frames=kind.frames * distinct))
    images = [cells[n : n + kind.frames] for n in range(0, len(cells), kind.frames)]
    codestreams, photometric = [], kind.described.photometric
    for frames in images:
        if job.passes:
            codestreams.append([frame.tobytes() for frame in frames])
            continue
        made = [encode(uid, frame, kind.described, Quality()) for frame in frames]
        photometric = made[0].photometric
        codestreams.append([one.codestream for one in made])
    study, series = generate_uid(), generate_uid()
    paths, uids = [], []
    for number in range(count):
        instance = str(generate_uid())
        uids.append(instance)
        paths.append(
            write(
                folder / f"{number:05}.dcm",
                kind,
                uid,
                codestreams[number % distinct],
                photometric,
                SOPClassUID=job.sop_class,
                SOPInstanceUID=instance,
                StudyInstanceUID=study,
                SeriesInstanceUID=series,
                Modality=job.modality,
                InstanceNumber=number + 1,
                PatientName="Benchmark^Pipeline",
                PatientID="BENCHMARK",
            )
        )
    return Objects(job, paths, uids, images, codestreams)
