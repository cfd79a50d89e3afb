"""Small images in many transfer syntaxes, no two alike, their sender and their receivers.

Both ends write down what they saw (see `history`). Pixels are what decoders that are not ours make of them.
"""

import hashlib
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import imagecodecs
import numpy as np
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.pixels import compress
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import Verification

from dicomferry.dicom.part10 import dataset_offset, file_header
from dicomferry.dicom.syntaxes import resolve
from gateway.demo.samples import frames_of
from gateway.local.requestor import associate
from tests.support.faults.history import HOSTILE, HOSTILE_ROOT, Arrived, Journal, Sent
from tests.support.images import synthetic

CT, MR, SC = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", synthetic.SECONDARY_CAPTURE
_AGAIN = 1.0  # seconds after which a sender tries once more
_ODD = 16  # an odd receiver fails over two objects of so many
_PATIENCE = 15.0  # seconds that it waits for an answer


@dataclass(frozen=True, slots=True)
class Sending:
    """One object to send, and what it holds."""

    path: Path
    uid: str
    syntax: str
    sop_class: str
    digest: str  # of the data set's bytes
    pixels: str


def digest_of(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def pixels_of(frames: "np.ndarray[Any, Any]") -> str:
    """The digest of decoded pixels, whatever type holds them."""
    squeezed = np.ascontiguousarray(frames.squeeze().astype("<i4"))
    return digest_of(repr(squeezed.shape).encode() + squeezed.tobytes())


def _jpeg2000(image: Any) -> bytes:
    return bytes(
        imagecodecs.jpeg2k_encode(image, codecformat="J2K", reversible=True, level=0, mct=image.ndim == 3)
    )


# Transfer syntax, SOP class, rows and columns, bits, samples, encoder of a frame.
KINDS: tuple[tuple[UID, str, int, int, int, Any], ...] = (
    (ExplicitVRLittleEndian, CT, 64, 12, 1, None),
    (JPEG2000Lossless, CT, 128, 16, 1, _jpeg2000),
    (RLELossless, SC, 64, 8, 3, None),
    (JPEGLSLossless, MR, 128, 16, 1, imagecodecs.jpegls_encode),
    (ImplicitVRLittleEndian, MR, 64, 16, 1, None),
    (JPEGLosslessSV1, CT, 128, 16, 1, lambda i: imagecodecs.jpeg8_encode(i, lossless=True, predictor=1)),
    (JPEG2000Lossless, SC, 64, 8, 3, _jpeg2000),
    (HTJ2KLossless, MR, 128, 16, 1, lambda i: imagecodecs.htj2k_encode(i, reversible=True)),
)


_OF_OTHERS = {(SC, ExplicitVRLittleEndian), (SC, DeflatedExplicitVRLittleEndian)}


def _photometric(samples: int, syntax: UID) -> str:
    if samples == 1:
        return "MONOCHROME2"
    return "YBR_RCT" if syntax == JPEG2000Lossless else "RGB"


def make(folder: Path, number: int, seed: int) -> Sending:
    """The object of that number: its pixels are like no other's."""
    syntax, sop_class, size, bits, samples, encode = KINDS[number % len(KINDS)]
    image = synthetic.image(size, size, bits, samples=samples, seed=number * 1000 + seed)
    made = synthetic.dataset(
        image.shape,
        bits,
        SOPClassUID=sop_class,
        SOPInstanceUID=generate_uid(entropy_srcs=[str(seed), str(number)]),
        StudyInstanceUID=generate_uid(entropy_srcs=[str(seed), "study", str(number // 50)]),
        SeriesInstanceUID=generate_uid(entropy_srcs=[str(seed), "series", str(number // 50)]),
        InstanceNumber=number,
        PhotometricInterpretation=_photometric(samples, syntax),
    )
    path = folder / f"{number:06}.dcm"
    if encode is not None:
        synthetic.encapsulated(path, made, syntax, [bytes(encode(image))])
    elif syntax == RLELossless:
        made.PixelData = image.tobytes()
        made["PixelData"].VR = "OB"
        made.file_meta = Dataset()  # type: ignore[assignment]
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        compress(made, RLELossless, generate_instance_uid=False)
        synthetic.write(path, made, syntax)
    else:
        made.add_new("PixelData", "OW", image.tobytes())
        synthetic.write(path, made, syntax)
    content = path.read_bytes()[dataset_offset(path) :]
    return Sending(
        path, str(made.SOPInstanceUID), str(syntax), sop_class, digest_of(content), pixels_of(image)
    )


class Pacs:
    """Sends objects of growing number, each again until it is answered with success.

    Of those that `other` makes there is one among `one_in`. What it sends goes to all destinations, or to
    `only` one.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        journal: Journal,
        *,
        seed: int,
        per_second: float,
        threads: int = 2,
        title: str = "PACS",
        only: str = "",
        other: Callable[[Path, int, int], Sending] = make,
        one_in: int = 0,
    ) -> None:
        self._title, self._only, self._other, self._one_in = title, only, other, one_in
        self._folder, self._port, self._journal, self._seed = folder, port, journal, seed
        self._pause = threads / per_second if per_second else 0.0
        self._numbers = iter(range(10**9))
        self._lock = threading.Lock()
        self._again: queue.Queue[Sending] = queue.Queue()
        self.unanswered: set[str] = set()
        self._making = per_second > 0
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=[random.Random(seed * 10 + n)], daemon=True)
            for n in range(threads)
        ]

    def __enter__(self) -> Self:
        _config.STORE_SEND_CHUNKED_DATASET = True  # the bytes of the file, as they stand
        self._folder.mkdir(parents=True, exist_ok=True)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * _PATIENCE)

    def make_no_more(self) -> None:
        """From now on only send again what is not answered."""
        self._making = False

    def add(self, sending: Sending) -> None:
        """Send this too."""
        with self._lock:
            self.unanswered.add(sending.uid)
        self._again.put(sending)

    def add_new(self, count: int) -> list[Sending]:
        """Send this many new ones."""
        made = [self._make() for _ in range(count)]
        for sending in made:
            self.add(sending)
        return made

    def _make(self) -> Sending:
        with self._lock:
            number = next(self._numbers)
        if self._one_in and number % self._one_in == 0:
            return self._other(self._folder, number // self._one_in, self._seed)
        return make(self._folder, number, self._seed)

    def _next(self) -> Sending | None:
        with suppress(queue.Empty):
            return self._again.get_nowait()
        if not self._making:
            return None
        sending = self._make()
        with self._lock:
            self.unanswered.add(sending.uid)
        return sending

    def _run(self, chance: random.Random) -> None:
        while not self._over.is_set():
            sending = self._next()
            if sending is None:
                self._over.wait(0.1)
                continue
            self._one_association(sending, chance.randint(1, 20))

    def _one_association(self, first: Sending, count: int) -> None:
        entity = AE(self._title)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _PATIENCE
        entity.connection_timeout = 5
        for pair in {(kind[1], kind[0]) for kind in KINDS} | {(first.sop_class, first.syntax)} | _OF_OTHERS:
            entity.add_requested_context(*pair)
        association = associate(entity, "127.0.0.1", self._port, "FERRY")
        if not association.is_established:
            self._again.put(first)
            self._over.wait(_AGAIN)
            return
        sending: Sending | None = first
        while sending is not None:
            if not self._store(association, sending):
                break
            count -= 1
            self._over.wait(self._pause)
            sending = self._next() if count > 0 and not self._over.is_set() else None
        if association.is_established:
            association.release()

    def _store(self, association: Any, sending: Sending) -> bool:
        began = time.monotonic()
        status = None
        try:
            status = getattr(association.send_c_store(str(sending.path)), "Status", None)
        except (RuntimeError, ValueError, OSError):
            status = None  # it ended before the request left
        ended = time.monotonic()
        self._journal.add(
            Sent(
                sending.uid, sending.syntax, sending.digest, sending.pixels, began, ended, status, self._only
            )
        )  # fmt: skip
        if status == 0:
            with self._lock:
                self.unanswered.discard(sending.uid)
            sending.path.unlink(missing_ok=True)
        else:
            self._again.put(sending)
            self._over.wait(_AGAIN)
        return status is not None and association.is_established


class Receiver:
    """A destination that writes down everything it gets."""

    def __init__(
        self, name: str, syntaxes: Sequence[str], journal: Journal, answer: Callable[[], int] = lambda: 0
    ) -> None:
        self.name = name
        self.accepts = resolve(list(syntaxes))
        self._journal = journal
        self._answer = answer

    def __enter__(self) -> Self:
        entity = AE(self.name.upper())
        entity.maximum_associations = 20
        entity.network_timeout = 60
        for sop_class in (CT, MR, SC):
            entity.add_supported_context(sop_class, list(self.accepts))
        entity.add_supported_context(Verification)
        self._server: Any = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._take)]
        )
        self.port = int(self._server.server_address[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()

    def _take(self, event: Any) -> int:
        at = time.monotonic()
        status = self._answer()
        if status != 0:
            return status
        content = event.encoded_dataset(include_meta=False)
        uid, syntax = str(event.request.AffectedSOPInstanceUID), str(event.context.transfer_syntax)
        pixels = _decoded(content, str(event.request.AffectedSOPClassUID), uid, syntax)
        self._journal.add(Arrived(self.name, uid, syntax, digest_of(content), pixels, at))
        return 0


class OddReceiver(Receiver):
    """A receiver that fails over some objects, always the same ones: it answers A700, or aborts."""

    is_mended = False

    def _take(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        whim = None if self.is_mended else int(digest_of(uid.encode())[:4], 16) % _ODD
        if whim == 0:
            return 0xA700
        if whim == 1:
            event.assoc.abort()
            return 0xA700
        return super()._take(event)


def _decoded(content: bytes, sop_class: str, uid: str, syntax: str) -> str:
    if uid.startswith(HOSTILE_ROOT):
        return HOSTILE
    try:
        dataset = dcmread(DicomBytesIO(file_header(sop_class, uid, syntax) + content))
        if str(dataset.SOPInstanceUID) != uid:
            return f"of another instance, {dataset.SOPInstanceUID}"
        return pixels_of(frames_of(dataset))
    except Exception as error:  # noqa: BLE001  whatever a decoder raises
        return f"undecodable: {type(error).__name__}"
