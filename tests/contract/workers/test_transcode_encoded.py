"""Encapsulated, big endian and deflated renditions, as DCMTK, GDCM and pydicom read them.

`tests/transcoding` has the matrix of all syntaxes; here is what each clause of the pipeline promises.
"""

import hashlib
import struct
import subprocess
import zlib
from pathlib import Path

import imagecodecs
import jpeg_ls
import numpy as np
import pytest
from pydicom import Sequence, dcmread
from pydicom.encaps import generate_frames, parse_basic_offsets
from pydicom.pixels.utils import unpack_bits

from dicomferry.dicom.part10 import dataset_offset
from dicomferry.dicom.syntaxes import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomferry.errors import Permanent
from tests.support.images.files import gdcm_pixels, native_pixels, shipped
from tests.support.images.independent import dump
from tests.support.images.renditions import made, rendition
from tests.support.images.synthetic import dataset, encapsulated, image, write
from tests.support.running.services import program
from workers.dataset import fragment_writer
from workers.transcode import Unsuitable

RLE = "1.2.840.10008.1.2.5"
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
JPEG = "1.2.840.10008.1.2.4."
J2K, JPEG_LS, SV1 = JPEG + "90", JPEG + "80", JPEG + "70"
BY_DCMTK = {RLE: "dcmdrle", JPEG_LS: "dcmdjpls", SV1: "dcmdjpeg", JPEG + "57": "dcmdjpeg"}
LOSSLESS = [*BY_DCMTK, J2K]


def pixels(path: Path, uid: str, work: Path) -> bytes:
    """Native pixels by somebody else's decoder, colour by pixel."""
    if uid == J2K:
        return gdcm_pixels(path, work)
    target = path.with_suffix(".dcmtk")
    options = ["+px"] if BY_DCMTK[uid] == "dcmdjpeg" else []
    if dcmread(path, stop_before_pixels=True).PhotometricInterpretation.startswith("YBR"):
        options = ["+cn"] if BY_DCMTK[uid] == "dcmdjpeg" else []
    subprocess.run(
        [program(BY_DCMTK[uid]), *options, str(path), str(target)], check=True, capture_output=True
    )
    read = dcmread(target)
    content = native_pixels(target)
    if read.get("PlanarConfiguration") == 1:
        shape = (read.get("NumberOfFrames", 1), 3, read.Rows, read.Columns)
        return np.moveaxis(
            np.frombuffer(content, f"u{read.BitsAllocated // 8}").reshape(shape), 1, -1
        ).tobytes()
    return content


KINDS = [
    (8, 1, False, 1), (10, 1, False, 3), (12, 1, False, 1), (16, 1, False, 2), (16, 1, True, 1),
    (8, 3, False, 1), (8, 3, False, 3), (12, 1, True, 1),
]  # fmt: skip


def native_source(
    folder: Path, kind: tuple[int, int, bool, int], uid: str, shape=(37, 41)
) -> tuple[Path, bytes]:
    bits, samples, signed, frames = kind
    values = np.stack([image(*shape, bits, samples=samples, signed=signed, seed=n) for n in range(frames)])
    elements = {"NumberOfFrames": frames} if frames > 1 else {}
    one = dataset(values.shape[1:], bits, signed=signed, **elements)
    content = values.tobytes()
    wide = values.dtype.itemsize == 2
    one.add_new("PixelData", "OW" if wide else "OB", content + b"\x00" * (len(content) % 2))
    if uid == EXPLICIT_BE:
        one["PixelData"].value = values.astype(values.dtype.newbyteorder(">")).tobytes() + b"\x00" * (
            len(content) % 2
        )
    return write(folder / "in.dcm", one, uid), content


