"""The codec table: what it covers, and that no decoder is believed further than it deserves."""

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import openjpeg
import pytest

from dicomferry.dicom.syntaxes import TABLE
from dicomferry.errors import Permanent
from tests.support.images.synthetic import image as picture
from workers.codecs import decoders
from workers.codecs.decoders import decode
from workers.codecs.image import Image, to_rgb

DATA = Path(__file__).parents[3] / "data"
RLE = "1.2.840.10008.1.2.5"
BASELINE = "1.2.840.10008.1.2.4.50"
EXTENDED = "1.2.840.10008.1.2.4.51"
LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
J2K = "1.2.840.10008.1.2.4.90"
HTJ2K = "1.2.840.10008.1.2.4.201"


def described(values: np.ndarray, bits: int, **changed: object) -> Image:
    fields = {
        "rows": values.shape[0],
        "columns": values.shape[1],
        "samples": values.shape[2] if values.ndim == 3 else 1,
        "bits_allocated": 8 if bits <= 8 else 16,
        "bits_stored": bits,
        "high_bit": bits - 1,
        "signed": values.dtype.kind == "i",
        "photometric": "RGB" if values.ndim == 3 else "MONOCHROME2",
    }
    return Image(**(fields | changed))  # type: ignore[arg-type]


def j2k(values: np.ndarray, bits: int, *, mct: bool = False) -> bytes:
    return bytes(
        openjpeg.utils.encode_array(
            values, bits_stored=bits, photometric_interpretation=1 if mct else 0, use_mct=mct
        )
    )


def jpeg_lossless(values: np.ndarray, bits: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(values, bitspersample=bits, lossless=True, predictor=1))


def encoded(uid: str, values: np.ndarray, bits: int) -> bytes:
    if uid == RLE:
        planes = [
            values.astype(f">u{values.itemsize}").tobytes()[n :: values.itemsize]
            for n in range(values.itemsize)
        ]
        segments = [imagecodecs.packbits_encode(plane) for plane in planes]
        offsets = np.cumsum([64, *map(len, segments)])[:-1]
        header = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments)))
        return header + b"".join(segments)
    if uid == J2K:
        return j2k(values, bits)
    if uid == HTJ2K:
        return bytes(imagecodecs.htj2k_encode(values))
    return bytes(imagecodecs.jpegls_encode(values)) if uid == JPEG_LS else jpeg_lossless(values, bits)


def test_the_table_decodes_what_the_syntaxes_say_that_workers_decode() -> None:
    compressed = {syntax.uid for syntax in TABLE if syntax.decoded and not syntax.native}
    assert set(decoders.DECODERS) == compressed


@pytest.mark.parametrize("uid", [RLE, LOSSLESS, JPEG_LS, J2K, HTJ2K])
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_lossless_frames_come_back_as_they_were(uid: str, bits: int) -> None:
    values = picture(37, 53, bits)
    decoded = decode(uid, encoded(uid, values, bits), described(values, bits), rgb=True)
    assert decoded.samples.tobytes() == values.tobytes()
    assert decoded.colour == "MONOCHROME2"


@pytest.mark.parametrize("uid", [RLE, LOSSLESS, JPEG_LS, J2K, HTJ2K])
@pytest.mark.parametrize("kept", [0.1, 0.4, 0.7, 0.95])
def test_a_cut_frame_is_refused(uid: str, kept: float) -> None:
    values = picture(64, 64, 12)
    codestream = encoded(uid, values, 12)
    with pytest.raises(Permanent):
        decode(uid, codestream[: int(len(codestream) * kept)], described(values, 12), rgb=True)


@pytest.mark.parametrize("uid", [BASELINE, LOSSLESS, JPEG_LS, J2K, RLE])
@pytest.mark.parametrize("codestream", [b"", b"\xff", b"\xff\xd8\xff", b"\xff\x4f\xff\x51" * 20, bytes(200)])
def test_what_is_no_codestream_at_all_is_refused(uid: str, codestream: bytes) -> None:
    with pytest.raises(Permanent):
        decode(uid, codestream, described(picture(8, 8, 8), 8), rgb=True)


@pytest.mark.parametrize("uid", [LOSSLESS, JPEG_LS, J2K, HTJ2K])
@pytest.mark.parametrize(
    "changed",
    [{"rows": 65}, {"columns": 63}, {"samples": 3}, {"bits_allocated": 8, "bits_stored": 8, "high_bit": 7}],
)
def test_a_codestream_that_contradicts_the_data_set_is_refused(uid: str, changed: dict[str, int]) -> None:
    values = picture(64, 64, 12)
    with pytest.raises(Permanent):
        decode(uid, encoded(uid, values, 12), described(values, 12, **changed), rgb=True)


@pytest.mark.parametrize("bits", [10, 13, 16])
def test_a_signed_codestream_keeps_its_sign(bits: int) -> None:
    values = picture(40, 40, bits, signed=True)
    decoded = decode(J2K, j2k(values, bits), described(values, bits), rgb=True)
    assert decoded.samples.tobytes() == values.tobytes()
    assert decoded.notes == ()


