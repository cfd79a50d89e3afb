"""Frames that helpers do: the same bytes and errors as by one process, whatever becomes of the helpers.

A decoder that notes who called it stands before the real one; pixels are compared by GDCM, DCMTK and ffmpeg.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from dicomferry.ceilings import Ceilings
from dicomferry.dicom.syntaxes import EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from dicomferry.spool.seats import Seats
from tests.support.images import independent
from tests.support.images.files import gdcm_pixels, native_pixels
from tests.support.images.synthetic import dataset, encapsulated, image, write
from workers import crew
from workers.codecs import decoders
from workers.codecs.image import Decoded
from workers.transcode import transcode

RLE, JPEG = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4."
J2K, JPEG_LS, NEAR, BASELINE, JXL = (JPEG + n for n in ("90", "80", "81", "50", "111"))
FRAMES = 14

Decode = Callable[[bytes, Any, bool], Decoded]


@pytest.fixture
def seats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seats:
    """Three seats, two of them for helpers; frames of any size are worth a helper."""
    monkeypatch.setattr(crew, "_WORTH", 0.0)
    folder = tmp_path / "seats"
    folder.mkdir()
    return Seats(folder, 3)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The helpers that were forked; all have ended at the end, and their seats are free."""
    pids: list[int] = []
    fork = os.fork

    def noted() -> int:
        pid = fork()
        if pid:
            pids.append(pid)
        return pid

    monkeypatch.setattr(os, "fork", noted)
    yield pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def native(path: Path, bits: int = 12, frames: int = FRAMES, **options: Any) -> Path:
    pictures = [image(64, 64, bits, seed=n, **options) for n in range(frames)]
    made = dataset(pictures[0].shape, bits, signed=options.get("signed", False), NumberOfFrames=frames)
    made.add_new("PixelData", "OW", b"".join(p.tobytes() for p in pictures))
    return write(path, made, EXPLICIT_LE)


def compressed(tmp_path: Path, uid: str, **options: Any) -> Path:
    return independent.encode(native(tmp_path / "native.dcm", **options), tmp_path / "in.dcm", uid)


def both_ways(source: Path, uid: str, seats: Seats, **options: Any) -> Path:
    """Make a rendition by one process and by three; the latter, which is the same to the byte."""
    alone, shared = source.parent / "alone.dcm", source.parent / "shared.dcm"
    spec = RenditionSpec(uid)
    one = transcode(source, alone, spec, verify="always", recorded=True)
    with seats.seated():
        other = transcode(source, shared, spec, verify="always", recorded=True, seats=seats, **options)
    assert one == other
    assert alone.read_bytes() == shared.read_bytes()
    return shared


def watched(monkeypatch: pytest.MonkeyPatch, uid: str, before: Callable[[bytes, bool], None]) -> None:
    """Have `before` called with each codestream that is decoded, and whether a helper does that."""
    owner, sound = os.getpid(), decoders.DECODERS[uid]

    def decode(codestream: bytes, described: Any, rgb: bool) -> Decoded:
        before(codestream, os.getpid() != owner)
        return sound(codestream, described, rgb)

    monkeypatch.setitem(decoders.DECODERS, uid, decode)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        *((J2K, target) for target in (EXPLICIT_LE, EXPLICIT_BE, IMPLICIT_LE, JPEG_LS, NEAR, RLE)),
        *((RLE, target) for target in (EXPLICIT_LE, J2K)),
        *((EXPLICIT_LE, target) for target in (JPEG_LS, NEAR, RLE, J2K)),
    ],
)
def test_a_rendition_of_many_frames_is_the_same_by_one_process_and_by_several(
    source: str, target: str, seats: Seats, forked: list[int], tmp_path: Path
) -> None:
    path = compressed(tmp_path, source)
    shared = both_ways(path, target, seats)
    assert len(forked) == 2
    if target != NEAR:
        found, _ = independent.cells(shared, tmp_path)
        assert found.tobytes() == native_pixels(tmp_path / "native.dcm")
    if target == J2K or (source, target) == (J2K, EXPLICIT_LE):
        assert gdcm_pixels(shared if target == J2K else path, tmp_path) == native_pixels(
            tmp_path / "native.dcm"
        )


