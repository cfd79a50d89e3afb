"""What the encoders write: read back by others' decoders, with the precision and refusals of the standard.

Who reads what: DCMTK and GDCM read RLE, JPEG and JPEG-LS; FFmpeg's own decoder and GDCM (by OpenJPEG) read
JPEG 2000; OpenJPEG and OpenJPH both read HTJ2K, which OpenJPH wrote; zlib reads what libdeflate wrote. No
second implementation of JPEG XL is here: libjxl alone reads it, and lossless it is held against the samples.
"""

from dataclasses import replace
from itertools import product
from pathlib import Path

import imagecodecs
import numpy as np
import openjpeg
import pytest

from dicomferry.dicom.syntaxes import BY_UID, TABLE
from dicomferry.errors import Permanent, Unsuitable
from tests.support.images import independent
from tests.support.images.cells import back, picture
from tests.support.images.files import gdcm_pixels
from tests.support.images.synthetic import dataset, encapsulated
from workers.codecs import decoders
from workers.codecs.codestreams import read_jpeg
from workers.codecs.decoders import decode
from workers.codecs.encoders import ENCODERS, Encoded, Quality, encode, refusal
from workers.codecs.image import Image
from workers.codecs.j2k_header import read_j2k
from workers.codecs.jxl_header import read_jxl

JPEG = "1.2.840.10008.1.2.4."
RLE = "1.2.840.10008.1.2.5"
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
BASELINE, EXTENDED, LOSSLESS, SV1 = (JPEG + suffix for suffix in ("50", "51", "57", "70"))
JPEG_LS, JPEG_LS_NEAR, J2K, J2K_LOSSY = (JPEG + suffix for suffix in ("80", "81", "90", "91"))
HTJ2K, HTJ2K_RPCL, HTJ2K_LOSSY = (JPEG + suffix for suffix in ("201", "202", "203"))
JPEG_XL, RECOMPRESSED, JPEG_XL_LOSSY = (JPEG + suffix for suffix in ("110", "111", "112"))

ALL_LOSSLESS = [uid for uid in ENCODERS if BY_UID[uid].lossless]


def wrapped(path: Path, uid: str, encoded: Encoded, image: Image) -> Path:
    """A file around one frame, as the pipeline would describe it."""
    shape = (image.rows, image.columns, *((3,) if image.samples == 3 else ()))
    made = dataset(
        shape,
        image.bits_stored,
        signed=image.signed,
        BitsAllocated=image.bits_allocated,
        PhotometricInterpretation=encoded.photometric,
    )
    return encapsulated(path, made, uid, [encoded.codestream])


def test_the_table_says_what_each_encoder_can_hold_and_names_its_library() -> None:
    made = {*ENCODERS, RECOMPRESSED}
    assert {syntax.uid for syntax in TABLE if syntax.encoded and not syntax.native} == made
    assert {syntax.uid for syntax in TABLE if syntax.capability and syntax.encoder} == made
    assert all(syntax.decoder for syntax in TABLE if syntax.uid in decoders.DECODERS)


@pytest.mark.parametrize("uid", ALL_LOSSLESS)
def test_lossless_encoders_keep_every_value_of_every_precision_sign_and_colour(uid: str) -> None:
    held = 0
    for allocated, samples, signed, shape in product(
        (8, 16, 32), (1, 3), (False, True), ((37, 53), (16, 17), (5, 3))
    ):
        for bits in range(1, allocated + 1):
            cells, image = picture(bits, samples=samples, signed=signed, allocated=allocated, shape=shape)
            if refusal(uid, image) is None:
                held += 1
                encoded = encode(uid, cells, image, Quality())
                assert back(uid, encoded, image).tobytes() == cells.tobytes(), image
    assert held >= 84