@pytest.mark.parametrize("source_uid", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("uid", LOSSLESS)
def test_native_pixels_come_back_from_another_decoder(
    uid: str, kind: tuple[int, int, bool, int], source_uid: str, tmp_path: Path
) -> None:
    source, content = native_source(tmp_path, kind, source_uid)
    target, report = made(source, uid, tmp_path)
    mask = (1 << kind[0]) - 1
    width = "u1" if kind[0] <= 8 else "<u2"
    # The bits above a signed value are its sign's, which not every decoder extends.
    theirs = np.frombuffer(pixels(target, uid, tmp_path), width) & mask
    assert (theirs == np.frombuffer(content, width) & mask).all()
    assert "pixels equal" in report.verified
    assert report.digest


@pytest.mark.parametrize("uid", LOSSLESS)
@pytest.mark.parametrize("name", ["CT_small", "MR_small", "emri_small", "color-pl", "OBXXXX1A", "MR2_UNCR"])
def test_dcmdump_reads_the_same_of_everything_around_the_pixels(name: str, uid: str, tmp_path: Path) -> None:
    source = shipped(f"{name}.dcm")
    before, after = dcmread(source), rendition(source, uid, tmp_path)
    # Group lengths go, and colour has another order and, in JPEG 2000, another transform.
    changed = ("(0028,0004)", "(0028,0006)") if before.SamplesPerPixel == 3 else ()
    groups = [f"({element.tag.group:04x},0000)" for element in before if not element.tag.element]
    if before.file_meta.TransferSyntaxUID.is_implicit_VR:
        subprocess.run([program("dcmconv"), "+te", str(source), str(tmp_path / "explicit.dcm")], check=True)
        source = tmp_path / "explicit.dcm"
    assert dump(after, *changed, *groups) == dump(source, *changed, *groups)
    read = dcmread(after)
    assert read.SOPInstanceUID == before.SOPInstanceUID == read.file_meta.MediaStorageSOPInstanceUID
    assert "LossyImageCompression" not in read or "LossyImageCompression" in before
    assert read["PixelData"].VR == "OB"
    if before.SamplesPerPixel == 3:
        assert read.PlanarConfiguration == 0
        assert read.PhotometricInterpretation == ("YBR_RCT" if uid == J2K else "RGB")


def test_each_frame_is_one_fragment_that_the_table_points_to(tmp_path: Path) -> None:
    target = dcmread(rendition(shipped("emri_small.dcm"), RLE, tmp_path))
    offsets = parse_basic_offsets(target.PixelData)
    fragments = list(generate_frames(target.PixelData, number_of_frames=10))
    assert len(offsets) == len(fragments) == 10
    assert offsets == [sum(len(f) + 8 for f in fragments[:n]) for n in range(10)]


def test_offsets_beyond_32_bits_get_an_extended_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragment_writer, "LAST_BASIC_OFFSET", 1000)
    source = shipped("emri_small.dcm")
    target = rendition(source, JPEG_LS, tmp_path)
    read = dcmread(target)
    assert parse_basic_offsets(read.PixelData) == []
    tables = read.ExtendedOffsetTable, read.ExtendedOffsetTableLengths
    frames = list(generate_frames(read.PixelData, number_of_frames=10, extended_offsets=tables))
    decoded = b"".join(imagecodecs.jpegls_decode(frame).tobytes() for frame in frames)
    assert decoded == native_pixels(source)
    # And back: the tables go with the fragments.
    back = dcmread(rendition(target, EXPLICIT_LE, tmp_path))
    assert back.PixelData == dcmread(source).PixelData
    assert "ExtendedOffsetTable" not in back
    assert "ExtendedOffsetTableLengths" not in back
    monkeypatch.setattr(fragment_writer, "LAST_BASIC_OFFSET", 0xFFFFFFFF)
    assert "ExtendedOffsetTable" not in dcmread(rendition(target, RLE, tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "CT_small",
        "MR_small_bigendian",
        "rtdose",
        "color-pl",
        "test-SR",
        "MR_small_RLE",
        "emri_small_jpeg_2k_lossless",
        "liver_1frame",
        "SC_rgb_jpeg_dcmtk",
        "image_dfl",
    ],
)
@pytest.mark.parametrize("uid", [EXPLICIT_BE, DEFLATED_LE])
def test_big_endian_and_deflated_data_sets_are_what_dcmtk_reads(uid: str, name: str, tmp_path: Path) -> None:
    source = shipped(f"{name}.dcm")
    ours = rendition(source, uid, tmp_path)
    read = tmp_path / "read.dcm"
    subprocess.run([program("dcmconv"), "+te", "-g", str(ours), str(read)], check=True)
    little = rendition(source, EXPLICIT_LE, tmp_path)
    theirs = tmp_path / "little.dcm"  # dcmconv writes sequences with explicit lengths
    subprocess.run([program("dcmconv"), "+te", "-g", str(little), str(theirs)], check=True)
    assert dump(read) == dump(theirs)
    if "PixelData" in dcmread(little):
        assert dcmread(read).PixelData == dcmread(little).PixelData
    back = rendition(ours, EXPLICIT_LE, tmp_path)
    assert back.read_bytes() == little.read_bytes()