@pytest.mark.parametrize("signed", [False, True])
def test_colour_and_sign_come_through(signed: bool, seats: Seats, forked: list[int], tmp_path: Path) -> None:
    options: dict[str, Any] = {"signed": True} if signed else {"samples": 3, "bits": 8}
    path = compressed(tmp_path, J2K, **options)
    shared = both_ways(path, EXPLICIT_LE, seats)
    assert native_pixels(shared) == native_pixels(tmp_path / "native.dcm")
    assert forked


def test_a_jpeg_of_many_frames_becomes_jpeg_xl_and_is_restored(
    seats: Seats, forked: list[int], tmp_path: Path
) -> None:
    path = compressed(tmp_path, BASELINE, bits=8)
    shared = both_ways(path, JXL, seats)
    assert len(forked) == 2
    back = both_ways(shared.rename(tmp_path / "jxl.dcm"), BASELINE, seats)
    assert independent.codestreams(dcmread(back)) == independent.codestreams(dcmread(path))


def test_overlays_in_the_cells_of_all_frames_are_moved(
    seats: Seats, forked: list[int], tmp_path: Path
) -> None:
    pictures = [image(64, 64, 12, seed=n) for n in range(FRAMES)]
    bits = [np.random.default_rng(n).integers(0, 2, (64, 64), np.uint16) for n in range(FRAMES)]
    made = dataset((64, 64), 12, NumberOfFrames=FRAMES)
    made.add_new(0x60000010, "US", 64)
    made.add_new(0x60000011, "US", 64)
    made.add_new(0x60000040, "CS", "G")
    made.add_new(0x60000050, "SS", [1, 1])
    made.add_new(0x60000100, "US", 16)
    made.add_new(0x60000102, "US", 15)
    cells = [picture | bit << 15 for picture, bit in zip(pictures, bits, strict=True)]
    made.add_new("PixelData", "OW", b"".join(c.tobytes() for c in cells))
    shared = both_ways(write(tmp_path / "in.dcm", made, EXPLICIT_LE), J2K, seats)
    assert forked
    assert gdcm_pixels(shared, tmp_path) == b"".join(p.tobytes() for p in pictures)
    planes = dcmread(shared)[0x60003000].value
    assert planes == np.packbits(np.array(bits, np.uint8).ravel(), bitorder="little").tobytes()


def test_values_that_bits_stored_denies_are_found_by_helpers_too(
    seats: Seats, forked: list[int], tmp_path: Path
) -> None:
    path = native(tmp_path / "in.dcm")
    made = dcmread(path)
    made.BitsStored, made.HighBit = 10, 9
    shared = both_ways(write(tmp_path / "denied.dcm", made, EXPLICIT_LE), J2K, seats)
    assert forked
    assert dcmread(shared).BitsStored == 12
    assert gdcm_pixels(shared, tmp_path) == native_pixels(path)