@pytest.mark.parametrize("bits", [2, 7, 8, 9, 10, 12, 15, 16])
def test_the_codestream_has_the_precision_of_bits_stored(bits: int) -> None:
    for uid, signed, samples in product(ALL_LOSSLESS, (False, True), (1, 3)):
        cells, image = picture(bits, samples=samples, signed=signed, allocated=16)
        if uid in (RLE, DEFLATED_FRAME) or refusal(uid, image):
            continue
        codestream = encode(uid, cells, image, Quality()).codestream
        read = read_j2k if uid in (J2K, HTJ2K, HTJ2K_RPCL) else read_jxl if uid == JPEG_XL else read_jpeg
        header = read(codestream)
        assert header.precision == bits, uid
        assert header.signed == (signed and read is read_j2k), uid


def dcmtk_cases() -> list[tuple[str, int, bool, int]]:
    return [
        (uid, bits, signed, samples)
        for uid, bits, signed, samples in product(
            (RLE, LOSSLESS, SV1, JPEG_LS, J2K), (8, 10, 12, 16), (False, True), (1, 3)
        )
        if not (samples == 3 and (signed or bits != 8))
    ]


@pytest.mark.parametrize(("uid", "bits", "signed", "samples"), dcmtk_cases())
def test_an_independent_decoder_reads_the_same_values(
    uid: str, bits: int, signed: bool, samples: int, tmp_path: Path
) -> None:
    cells, image = picture(bits, samples=samples, signed=signed)
    path = wrapped(tmp_path / "made.dcm", uid, encode(uid, cells, image, Quality()), image)
    read, photometric = independent.cells(path, tmp_path)
    # DCMTK leaves the bits above Bits Stored of signed values empty: they mean nothing (PS3.5 8.1.1).
    stored = cells.dtype.type(
        (1 << bits) - 1 if bits < 8 * cells.itemsize else -1 if signed else (1 << bits) - 1
    )
    assert (read[0] & stored == cells & stored).all()
    assert photometric == image.photometric


@pytest.mark.parametrize("uid", [RLE, LOSSLESS, SV1, JPEG_LS, J2K])
def test_gdcm_reads_the_same_values(uid: str, tmp_path: Path) -> None:
    for bits, signed, samples in (
        (8, False, 1),
        (8, False, 3),
        (12, False, 1),
        (16, True, 1),
        (16, False, 1),
    ):
        cells, image = picture(bits, samples=samples, signed=signed)
        name = f"{bits}-{signed}-{samples}.dcm"
        path = wrapped(tmp_path / name, uid, encode(uid, cells, image, Quality()), image)
        assert gdcm_pixels(path, tmp_path) == cells.tobytes(), name


@pytest.mark.parametrize("signed", [False, True])
def test_rle_of_32_bits_is_read_by_dcmtk_and_gdcm(signed: bool, tmp_path: Path) -> None:
    cells, image = picture(32, signed=signed, allocated=32)
    path = wrapped(tmp_path / "made.dcm", RLE, encode(RLE, cells, image, Quality()), image)
    assert (independent.cells(path, tmp_path)[0][0] == cells).all()
    assert gdcm_pixels(path, tmp_path) == cells.tobytes()


@pytest.mark.parametrize("signed", [False, True])
def test_htj2k_of_any_precision_is_read_alike_by_openjpeg_and_openjph(signed: bool) -> None:
    """The precision is written by us, so noise over the whole range must survive two decoders."""
    random = np.random.default_rng(7)
    for bits, samples in product(range(1, 17), (1, 3)):
        if signed and samples == 3:
            continue
        _, image = picture(bits, samples=samples, signed=signed, allocated=16, shape=(70, 93))
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        shape = (70, 93, 3) if samples == 3 else (70, 93)
        for values in (
            random.integers(low, high + 1, shape),
            np.where(random.integers(0, 2, shape), low, high),
            np.full(shape, low),
            np.full(shape, high),
        ):
            encoded = encode(HTJ2K, values.astype("<i2" if signed else "<u2"), image, Quality())
            kind = f"<{'i' if signed else 'u'}{1 if bits <= 8 else 2}"
            first = openjpeg.utils.decode(encoded.codestream, 0, reshape=False).view(kind).reshape(shape)
            assert (first == values).all(), (bits, samples)
            assert (imagecodecs.htj2k_decode(encoded.codestream) == values).all(), (bits, samples)