def test_a_deflated_data_set_has_even_length_and_is_raw(tmp_path: Path) -> None:
    for name in ("CT_small.dcm", "test-SR.dcm", "rtplan.dcm"):
        ours = rendition(shipped(name), DEFLATED_LE, tmp_path)
        content = ours.read_bytes()[dataset_offset(ours) :]
        assert len(content) % 2 == 0
        assert zlib.decompress(content, -zlib.MAX_WBITS)


def test_planes_of_colour_are_interleaved(tmp_path: Path) -> None:
    values = np.stack([image(20, 30, 8, samples=3, seed=n) for n in range(2)])
    one = dataset(values.shape[1:], 8, NumberOfFrames=2, PlanarConfiguration=1)
    one.add_new("PixelData", "OB", np.moveaxis(values, -1, 1).tobytes())
    source = write(tmp_path / "in.dcm", one, EXPLICIT_LE)
    for uid in LOSSLESS:
        assert pixels(rendition(source, uid, tmp_path), uid, tmp_path) == values.tobytes()


@pytest.mark.parametrize("uid", LOSSLESS)
def test_shared_colours_are_given_to_each_pixel(uid: str, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    pairs = random.integers(0, 256, (2, 16, 16, 4), np.uint8)  # frames, rows, pairs, Y1 Y2 Cb Cr
    one = dataset((16, 32, 3), 8, NumberOfFrames=2, PhotometricInterpretation="YBR_FULL_422")
    one.add_new("PixelData", "OB", pairs.tobytes())
    source = write(tmp_path / "in.dcm", one, EXPLICIT_LE)
    if uid == J2K:  # GDCM knows no JPEG 2000 without the component transform
        frames = dcmread(rendition(source, uid, tmp_path))
        whole = np.stack(
            [imagecodecs.jpeg2k_decode(f) for f in generate_frames(frames.PixelData, number_of_frames=2)]
        )
    else:
        read = pixels(rendition(source, uid, tmp_path), uid, tmp_path)
        whole = np.frombuffer(read, np.uint8).reshape(2, 16, 32, 3)
    assert dcmread(rendition(source, uid, tmp_path)).PhotometricInterpretation == "YBR_FULL"
    assert (whole[..., 0].reshape(2, 16, 16, 2) == pairs[..., :2]).all()
    for pixel in (0, 1):
        assert (whole[:, :, pixel::2, 1:] == pairs[..., 2:]).all()


def test_big_endian_words_with_bytes_in_them_are_unpacked(tmp_path: Path) -> None:
    """8 bit cells in OW, odd frames: each word is swapped, and frames begin in the middle of one."""
    values = np.stack([image(3, 5, 8, seed=n) for n in range(4)])
    one = dataset(values.shape[1:], 8, NumberOfFrames=4)
    one.add_new("PixelData", "OW", np.frombuffer(values.tobytes(), "<u2").astype(">u2").tobytes())
    source = write(tmp_path / "in.dcm", one, EXPLICIT_BE)
    assert pixels(rendition(source, RLE, tmp_path), RLE, tmp_path) == values.tobytes()


def in_words(folder: Path, bits: int) -> tuple[Path, bytes]:
    """Values of a few bits in 16 allocated."""
    values = image(40, 48, bits).astype("<u2")
    one = dataset(values.shape, bits, BitsAllocated=16)
    one.add_new("PixelData", "OW", values.tobytes())
    return write(folder / f"{bits}.dcm", one, EXPLICIT_LE), values.tobytes()


@pytest.mark.parametrize("uid", [JPEG_LS, JPEG + "81"])
@pytest.mark.parametrize("bits", [8, 5])
def test_no_jpeg_ls_is_made_that_dcmtk_could_not_read(bits: int, uid: str, tmp_path: Path) -> None:
    source, content = in_words(tmp_path, bits)
    with pytest.raises(Unsuitable, match=f"{bits} bits stored in 16 .*DCMTK"):
        rendition(source, uid, tmp_path)
    # Others hold it.
    assert pixels(rendition(source, RLE, tmp_path), RLE, tmp_path) == content
    wider, content = in_words(tmp_path, 9)
    assert pixels(rendition(wider, JPEG_LS, tmp_path), JPEG_LS, tmp_path) == content


def test_what_is_said_of_dcmtk_and_jpeg_ls_is_still_so(tmp_path: Path) -> None:
    """Once it reads such a frame, the refusal has no reason any more."""
    values = image(40, 48, 8)
    options = {"rows": 40, "columns": 48, "samples_per_pixel": 1, "bits_stored": 8, "lossy_error": 0}
    codestream = bytes(jpeg_ls.encode_pixel_data(values.tobytes(), **options))
    for allocated, fails in ((8, False), (16, True)):
        one = dataset(values.shape, 8, BitsAllocated=allocated)
        path = encapsulated(tmp_path / f"{allocated}.dcm", one, JPEG_LS, [codestream])
        done = subprocess.run(
            [program("dcmdjpls"), str(path), str(tmp_path / "out")], capture_output=True, check=False
        )
        assert bool(done.returncode) == fails


@pytest.mark.parametrize("source_uid", [EXPLICIT_LE, EXPLICIT_BE])
@pytest.mark.parametrize("columns", [8, 5])
def test_single_bits_survive_though_frames_begin_inside_a_byte(
    columns: int, source_uid: str, tmp_path: Path
) -> None:
    values = np.random.default_rng(2).integers(0, 2, (5, 3, columns), np.uint8)
    one = dataset((3, columns), 8, NumberOfFrames=5, BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = np.packbits(values.reshape(-1), bitorder="little").tobytes()
    one.add_new("PixelData", "OB", packed + b"\x00" * (len(packed) % 2))
    source = write(tmp_path / "in.dcm", one, source_uid)
    with pytest.raises(Unsuitable, match="1 bits allocated"):
        rendition(source, RLE, tmp_path)
    middle = rendition(source, DEFLATED_FRAME, tmp_path)
    fragments = list(generate_frames(dcmread(middle).PixelData, number_of_frames=5))
    for frame, value in zip(fragments, values, strict=True):
        whole = zlib.decompressobj(-zlib.MAX_WBITS).decompress(frame)
        assert (unpack_bits(whole)[: value.size] == value.reshape(-1)).all()
    back = dcmread(rendition(middle, EXPLICIT_LE, tmp_path))
    assert back.PixelData == one.PixelData


def with_overlay(
    folder: Path, *, signed: bool = False, stray: bool = False
) -> tuple[Path, np.ndarray, np.ndarray]:
    values = image(16, 24, 12, signed=signed)
    overlay = np.random.default_rng(4).integers(0, 2, (16, 24)).astype(np.uint16)
    cells = values.view(np.uint16) & 0x0FFF | overlay << 12
    if stray:
        cells[3, 3] |= 1 << 14
    one = dataset(values.shape, 12, signed=signed)
    for element, vr, value in (
        (0x0010, "US", 16), (0x0011, "US", 24), (0x0040, "CS", "G"), (0x0050, "SS", [1, 1]),
        (0x0100, "US", 16), (0x0102, "US", 12),
    ):  # fmt: skip
        one.add_new(0x60000000 | element, vr, value)
    one.add_new("PixelData", "OW", cells.tobytes())
    return write(folder / "in.dcm", one, EXPLICIT_LE), values, overlay


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("uid", [J2K, JPEG_LS, SV1])
def test_an_overlay_in_the_pixel_cells_moves_out_of_them(uid: str, signed: bool, tmp_path: Path) -> None:
    source, values, overlay = with_overlay(tmp_path, signed=signed)
    target, report = made(source, uid, tmp_path)
    assert "overlay 6000 moved" in report.notes
    read = dcmread(target)
    assert (read.overlay_array(0x6000) == overlay).all()
    assert read[0x60000100].value == 1
    assert read[0x60000102].value == 0
    theirs = np.frombuffer(pixels(target, uid, tmp_path), "<u2") & 0x0FFF
    assert (theirs == values.reshape(-1).view(np.uint16) & 0x0FFF).all()
    assert dump(target, "(6000,0100)", "(6000,0102)", "(6000,3000)") == dump(
        source, "(6000,0100)", "(6000,0102)"
    )


@pytest.mark.parametrize("uid", [RLE, DEFLATED_FRAME, EXPLICIT_BE, IMPLICIT_LE, DEFLATED_LE])
def test_what_holds_whole_cells_keeps_an_overlay_where_it_is(uid: str, tmp_path: Path) -> None:
    source, _, _ = with_overlay(tmp_path, stray=True)
    back = rendition(rendition(source, uid, tmp_path), EXPLICIT_LE, tmp_path)
    assert back.read_bytes()[dataset_offset(back) :] == source.read_bytes()[dataset_offset(source) :]


@pytest.mark.parametrize("through", [EXPLICIT_LE, RLE])
def test_bits_that_nothing_explains_are_refused_never_lost(through: str, tmp_path: Path) -> None:
    source, _, _ = with_overlay(tmp_path, stray=True)
    source = rendition(source, through, tmp_path)
    with pytest.raises(Unsuitable, match="no overlay"):
        rendition(source, J2K, tmp_path)
    assert not list(tmp_path.glob("*90.out"))


@pytest.mark.parametrize("name", ["SC_rgb_jpeg_dcmtk", "SC_rgb_dcmtk_+eb+cy+n2"])
def test_a_jpeg_goes_into_jpeg_xl_and_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    source = shipped(f"{name}.dcm")
    middle = rendition(source, JPEG + "111", tmp_path)
    back = rendition(middle, JPEG + "50", tmp_path)
    before, inside, after = (dcmread(path) for path in (source, middle, back))
    count = int(before.get("NumberOfFrames") or 1)
    frames = [list(generate_frames(one.PixelData, number_of_frames=count)) for one in (before, after)]
    assert [f.rstrip(b"\x00") for f in frames[0]] == [f.rstrip(b"\x00") for f in frames[1]]
    assert before.SOPInstanceUID == inside.SOPInstanceUID == after.SOPInstanceUID
    assert before.PhotometricInterpretation == inside.PhotometricInterpretation
    with pytest.raises(Unsuitable, match="JPEG frames alone"):
        rendition(shipped("CT_small.dcm"), JPEG + "111", tmp_path)


@pytest.mark.parametrize("name", ["MR_small_RLE", "JPGExtended", "US1_J2KI", "MR_small_jpeg_ls_lossless"])
def test_fragments_in_the_right_syntax_are_copied(name: str, tmp_path: Path) -> None:
    source = shipped(f"{name}.dcm")
    before = dcmread(source)
    after = dcmread(rendition(source, str(before.file_meta.TransferSyntaxUID), tmp_path))
    assert after.PixelData == before.PixelData
    assert after.SOPInstanceUID == before.SOPInstanceUID
    assert [str(e) for e in after if e.tag.element] == [str(e) for e in before if e.tag.element]


def test_a_delimiter_that_was_missing_is_there_in_a_copy(tmp_path: Path) -> None:
    source = shipped("emri_small_jpeg_2k_lossless_too_short.dcm")
    assert gdcm_pixels(rendition(source, J2K, tmp_path), tmp_path) == native_pixels(shipped("emri_small.dcm"))


def test_an_encapsulated_icon_becomes_native_and_a_native_one_stays(tmp_path: Path) -> None:
    icon_pixels, pixels_ = image(8, 8, 8), image(32, 32, 8)
    for encoded in (True, False):
        icon = dataset(icon_pixels.shape, 8)
        for keyword in ("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"):
            del icon[keyword]
        if encoded:
            stream = imagecodecs.jpegls_encode(icon_pixels)
            stream += b"\x00" * (len(stream) % 2)
            items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, len(stream))
            icon.add_new("PixelData", "OB", items + stream)
            icon["PixelData"].is_undefined_length = True
        else:
            icon.add_new("PixelData", "OB", icon_pixels.tobytes())
        one = dataset(pixels_.shape, 8, IconImageSequence=Sequence([icon]))
        source = encapsulated(tmp_path / "in.dcm", one, JPEG_LS, [imagecodecs.jpegls_encode(pixels_)])
        read = dcmread(rendition(source, RLE, tmp_path))
        assert read.IconImageSequence[0].PixelData == icon_pixels.tobytes()
        assert pixels(rendition(source, RLE, tmp_path), RLE, tmp_path) == pixels_.tobytes()
        same = dcmread(rendition(source, JPEG_LS, tmp_path))
        assert same.IconImageSequence[0].PixelData == dcmread(source).IconImageSequence[0].PixelData


@pytest.mark.parametrize("uid", [*LOSSLESS, JPEG + "91"])
def test_what_has_no_integer_pixels_is_refused_by_encapsulated_targets(uid: str, tmp_path: Path) -> None:
    with pytest.raises(Unsuitable, match="no pixel data"):
        rendition(shipped("test-SR.dcm"), uid, tmp_path)
    for vr, keyword, kind in (("OF", "FloatPixelData", "<f4"), ("OD", "DoubleFloatPixelData", "<f8")):
        one = dataset((4, 4), 16, BitsAllocated=32)
        one.add_new(keyword, vr, np.linspace(0, 1, 16).astype(kind).tobytes())
        source = write(tmp_path / "in.dcm", one, EXPLICIT_LE)
        with pytest.raises(Unsuitable, match="float"):
            rendition(source, uid, tmp_path)
        there = rendition(source, EXPLICIT_BE, tmp_path)
        assert rendition(there, EXPLICIT_LE, tmp_path).read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Rows": 65535, "Columns": 65535}, "largest_frame_mb"),
        ({"NumberOfFrames": 4_000_000}, "truncated"),
        ({"NumberOfFrames": 2_000_000_000}, "largest_image_mb"),
        ({"Rows": 0}, "0 rows"),
        ({"SamplesPerPixel": 7}, "7 samples"),
        ({"BitsAllocated": 12}, "12 bits"),
        ({"BitsStored": 40}, "bits stored"),
    ],
)
def test_a_header_that_claims_what_is_not_there_is_refused_before_anything_is_allocated(
    changed: dict[str, int], words: str, tmp_path: Path
) -> None:
    one = dataset((16, 16), 16, **changed)
    one.add_new("PixelData", "OW", bytes(512))
    source = write(tmp_path / "in.dcm", one, EXPLICIT_LE)
    for uid in (RLE, J2K):
        with pytest.raises(Permanent, match=words):
            rendition(source, uid, tmp_path)


def test_more_native_pixels_than_32_bits_count_are_refused(tmp_path: Path) -> None:
    stream = imagecodecs.jpegls_encode(np.zeros((512, 512), np.uint16))
    one = dataset((512, 512), 16, NumberOfFrames=8193)
    source = encapsulated(tmp_path / "in.dcm", one, JPEG_LS, [stream] * 8193)
    with pytest.raises(Unsuitable, match="4295491584 bytes"):
        rendition(source, EXPLICIT_LE, tmp_path)


def test_equal_inputs_give_equal_bytes(tmp_path: Path) -> None:
    for uid in (*LOSSLESS, DEFLATED_LE, DEFLATED_FRAME, JPEG + "201", JPEG + "110"):
        digests = {
            hashlib.sha256(rendition(shipped("MR_small.dcm"), uid, tmp_path / str(n)).read_bytes()).digest()
            for n in range(2)
        }
        assert len(digests) == 1