def test_a_helper_that_is_killed_costs_nothing_but_time(
    seats: Seats, forked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compressed(tmp_path, J2K)
    fifth = independent.codestreams(dcmread(path))[4]

    def kill(codestream: bytes, helper: bool) -> None:
        if helper and codestream.startswith(fifth[:400]):
            os.kill(os.getpid(), signal.SIGKILL)

    watched(monkeypatch, J2K, kill)
    shared = both_ways(path, EXPLICIT_LE, seats)
    assert native_pixels(shared) == native_pixels(tmp_path / "native.dcm")
    assert len(forked) == 2, "no other is taken: the frame may have killed it"


def test_all_helpers_may_be_killed(
    seats: Seats, forked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compressed(tmp_path, J2K)
    watched(monkeypatch, J2K, lambda _, helper: os.kill(os.getpid(), signal.SIGKILL) if helper else None)
    both_ways(path, EXPLICIT_LE, seats)
    assert forked


def test_a_damaged_frame_gives_the_error_that_it_gives_one_process(
    seats: Seats, forked: list[int], tmp_path: Path
) -> None:
    made = dcmread(compressed(tmp_path, J2K))
    streams = independent.codestreams(made)
    for number in (6, 9):
        streams[number] = streams[number][: len(streams[number]) // (number - 4)]
    path = encapsulated(tmp_path / "damaged.dcm", made, J2K, streams)
    words = []
    for given in (None, seats):
        target = tmp_path / "out.dcm"
        with seats.seated(), pytest.raises(Permanent) as error:
            transcode(path, target, RenditionSpec(EXPLICIT_LE), verify="always", seats=given)
        words.append(str(error.value))
        assert not target.exists()
    assert words[0] == words[1]
    assert len(forked) == 2


CRASH = """
import ctypes, sys
from pathlib import Path
from dicomferry.spool.instance import RenditionSpec
from dicomferry.spool.seats import Seats
from workers import crew, limits
from workers.codecs import decoders
from workers.transcode import transcode
crew._WORTH = 0.0
sound = decoders.DECODERS["1.2.840.10008.1.2.5"]
bad = bytes.fromhex(sys.argv[4])
def decode(codestream, image, rgb):
    if codestream.startswith(bad):
        ctypes.string_at(0)
    return sound(codestream, image, rgb)
decoders.DECODERS["1.2.840.10008.1.2.5"] = decode
seats = Seats(Path(sys.argv[3]), 3)
with seats.seated(), limits.deadline(60):
    transcode(Path(sys.argv[1]), Path(sys.argv[2]), RenditionSpec("1.2.840.10008.1.2.1"), seats=seats)
"""


def test_a_frame_that_kills_its_codec_kills_the_process_that_has_the_object(
    seats: Seats, tmp_path: Path
) -> None:
    path = compressed(tmp_path, RLE)
    bad = independent.codestreams(dcmread(path))[7][:500].hex()
    command = [sys.executable, "-c", CRASH, str(path), str(tmp_path / "out.dcm"), str(seats.folder), bad]
    done = subprocess.run(command, check=False, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGSEGV, done.stderr
    assert not (tmp_path / "out.dcm").exists()


def test_a_helper_dies_with_its_owner_and_its_seat_is_free(seats: Seats, tmp_path: Path) -> None:
    path = compressed(tmp_path, RLE)
    last = independent.codestreams(dcmread(path))[3][:500].hex()
    hang = CRASH.replace("ctypes.string_at(0)", "print('hangs', flush=True); ctypes.PyDLL(None).sleep(100)")
    command = [sys.executable, "-c", hang, str(path), str(tmp_path / "out.dcm"), str(seats.folder), last]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"hangs\n"
    process.kill()
    process.wait()
    with ExitStack() as stack:
        until = time.monotonic() + 60
        loans = []
        while len(loans) < 3 and time.monotonic() < until:
            loan = seats.borrow()
            if loan is None:
                time.sleep(0.01)
                continue
            loans.append(loan)
            stack.callback(os.close, loan.descriptor)
        assert len(loans) == 3


def test_what_a_helper_has_no_memory_for_its_owner_does(
    seats: Seats, forked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, refused = compressed(tmp_path, J2K, frames=5), tmp_path / "refused"

    def eat(_: bytes, helper: bool) -> None:
        try:
            bytearray(400 << 20)  # five times what a helper may have
        except MemoryError:
            assert helper
            refused.touch()
            raise

    watched(monkeypatch, J2K, eat)
    both_ways(path, EXPLICIT_LE, seats)
    assert forked
    assert refused.exists()


def test_owner_and_helpers_together_stay_within_the_memory_of_one_process(
    seats: Seats, forked: list[int], tmp_path: Path
) -> None:
    path = compressed(tmp_path, J2K)
    mine = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize() >> 20
    for more, helpers in ((100, 0), (190, 1), (1000, 2)):
        forked.clear()
        both_ways(path, EXPLICIT_LE, seats, ceilings=Ceilings(memory_mb=mine + more))
        assert len(forked) == helpers


def test_a_helper_leaves_for_a_batch_and_no_other_comes_while_that_runs(
    seats: Seats, forked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compressed(tmp_path, J2K, frames=40)
    by_helpers, batches = tmp_path / "by-helpers", ExitStack()

    def come(_: bytes, helper: bool) -> None:
        if helper:
            with by_helpers.open("ab") as file:
                file.write(b".")
        elif not begun and by_helpers.exists():
            begun.append(by_helpers.stat().st_size)
            batches.enter_context(seats.seated())
            batches.enter_context(seats.seated())

    begun: list[int] = []
    watched(monkeypatch, J2K, come)
    with batches:
        both_ways(path, EXPLICIT_LE, seats)
    assert len(forked) == 2
    assert by_helpers.stat().st_size <= begun[0] + 2 * (len(forked)), "at most what was under way"


def test_a_single_seat_and_a_single_frame_have_no_helpers(
    seats: Seats, forked: list[int], tmp_path: Path
) -> None:
    path = compressed(tmp_path, J2K)
    both_ways(path, EXPLICIT_LE, Seats(seats.folder, 1))
    both_ways(compressed(tmp_path, J2K, frames=1), EXPLICIT_LE, seats)
    assert not forked