def markers(codestream: bytes) -> dict[int, bytes]:
    """The marker segments of a JPEG 2000 main header."""
    found, at = {}, 2
    while (marker := int.from_bytes(codestream[at : at + 2], "big")) != 0xFF90:
        length = int.from_bytes(codestream[at + 2 : at + 4], "big")
        found[marker] = codestream[at + 4 : at + 2 + length]
        at += 2 + length
    return found


@pytest.mark.parametrize("shape", [(512, 512), (16, 2048), (40, 2049), (4100, 9)])
def test_htj2k_rpcl_has_tlm_and_a_base_resolution_of_at_most_64(shape: tuple[int, int]) -> None:
    cells, image = picture(12, shape=shape)
    codestream = encode(HTJ2K_RPCL, cells, image, Quality()).codestream
    found = markers(codestream)
    assert 0xFF55 in found  # TLM
    progression, levels, style, kernel = (found[0xFF52][n] for n in (1, 5, 8, 9))
    assert progression == 2  # RPCL
    assert -(-max(shape) // 2**levels) <= 64
    assert style & 0x40  # high throughput
    assert kernel == 1  # reversible
    assert (back(HTJ2K_RPCL, Encoded(codestream, "MONOCHROME2"), image) == cells).all()


@pytest.mark.parametrize(
    ("uid", "kernel", "photometric"),
    [(J2K, 1, "YBR_RCT"), (J2K_LOSSY, 0, "YBR_ICT"), (HTJ2K, 1, "YBR_RCT"), (HTJ2K_LOSSY, 0, "YBR_ICT")],
)
def test_wavelets_transform_rgb_and_nothing_else_and_say_so(uid: str, kernel: int, photometric: str) -> None:
    cells, image = picture(8, samples=3, shape=(64, 64))
    coded = encode(uid, cells, image, Quality(ratio=3))
    assert coded.photometric == photometric
    cod = markers(coded.codestream)[0xFF52]
    assert (cod[4], cod[9]) == (1, kernel)
    kept = encode(uid, cells, replace(image, photometric="YBR_FULL"), Quality(ratio=3))
    assert kept.photometric == "YBR_FULL"
    assert markers(kept.codestream)[0xFF52][4] == 0


@pytest.mark.parametrize("uid", [RLE, DEFLATED_FRAME, LOSSLESS, SV1, JPEG_LS, J2K, HTJ2K])
def test_ybr_full_stays_as_it_is_without_loss(uid: str) -> None:
    cells, image = picture(8, samples=3)
    image = replace(image, photometric="YBR_FULL")
    encoded = encode(uid, cells, image, Quality())
    decoded = decode(uid, encoded.codestream, image, rgb=True)
    assert (encoded.photometric, decoded.colour) == ("YBR_FULL", "YBR_FULL")
    assert (decoded.samples == cells).all()


@pytest.mark.parametrize("bits", [8, 12])
def test_grey_lossy_jpeg_is_read_by_dcmtk_as_by_us(bits: int, tmp_path: Path) -> None:
    uid = BASELINE if bits == 8 else EXTENDED
    cells, image = picture(bits, shape=(64, 80))
    encoded = encode(uid, cells, image, Quality(quality=95))
    assert read_jpeg(encoded.codestream).precision == bits
    assert encoded.codestream[:2] + encoded.codestream[-2:] == b"\xff\xd8\xff\xd9"
    read, _ = independent.cells(wrapped(tmp_path / "made.dcm", uid, encoded, image), tmp_path)
    assert abs(read[0].astype(int) - back(uid, encoded, image)).max() <= 1
    assert abs(read[0].astype(int) - cells).mean() < 1 << bits - 5


def test_colour_jpeg_is_ycbcr_with_half_the_chroma_columns_and_dcmtk_shows_it_alike(tmp_path: Path) -> None:
    cells, image = picture(8, samples=3, shape=(64, 80))
    smooth = np.sort(cells, axis=1)
    encoded = encode(BASELINE, smooth, image, Quality(quality=95))
    frame = encoded.codestream.find(b"\xff\xc0")
    assert encoded.photometric == "YBR_FULL_422"
    assert [encoded.codestream[frame + 11 + 3 * n] for n in range(3)] == [0x21, 0x11, 0x11]
    read, photometric = independent.cells(wrapped(tmp_path / "made.dcm", BASELINE, encoded, image), tmp_path)
    assert photometric == "RGB"
    assert abs(read[0].astype(int) - smooth).mean() < 6


def test_colour_jpeg_of_ybr_full_is_not_converted_again() -> None:
    cells, image = picture(8, samples=3, shape=(64, 80))
    cells = np.sort(cells, axis=1)
    image = replace(image, photometric="YBR_FULL")
    encoded = encode(BASELINE, cells, image, Quality(quality=98))
    decoded = decode(BASELINE, encoded.codestream, replace(image, photometric="YBR_FULL_422"), rgb=False)
    assert decoded.colour == "YBR_FULL"
    assert abs(decoded.samples.astype(int) - cells).mean() < 4


@pytest.mark.parametrize(
    ("bits", "signed", "samples"), [(8, False, 1), (12, False, 1), (12, True, 1), (8, False, 3)]
)
def test_near_lossless_jpeg_ls_is_off_by_no_more_than_it_was_allowed(
    bits: int, signed: bool, samples: int, tmp_path: Path
) -> None:
    cells, image = picture(bits, samples=samples, signed=signed)
    cells = cells // 2  # away from the ends of the range
    for near in (0, 1, 3):
        encoded = encode(JPEG_LS_NEAR, cells, image, Quality(near=near))
        path = wrapped(tmp_path / f"{near}.dcm", JPEG_LS_NEAR, encoded, image)
        read, _ = independent.cells(path, tmp_path)
        spare = image.bits_allocated - bits  # which DCMTK leaves empty
        values = (read[0] << spare).view(cells.dtype) >> spare
        worst = abs(values.astype(int) - cells.astype(int)).max()
        assert worst <= near
        assert near == 0 or worst > 0
        assert back(JPEG_LS_NEAR, encoded, image).tobytes() == values.tobytes()


def test_a_ratio_that_htj2k_cannot_reach_is_refused() -> None:
    with pytest.raises(Unsuitable, match="one part in 500"):
        encode(HTJ2K_LOSSY, *picture(8, shape=(32, 32)), Quality(ratio=500))


def test_near_lossless_refuses_what_would_turn_over() -> None:
    cells, image = picture(12, signed=True)
    with pytest.raises(Unsuitable, match="sign"):
        encode(JPEG_LS_NEAR, cells, image, Quality(near=2))
    with pytest.raises(Unsuitable, match="near of 0 to 1"):
        encode(JPEG_LS_NEAR, *picture(2), Quality(near=2))


@pytest.mark.parametrize("uid", [J2K_LOSSY, HTJ2K_LOSSY])
@pytest.mark.parametrize(("bits", "signed", "samples"), [(8, False, 3), (12, False, 1), (16, True, 1)])
def test_lossy_wavelets_reach_the_ratio_and_are_read_alike_by_two_decoders(
    uid: str, bits: int, signed: bool, samples: int, tmp_path: Path
) -> None:
    cells, image = picture(bits, samples=samples, signed=signed, shape=(256, 256))
    raw = cells.size * bits / 8
    sizes = [len(encode(uid, cells, image, Quality(ratio=ratio)).codestream) for ratio in (4, 16)]
    assert raw / 4 * 0.8 <= sizes[0] <= raw / 4 * 1.05
    assert sizes[1] <= raw / 16 * 1.05
    encoded = encode(uid, cells, image, Quality(ratio=4))
    assert read_j2k(encoded.codestream).precision == bits
    path = wrapped(tmp_path / "made.dcm", uid, encoded, image)
    read, _ = independent.cells(path, tmp_path, noise=bits > 8)
    ours = back(uid, encoded, image).view(cells.dtype).astype(int)
    # OpenJPH as imagecodecs calls it turns over what overshoots 8 or 16 bits, in its own streams too.
    inside = abs(read[0].astype(int) - ours) < 1 << bits - 1
    assert inside.mean() > 0.99
    assert abs(read[0].astype(int) - ours)[inside].max() <= max(
        1, (1 << bits) >> 9
    )  # other rounding of other filters
    assert abs(ours - cells.astype(int)).mean() < 1 << bits - 4


@pytest.mark.parametrize(
    "uid", [uid for uid in ENCODERS if uid not in (RLE, DEFLATED_FRAME, BASELINE, EXTENDED)]
)
def test_bits_above_bits_stored_are_never_dropped(uid: str) -> None:
    cells, image = picture(12, shape=(40, 40))
    cells[3, 3] |= 0x1000
    with pytest.raises(Unsuitable, match="overlay"):
        encode(uid, cells, image, Quality())
    cells, image = picture(12, signed=True, shape=(40, 40))
    cells[3, 3] = -5 & 0x7FFF  # a negative value whose extension lacks a bit
    with pytest.raises(Unsuitable, match="overlay" if refusal(uid, image) is None else "signed"):
        encode(uid, cells, image, Quality())


@pytest.mark.parametrize("uid", [RLE, DEFLATED_FRAME])
def test_syntaxes_that_see_bytes_keep_bits_above_bits_stored(uid: str) -> None:
    cells, image = picture(16)
    image = replace(image, bits_stored=12, high_bit=11)
    assert back(uid, encode(uid, cells, image, Quality()), image).tobytes() == cells.tobytes()
    assert refusal(uid, replace(image, high_bit=15)) is None


@pytest.mark.parametrize("uid", [SV1, JPEG_LS, J2K, HTJ2K, JPEG_XL])
def test_signed_values_without_extended_sign_keep_their_values(uid: str) -> None:
    cells, image = picture(12, signed=True)
    bare = (cells.view("<u2") & 0xFFF).view("<i2")
    assert back(uid, encode(uid, bare, image, Quality()), image).tobytes() == cells.tobytes()


GREY = Image(64, 64, 1, 16, 12, 11, signed=False, photometric="MONOCHROME2")
REFUSED = [
    (BASELINE, {}, r"JPEG cannot hold 16 bits allocated \(PS3\.5 8\.2\.1\)"),
    (BASELINE, {"bits_allocated": 8, "bits_stored": 7, "high_bit": 6}, "7 bits stored"),
    (BASELINE, {"bits_allocated": 8, "bits_stored": 8, "high_bit": 7, "signed": True}, "signed"),
    (
        BASELINE,
        {"bits_allocated": 8, "bits_stored": 8, "high_bit": 7, "photometric": "PALETTE COLOR"},
        "PALETTE",
    ),
    (EXTENDED, {"bits_stored": 10, "high_bit": 9}, "10 bits stored"),
    (EXTENDED, {"samples": 3, "photometric": "RGB"}, "RGB of 3 samples"),
    (SV1, {"bits_allocated": 32, "bits_stored": 32, "high_bit": 31}, "32 bits allocated"),
    (JPEG_LS, {"bits_stored": 1, "high_bit": 0}, "1 bits stored"),
    (JPEG_LS_NEAR, {"photometric": "PALETTE COLOR"}, "PALETTE COLOR"),
    (J2K, {"bits_allocated": 32, "bits_stored": 32, "high_bit": 31}, "proved to 16"),
    (J2K, {"high_bit": 15}, r"High Bit 15 with 12 bits stored \(PS3\.5 8\.1\.1\)"),
    (J2K_LOSSY, {"photometric": "PALETTE COLOR"}, r"PALETTE COLOR of 1 samples \(PS3\.5 8\.2\.4\)"),
    (J2K_LOSSY, {"rows": 31}, "31 rows"),
    (HTJ2K, {"samples": 3, "photometric": "RGB", "signed": True}, r"signed samples \(PS3\.5 8\.2\.14\)"),
    (HTJ2K, {"samples": 4, "photometric": "CMYK"}, "CMYK of 4 samples"),
    (JPEG_XL, {"samples": 3, "photometric": "YBR_FULL"}, "YBR_FULL"),
    (JPEG_XL_LOSSY, {"signed": True}, "signed"),
    (RLE, {"bits_allocated": 1, "bits_stored": 1, "high_bit": 0}, "1 bits allocated"),
    (RECOMPRESSED, {}, "JPEG frames alone"),
    (JPEG + "92", {}, "workers cannot make J2KPart2"),
    ("1.2.3", {}, r"workers cannot make 1\.2\.3"),
]


@pytest.mark.parametrize(("uid", "changed", "words"), REFUSED)
def test_what_a_target_cannot_hold_is_refused_with_the_reason(
    uid: str, changed: dict[str, object], words: str
) -> None:
    image = replace(GREY, **changed)  # type: ignore[arg-type]
    with pytest.raises(Unsuitable, match=words):
        encode(uid, np.zeros((64, 64), "<u2"), image, Quality())
    assert refusal(uid, image)


@pytest.mark.parametrize("uid", [RLE, SV1, J2K])
def test_cells_that_are_not_what_the_image_says_are_refused(uid: str) -> None:
    cells, image = picture(12)
    for wrong in (cells[:-1], cells.astype("<u4"), cells.astype("u1"), cells[..., None]):
        with pytest.raises(Permanent, match="not a frame"):
            encode(uid, wrong, image, Quality())


def test_cells_in_the_other_byte_order_or_not_contiguous_are_the_same_values() -> None:
    cells, image = picture(12, shape=(64, 64))
    for uid in ALL_LOSSLESS:
        expected = encode(uid, cells, image, Quality())
        assert encode(uid, cells.astype(">u2"), image, Quality()) == expected
        assert encode(uid, np.repeat(cells, 2, axis=1)[:, ::2], image, Quality()) == expected


def test_equal_input_gives_equal_bytes() -> None:
    cells, image = picture(8, shape=(64, 64))
    for uid in ENCODERS:
        if refusal(uid, image) is None:
            assert encode(uid, cells, image, Quality()) == encode(uid, cells.copy(), image, Quality())


@pytest.mark.parametrize("uid", [DEFLATED_FRAME, J2K, HTJ2K, HTJ2K_RPCL])
@pytest.mark.parametrize("columns", [16, 13])
def test_single_bits_stay_packed(uid: str, columns: int) -> None:
    image = Image(41, columns, 1, 1, 1, 0, signed=False, photometric="MONOCHROME2")
    bits = np.random.default_rng(1).integers(0, 2, 41 * columns).astype(np.uint8)
    packed = np.packbits(bits, bitorder="little")
    encoded = encode(uid, packed, image, Quality())
    if uid != DEFLATED_FRAME:
        assert read_j2k(encoded.codestream).precision == 1
    assert back(uid, encoded, image).tobytes() == packed.tobytes()


@pytest.mark.parametrize("uid", [DEFLATED_FRAME, JPEG_XL, JPEG_XL_LOSSY])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.3, 0.7, 0.97])
def test_a_cut_frame_is_refused(uid: str, kept: float) -> None:
    cells, image = picture(12, shape=(128, 128))
    codestream = encode(uid, cells, image, Quality()).codestream
    with pytest.raises(Permanent):
        decode(uid, codestream[: int(len(codestream) * kept)], image, rgb=True)