# Not JPEG-LS of 12 bits: imagecodecs writes such a stream with a precision of 16, whose upper bits are data.
@pytest.mark.parametrize(
    ("uid", "bits"), [(J2K, 12), (J2K, 16), (LOSSLESS, 12), (LOSSLESS, 16), (JPEG_LS, 16)]
)
def test_signed_values_in_an_unsigned_codestream_are_read_as_the_data_set_says(uid: str, bits: int) -> None:
    values = picture(40, 40, bits, signed=True)
    stored = (values.view(np.uint16) & ((1 << bits) - 1)).astype(np.uint16)
    decoded = decode(uid, encoded(uid, stored, bits), described(values, bits), rgb=True)
    assert decoded.samples.tobytes() == values.tobytes()


def test_a_signed_codestream_of_an_unsigned_image_keeps_its_bits_and_says_so() -> None:
    values = picture(40, 40, 12, signed=True)
    decoded = decode(J2K, j2k(values, 12), described(values, 12, signed=False), rgb=True)
    assert decoded.samples.tobytes() == (values.view(np.uint16) & 0xFFF).tobytes()
    assert "signed" in decoded.notes[0]


@pytest.mark.parametrize("uid", [RLE, LOSSLESS, JPEG_LS, J2K])
def test_bits_above_bits_stored_stay_where_the_codestream_carries_them(uid: str) -> None:
    values = picture(40, 40, 16)  # an overlay in the four bits above
    decoded = decode(uid, encoded(uid, values, 16), described(values, 12), rgb=True)
    assert decoded.samples.tobytes() == values.tobytes()


def test_a_high_bit_that_leaves_the_place_of_the_samples_open_is_refused() -> None:
    values = picture(40, 40, 12)
    with pytest.raises(Permanent, match="High Bit"):
        decode(J2K, j2k(values, 12), described(values, 12, high_bit=15), rgb=True)


def test_the_component_transform_and_not_the_label_says_what_jpeg_2000_samples_are() -> None:
    values = picture(40, 40, 8, samples=3)
    for mct in (True, False):
        for label in ("RGB", "YBR_RCT"):
            decoded = decode(J2K, j2k(values, 8, mct=mct), described(values, 8, photometric=label), rgb=True)
            assert (decoded.samples == values).all()
            assert decoded.colour == "RGB"
            assert bool(decoded.notes) == (mct != (label == "YBR_RCT"))
    plain = decode(J2K, j2k(values, 8), described(values, 8, photometric="YBR_FULL"), rgb=True)
    assert (plain.samples == values).all()
    assert plain.colour == "YBR_FULL"


COLOURS = {
    LOSSLESS: lambda values: bytes(
        imagecodecs.jpeg8_encode(
            values, lossless=True, predictor=1, colorspace="RGB", outcolorspace="RGB", bitspersample=8
        )
    ),
    JPEG_LS: lambda values: bytes(imagecodecs.jpegls_encode(values)),
    J2K: lambda values: j2k(values, 8),
}


@pytest.mark.parametrize("uid", COLOURS)
@pytest.mark.parametrize(
    ("label", "colour"),
    [
        ("YBR_FULL", "YBR_FULL"),
        ("YBR_FULL_422", "YBR_FULL"),
        ("YBR_RCT", "RGB"),  # left over from JPEG 2000, by whoever decoded that
        ("YBR_ICT", "RGB"),
        ("MONOCHROME2", "RGB"),
        ("", "RGB"),
        ("HSV", "HSV"),
    ],
)
def test_without_a_transform_samples_have_the_colours_that_the_label_names(
    uid: str, label: str, colour: str
) -> None:
    values = picture(40, 40, 8, samples=3)
    decoded = decode(uid, COLOURS[uid](values), described(values, 8, photometric=label), rgb=True)
    assert decoded.colour == colour
    assert (decoded.samples == values).all()


@pytest.mark.parametrize("uid", COLOURS)
@pytest.mark.parametrize("label", ["YBR_PARTIAL_422", "YBR_PARTIAL_420"])
def test_retired_colours_are_not_taken_for_rgb(uid: str, label: str) -> None:
    values = picture(40, 40, 8, samples=3)
    with pytest.raises(Permanent, match=f"{label}, retired"):
        decode(uid, COLOURS[uid](values), described(values, 8, photometric=label), rgb=True)


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL_422"])
def test_the_markers_of_a_lossy_jpeg_are_believed_before_the_label(label: str) -> None:
    values = picture(40, 40, 8, samples=3)
    as_ycbcr = imagecodecs.jpeg8_encode(values, level=95, subsampling="444")  # JFIF
    assert decode(BASELINE, as_ycbcr, described(values, 8, photometric=label), rgb=False).colour == "YBR_FULL"
    as_rgb = imagecodecs.jpeg8_encode(values, level=95, colorspace="RGB", outcolorspace="RGB")  # Adobe, 0
    decoded = decode(BASELINE, as_rgb, described(values, 8, photometric=label), rgb=False)
    assert decoded.colour == "RGB"
    assert bool(decoded.notes) == (label != "RGB")


