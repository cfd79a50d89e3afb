"""The proof of renditions: what an encoder did is seen by somebody else, bit by bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicomferry.dicom.syntaxes import BY_UID, EXPLICIT_LE
from tests.support.images.synthetic import dataset, encapsulated, write
from tests.support.images.synthetic import image as pixels
from workers.codecs.encoders import ENCODERS, Quality, encode, refusal
from workers.codecs.image import Image
from workers.codecs.proof_decoders import proof_decoder
from workers.verify import ONE_IN, Proof, VerificationFailed, check_file, digest, is_chosen

RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4.50"
JPEG_LS = "1.2.840.10008.1.2.4.80"
NEAR = "1.2.840.10008.1.2.4.81"
J2K = "1.2.840.10008.1.2.4.90"
KINDS = [(8, 1, False), (12, 1, False), (12, 1, True), (16, 1, False), (16, 1, True), (8, 3, False)]


def described(bits: int, samples: int, *, signed: bool) -> tuple[np.ndarray, Image]:
    cells = pixels(40, 51, bits, samples=samples, signed=signed)
    # Lossy encoders refuse signed samples at the ends of their range.
    cells = np.clip(cells, cells.min() + 8, cells.max() - 8)
    allocated = 8 if bits <= 8 else 16
    colour = "RGB" if samples == 3 else "MONOCHROME2"
    return cells, Image(40, 51, samples, allocated, bits, bits - 1, signed, colour)


CASES = [
    (uid, *kind)
    for uid in ENCODERS
    for kind in KINDS
    if not refusal(uid, described(kind[0], kind[1], signed=kind[2])[1])
]


def one(cells: np.ndarray, image: Image, uid: str, codestream: bytes) -> Proof:
    proof = Proof(uid, near=2 if uid == NEAR else None)
    proof.check_encoded(cells, image, codestream)
    return proof


def read_back(path: Path, proof: Proof) -> None:
    with path.open("rb") as file:
        check_file(file, proof)


@pytest.mark.parametrize(("uid", "bits", "samples", "signed"), CASES)
def test_what_every_encoder_makes_is_proved(uid, bits, samples, signed):
    cells, image = described(bits, samples, signed=signed)
    proof = one(cells, image, uid, encode(uid, cells, image, Quality(ratio=3)).codestream)
    record = proof.record()
    assert record["digest_before"] == digest(cells, image)
    assert record["frames"] == 1
    assert proof_decoder(uid).library in proof.words
    if BY_UID[uid].lossless:
        assert record["digest_after"] == record["digest_before"]
        assert "pixels equal" in proof.words
    else:
        assert record["psnr"] > 18
        assert f"off by at most {record['max_error']}" in proof.words


@pytest.mark.parametrize(("uid", "bits", "samples", "signed"), [c for c in CASES if BY_UID[c[0]].lossless])
def test_one_sample_that_is_off_by_one_is_caught(uid, bits, samples, signed):
    cells, image = described(bits, samples, signed=signed)
    other = cells.copy()
    other.flat[777] ^= 1
    codestream = encode(uid, other, image, Quality(ratio=3)).codestream
    with pytest.raises(
        VerificationFailed, match=rf"frame 1 as {BY_UID[uid].label} differs in 1 of .* up to 1$"
    ):
        one(cells, image, uid, codestream)


def test_the_digest_is_that_of_the_values_whatever_carries_them():
    cells, image = described(12, 1, signed=True)
    assert digest(cells, image) == digest(cells & 0x0FFF, image)
    assert digest(cells, image) == digest(cells.astype(">i2"), image)
    assert digest(cells, image) == digest(cells.view("u2") << 4, replace(image, high_bit=15))
    assert digest(cells, image) != digest(cells ^ 1, image)


def test_bits_beside_the_values_are_proved_where_the_syntax_holds_them():
    cells, image = described(12, 1, signed=False)
    overlay = cells.copy()
    overlay[5, 5] |= 0x8000
    codestream = encode(RLE, cells, image, Quality(ratio=3)).codestream
    with pytest.raises(VerificationFailed, match="beside the values"):
        one(overlay, image, RLE, codestream)


@pytest.mark.parametrize(
    "uid", [uid for uid in ENCODERS if not refusal(uid, Image(9, 7, 1, 1, 1, 0, False, "MONOCHROME2"))]
)
def test_cells_of_one_bit_are_proved(uid):
    image = Image(9, 7, 1, 1, 1, 0, False, "MONOCHROME2")
    bits = np.random.default_rng(1).integers(0, 2, 63, np.uint8)
    packed = np.packbits(bits, bitorder="little")
    codestream = encode(uid, packed, image, Quality()).codestream
    assert one(packed, image, uid, codestream).record()["digest_before"] == digest(packed, image)
    bits[5] ^= 1
    with pytest.raises(VerificationFailed, match="differs in"):
        one(np.packbits(bits, bitorder="little"), image, uid, codestream)


def test_a_source_with_colour_by_plane_is_proved_as_it_is_encoded():
    cells, image = described(8, 3, signed=False)
    image = replace(image, planar=1)
    for uid in ENCODERS:
        if BY_UID[uid].lossless and not refusal(uid, image):
            one(cells, image, uid, encode(uid, cells, image, Quality()).codestream)


def test_near_lossless_is_held_to_what_was_asked_for():
    cells, image = described(8, 1, signed=False)
    assert one(cells, image, NEAR, encode(NEAR, cells, image, Quality(near=2)).codestream).max_error == 2
    with pytest.raises(VerificationFailed, match="off by up to 5, though at most 2"):
        one(cells, image, NEAR, encode(NEAR, cells, image, Quality(near=5)).codestream)


@pytest.mark.parametrize(
    "wrong", [lambda c: c[::-1], lambda c: 255 - c, np.zeros_like], ids=["upside down", "inverted", "black"]
)
def test_a_lossy_rendition_must_resemble_its_source(wrong):
    cells, image = described(8, 1, signed=False)
    codestream = encode(JPEG, np.ascontiguousarray(wrong(cells)), image, Quality(ratio=3)).codestream
    with pytest.raises(VerificationFailed, match="does not resemble"):
        one(cells, image, JPEG, codestream)


def test_a_codestream_of_another_size_is_caught():
    cells, image = described(8, 1, signed=False)
    codestream = encode(J2K, cells[:-1], replace(image, rows=39), Quality(ratio=3)).codestream
    with pytest.raises(VerificationFailed, match=r"is \(39, 51\) .* was \(40, 51\)"):
        one(cells, image, J2K, codestream)


@pytest.mark.parametrize("uid", [uid for uid, *kind in CASES if kind == [8, 1, False]])
def test_a_codestream_that_nobody_can_decode_is_caught(uid):
    cells, image = described(8, 1, signed=False)
    codestream = encode(uid, cells, image, Quality(ratio=3)).codestream
    with pytest.raises(VerificationFailed, match="frame 1"):
        one(cells, image, uid, codestream[: len(codestream) // 4])


@pytest.mark.parametrize("shape", [(39, 51), (41, 50)], ids=["shorter", "panics"])
def test_an_rle_frame_of_another_size_is_caught_though_its_reader_panics(shape):
    cells, image = described(12, 1, signed=False)
    cells[:] = 7
    other = replace(image, rows=shape[0], columns=shape[1])
    codestream = encode(RLE, np.full(shape, 7, cells.dtype), other, Quality()).codestream
    with pytest.raises(VerificationFailed, match="cannot be decoded by pylibjpeg-rle"):
        one(cells, image, RLE, codestream)


def test_of_sampled_renditions_always_the_same_sixteenth_is_chosen():
    names = [f"1.2.3.{number}" for number in range(4000)]
    chosen = [name for name in names if is_chosen("sampled", name)]
    assert 0.7 < len(chosen) * ONE_IN / len(names) < 1.3
    assert chosen == [name for name in names if is_chosen("sampled", name)]
    assert is_chosen("always", "x")
    assert not is_chosen("never", "x")


def written(path: Path, uid: str, frames: list[np.ndarray], image: Image) -> Proof:
    """A file with these frames, and the proof that saw them made."""
    made = dataset(frames[0].shape, 8, NumberOfFrames=len(frames))
    proof = Proof(uid)
    codestreams = []
    for cells in frames:
        codestreams.append(encode(uid, cells, image, Quality()).codestream)
        proof.check_encoded(cells, image, codestreams[-1])
    encapsulated(path, made, uid, codestreams)
    read_back(path, proof)
    return proof


@pytest.mark.parametrize("uid", [RLE, JPEG_LS, J2K])
def test_a_file_that_holds_something_else_than_was_encoded_is_caught(uid, tmp_path):
    cells, image = described(8, 1, signed=False)
    path = tmp_path / "made.dcm"
    proof = written(path, uid, [cells, cells[::-1].copy(), 255 - cells], image)
    whole = path.read_bytes()
    middle = len(whole) - 1000
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(VerificationFailed, match="in the file is not what was written"):
        read_back(path, proof)
    path.write_bytes(whole[:middle])
    with pytest.raises(VerificationFailed, match="cannot be read back"):
        read_back(path, proof)


def test_frames_in_another_order_are_caught(tmp_path):
    cells, image = described(8, 1, signed=False)
    other = written(tmp_path / "other.dcm", JPEG_LS, [cells, 255 - cells], image)
    written(tmp_path / "made.dcm", JPEG_LS, [255 - cells, cells], image)
    with pytest.raises(VerificationFailed, match="in the file is not what was written"):
        read_back(tmp_path / "made.dcm", other)


def test_native_pixel_data_that_was_written_amiss_is_caught(tmp_path):
    cells, image = described(16, 1, signed=False)
    made = dataset(cells.shape, 16)
    made.PixelData = cells.tobytes()
    made["PixelData"].VR = "OW"
    path = write(tmp_path / "made.dcm", made, EXPLICIT_LE)
    proof = Proof(EXPLICIT_LE)
    proof.add_native(cells, image)
    proof.add_written(cells.tobytes())
    read_back(path, proof)
    assert proof.digest == digest(cells, image)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(VerificationFailed, match="in the file is not what was written"):
        read_back(path, proof)