def test_converting_after_decoding_gives_what_the_decoder_converts_itself() -> None:
    values = picture(64, 64, 8, samples=3)
    codestream = imagecodecs.jpeg8_encode(values, level=95, subsampling="444")
    image = described(values, 8, photometric="YBR_FULL")
    converted = decode(BASELINE, codestream, image, rgb=True)
    kept = decode(BASELINE, codestream, image, rgb=False)
    assert (converted.colour, kept.colour) == ("RGB", "YBR_FULL")
    difference = to_rgb(kept.samples, 8).astype(int) - converted.samples
    assert abs(difference).max() <= 1


def test_twelve_bit_lossy_jpeg_is_decoded_within_its_loss() -> None:
    values = (np.add.outer(np.arange(64), np.arange(64)) * 32).astype(np.uint16)
    codestream = imagecodecs.jpeg8_encode(values, level=98, bitspersample=12)
    decoded = decode(EXTENDED, codestream, described(values, 12), rgb=True)
    assert abs(decoded.samples.astype(int) - values).max() < 32


@pytest.mark.parametrize(("excess", "believed"), [(0, True), (128, True), (200, False), (9000, False)])
@pytest.mark.parametrize("bits", [8, 16])
def test_an_rle_segment_may_have_one_run_too_many_and_no_more(bits: int, excess: int, believed: bool) -> None:
    values = picture(40, 40, bits)
    longer = np.concatenate([values.ravel(), np.arange(excess).astype(values.dtype)])
    codestream = encoded(RLE, longer, bits)
    if believed:
        decoded = decode(RLE, codestream, described(values, bits), rgb=True)
        assert decoded.samples.tobytes() == values.tobytes()
        return
    with pytest.raises(Permanent, match="holds more than the 1600 bytes of the image"):
        decode(RLE, codestream, described(values, bits), rgb=True)


def test_an_rle_segment_may_be_padded_to_even_length() -> None:
    values = np.zeros((8, 8), np.uint8)
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    # 64 literal bytes take 65: the pad is not data.
    decoded = decode(RLE, header + b"\x3f" + bytes(range(64)) + b"\x00", described(values, 8), rgb=True)
    assert decoded.samples.tobytes() == bytes(range(64))


@pytest.mark.parametrize("zeros", [1, 2, 3, 129, 257, 510, 511, 70_001])
@pytest.mark.parametrize("bits", [8, 16])
def test_zeros_behind_an_rle_segment_are_no_data(bits: int, zeros: int) -> None:
    values = picture(40, 40, bits)
    decoded = decode(RLE, encoded(RLE, values, bits) + bytes(zeros), described(values, bits), rgb=True)
    assert decoded.samples.tobytes() == values.tobytes()


def test_an_image_that_ends_in_zeros_needs_those_that_are_its_own() -> None:
    values = np.zeros((40, 40), np.uint8)
    literal = b"".join(b"\x3f" + bytes(64) for _ in range(25))
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    for zeros in (0, 510):
        decoded = decode(RLE, header + literal + bytes(zeros), described(values, 8), rgb=True)
        assert not decoded.samples.any()
    with pytest.raises(Permanent, match=r"truncated|damaged"):
        decode(RLE, header + literal[:-300], described(values, 8), rgb=True)


@pytest.mark.parametrize(("stated", "stored"), [(12, 12), (12, 10)])
def test_a_lossless_jpeg_whose_differences_wrap_is_cut_to_its_precision(stated: int, stored: int) -> None:
    values = picture(40, 40, 16)
    codestream = jpeg_lossless(values, stated)  # differences of 16 bits, which is all that a scan knows
    assert decode(LOSSLESS, codestream, described(values, 16), rgb=True).samples.tobytes() == values.tobytes()
    decoded = decode(
        LOSSLESS, codestream, described(values, 12, bits_stored=stored, high_bit=stored - 1), rgb=True
    )
    assert (decoded.samples == values & 0xFFF).all()
    assert "wrap" in decoded.notes[0]


def test_signed_samples_beyond_bits_stored_have_the_sign_of_the_codestream() -> None:
    values = picture(40, 40, 12, signed=True)
    stored = (values.view(np.uint16) & 0xFFF).astype(np.uint16)
    image = described(values, 12, bits_stored=10, high_bit=9)
    decoded = decode(J2K, j2k(stored, 12), image, rgb=True)
    assert (decoded.samples.view(np.int16) == values).all()


def progressive(scans: int) -> bytes:
    """A blank progressive JPEG, its last scan again and again."""
    made = (DATA / "codestreams/progressive.jpg").read_bytes()
    start = made.rindex(b"\xff\xda")
    return made[:-2] + made[start:-2] * (scans - made.count(b"\xff\xda")) + b"\xff\xd9"


def test_a_jpeg_of_thousands_of_scans_is_refused_before_each_goes_over_the_frame():
    blank = np.zeros((512, 512), np.uint8)
    assert (decode(BASELINE, progressive(6), described(blank, 8), rgb=False).samples == 0).all()
    decode(BASELINE, progressive(100), described(blank, 8), rgb=False)
    with pytest.raises(Permanent, match="has 5000 scans"):
        decode(BASELINE, progressive(5000), described(blank, 8), rgb=False)
