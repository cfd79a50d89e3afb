"""Renditions of objects made on the spot, for what the shipped files lack.

The lossless HTJ2K streams are made by OpenJPH, through imagecodecs, and must come back from OpenJPEG as the
samples that went in.
"""

import struct
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import openjpeg
import pytest
from pydicom import Dataset, Sequence, dcmread
from pydicom.encaps import encapsulate_extended

from dicomferry.dicom.part10 import dataset_offset, file_header
from dicomferry.dicom.syntaxes import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images.files import native_pixels, shipped
from tests.support.images.synthetic import (
    SECONDARY_CAPTURE,
    dataset,
    encapsulated,
    image,
    item,
    with_pixel_data,
    write,
)
from tests.support.running.services import program
from workers.transcode import Unsuitable, transcode

RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4."
TARGETS = [EXPLICIT_LE, IMPLICIT_LE]


def rendition(source: Path, uid: str = EXPLICIT_LE, colour: str = "rgb") -> Path:
    target = source.with_name(f"{source.stem}.{uid}.{colour}.out")
    transcode(source, target, RenditionSpec(uid, colour))
    return target


def j2k(values: np.ndarray, bits: int) -> bytes:
    return bytes(
        openjpeg.utils.encode_array(
            values, bits_stored=bits, photometric_interpretation=1 if values.ndim == 3 else 0
        )
    )


def htj2k(values: np.ndarray, bits: int) -> bytes:
    del bits
    return bytes(imagecodecs.htj2k_encode(values, tlm=True))


def jpeg_lossless(values: np.ndarray, predictor: int) -> bytes:
    unsigned = values.view(f"u{values.itemsize}")
    colours = {"colorspace": "RGB", "outcolorspace": "RGB"} if values.ndim == 3 else {}
    return bytes(imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=predictor, **colours))


def jpeg_ls(values: np.ndarray) -> bytes:
    return bytes(imagecodecs.jpegls_encode(values.view(f"u{values.itemsize}")))


ENCODERS = {
    JPEG + "57": lambda values, _bits: jpeg_lossless(values, 4),
    JPEG + "70": lambda values, _bits: jpeg_lossless(values, 1),
    JPEG + "80": lambda values, _bits: jpeg_ls(values),
    JPEG + "90": j2k,
    JPEG + "201": htj2k,
    JPEG + "202": htj2k,
    JPEG + "203": htj2k,
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(
    "kind", [(8, 1, False), (10, 1, False), (12, 1, False), (16, 1, False), (16, 1, True), (8, 3, False)]
)
@pytest.mark.parametrize("uid", sorted(ENCODERS))
def test_lossless_frames_of_every_kind_come_back(
    uid: str, kind: tuple[int, int, bool], frames: int, target: str, tmp_path: Path
) -> None:
    bits, samples, signed = kind
    pictures = [image(33, 35, bits, samples=samples, signed=signed, seed=n) for n in range(frames)]
    made = dataset(pictures[0].shape, bits, signed=signed)
    source = encapsulated(tmp_path / "in.dcm", made, uid, [ENCODERS[uid](p, bits) for p in pictures])
    out = dcmread(rendition(source, target))
    expected = b"".join(picture.tobytes() for picture in pictures)
    assert out.PixelData == expected + b"\0" * (len(expected) % 2)
    assert ("OB" if bits == 8 and target == EXPLICIT_LE else "OW") == out["PixelData"].VR
    assert out.PhotometricInterpretation == ("RGB" if samples == 3 else "MONOCHROME2")
    assert out.get("PlanarConfiguration") == (0 if samples == 3 else None)


@pytest.mark.parametrize("has_table", [True, False])
@pytest.mark.parametrize("frames", [1, 4])
def test_a_frame_may_stand_in_several_fragments(frames: int, has_table: bool, tmp_path: Path) -> None:
    pictures = [image(40, 40, 12, seed=n) for n in range(frames)]
    source = encapsulated(
        tmp_path / "in.dcm", dataset((40, 40), 12), JPEG + "90", [j2k(p, 12) for p in pictures],
        fragments_per_frame=3, has_bot=has_table,
    )  # fmt: skip
    assert native_pixels(rendition(source)) == b"".join(p.tobytes() for p in pictures)


@pytest.mark.parametrize("offsets", [(0, 4), (0, 0), (8, 9), (0, 0xFFFFFFF0), (0,)])
def test_a_wrong_offset_table_is_not_believed(offsets: tuple[int, ...], tmp_path: Path) -> None:
    pictures = [image(40, 40, 12, seed=n) for n in range(2)]
    halves = [part for p in pictures for part in halved(j2k(p, 12))]
    value = item(struct.pack(f"<{len(offsets)}I", *offsets)) + b"".join(item(half) for half in halves)
    source = with_pixel_data(tmp_path / "in.dcm", dataset((40, 40), 12, NumberOfFrames=2), JPEG + "90", value)
    assert native_pixels(rendition(source)) == b"".join(p.tobytes() for p in pictures)


def halved(codestream: bytes) -> tuple[bytes, bytes]:
    codestream += b"\0" * (len(codestream) % 2)
    middle = len(codestream) // 4 * 2
    return codestream[:middle], codestream[middle:]


@pytest.mark.parametrize("uid", [JPEG + "80", JPEG + "90"])
def test_ycbcr_in_a_lossless_codestream_becomes_rgb_only_where_that_is_wanted(
    uid: str, tmp_path: Path
) -> None:
    # White, black, and the primaries, by the equations of PS3.3 C.7.6.3.1.2.
    rgb = np.array([(255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
    ybr = np.array([(255, 128, 128), (0, 128, 128), (76, 85, 255), (150, 44, 21), (29, 255, 107)], np.uint8)
    picture = np.tile(np.repeat(ybr, 8, axis=0), (40, 1, 1))
    made = dataset(picture.shape, 8, PhotometricInterpretation="YBR_FULL")
    codestream = jpeg_ls(picture) if uid.endswith("80") else bytes(openjpeg.utils.encode_array(picture, 8))
    source = encapsulated(tmp_path / "in.dcm", made, uid, [codestream])
    converted, kept = dcmread(rendition(source)), dcmread(rendition(source, colour="as-encoded"))
    assert (converted.PhotometricInterpretation, kept.PhotometricInterpretation) == ("RGB", "YBR_FULL")
    assert kept.PixelData == picture.tobytes()
    expected = np.tile(np.repeat(rgb, 8, axis=0), (40, 1, 1)).astype(int)
    assert abs(np.frombuffer(converted.PixelData, np.uint8).reshape(picture.shape) - expected).max() <= 1


def test_offset_tables_of_fragments_do_not_survive_decoding(tmp_path: Path) -> None:
    pictures = [image(40, 40, 12, seed=n) for n in range(2)]
    made = dataset((40, 40), 12, NumberOfFrames=2)
    value, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = encapsulate_extended(
        [j2k(p, 12) for p in pictures]
    )
    out = dcmread(rendition(with_pixel_data(tmp_path / "in.dcm", made, JPEG + "90", value)))
    assert "ExtendedOffsetTable" not in out
    assert "ExtendedOffsetTableLengths" not in out
    assert out.PixelData == b"".join(p.tobytes() for p in pictures)


@pytest.mark.parametrize("frames", [3, 1000, 2_000_000_000])
def test_fewer_fragments_than_frames_are_refused(frames: int, tmp_path: Path) -> None:
    made = dataset((40, 40), 12, NumberOfFrames=frames)
    source = encapsulated(tmp_path / "in.dcm", made, JPEG + "90", [j2k(image(40, 40, 12), 12)] * 2)
    with pytest.raises(Permanent):
        rendition(source)


def test_pixels_that_no_32_bit_length_holds_do_not_suit_a_native_syntax(tmp_path: Path) -> None:
    made = dataset((60_000, 60_000), 16, NumberOfFrames=1)
    source = encapsulated(tmp_path / "in.dcm", made, JPEG + "90", [j2k(image(40, 40, 12), 12)])
    with pytest.raises(Unsuitable, match="more than ExplicitLE can hold"):
        rendition(source)
    assert [path.name for path in tmp_path.iterdir()] == ["in.dcm"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_icon_in_fragments_is_decoded_and_one_that_is_native_is_kept(target: str, tmp_path: Path) -> None:
    picture, icon = image(40, 40, 12), image(32, 32, 8)
    made = dataset((40, 40), 12)
    made.IconImageSequence = Sequence([icon_item(icon, j2k(icon, 8)), icon_item(icon, None)])
    made.add_new(0x00990010, "LO", "AFTER")  # so that the sequence's length is seen to be right
    source = encapsulated(tmp_path / "in.dcm", made, JPEG + "90", [j2k(picture, 12)])
    out = dcmread(rendition(source, target))
    assert [bytes(i.PixelData) for i in out.IconImageSequence] == [icon.tobytes()] * 2
    assert not out.IconImageSequence[0]["PixelData"].is_undefined_length
    assert out.PixelData == picture.tobytes()


def icon_item(icon: np.ndarray, codestream: bytes | None) -> Dataset:
    made = dataset(icon.shape, 8)
    for keyword in (
        "SpecificCharacterSet",
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
    ):
        delattr(made, keyword)
    if codestream is None:
        made.add_new("PixelData", "OB", icon.tobytes())
    else:
        made.add_new("PixelData", "OB", item() + item(codestream + b"\0" * (len(codestream) % 2)))
        made["PixelData"].is_undefined_length = True
    return made


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source_uid", [IMPLICIT_LE, EXPLICIT_BE])
def test_words_of_every_size_are_swapped_and_labelled_as_dcmtk_does(
    source_uid: str, target: str, tmp_path: Path
) -> None:
    made = dataset((3, 3), 16, signed=True, SmallestImagePixelValue=-5)
    made.PatientName = "Br\u00e4uer^J\u00fcrgen"
    made.add_new("PixelData", "OW", np.arange(-4, 5, dtype="<i2").tobytes())
    made.add_new(0x60003000, "OW", b"\x01\x02\x03\x04")  # Overlay Data
    made.add_new(0x00081161, "UL", [1, 70000])  # Simple Frame List
    made.add_new(0x00189073, "FD", 2.5)  # Acquisition Duration
    made.add_new(0x00280009, "AT", [0x00181063, 0x00181065])  # Frame Increment Pointer
    made.add_new(0x00720072, "FL", 1.25)
    lut = Dataset()
    lut.add_new(0x00283006, "OW", b"\x10\x00\x20\x00")
    made.ModalityLUTSequence = Sequence([lut])
    if source_uid == EXPLICIT_BE:
        write(tmp_path / "little.dcm", made, EXPLICIT_LE)
        source = tmp_path / "in.dcm"
        subprocess.run([program("dcmconv"), "+tb", str(tmp_path / "little.dcm"), str(source)], check=True)
    else:
        source = write(tmp_path / "in.dcm", made, source_uid)
    theirs = tmp_path / "dcmtk.dcm"
    option = "+te" if target == EXPLICIT_LE else "+ti"
    subprocess.run([program("dcmconv"), option, "-u", str(source), str(theirs)], check=True)
    assert dcmdump(rendition(source, target)) == dcmdump(theirs)


@pytest.mark.parametrize("target", TARGETS)
def test_float_pixel_data_is_swapped_by_its_words(target: str, tmp_path: Path) -> None:
    values = np.linspace(-2, 2, 9)
    for tag, vr, kind in ((0x7FE00008, "OF", "f4"), (0x7FE00009, "OD", "f8")):
        made = dataset((3, 3), 16)
        made.add_new(tag, vr, values.astype(f">{kind}").tobytes())
        out = dcmread(rendition(write(tmp_path / f"{vr}.dcm", made, EXPLICIT_BE), target))
        assert vr == out[tag].VR
        assert out[tag].value == values.astype(f"<{kind}").tobytes()


def test_the_sign_of_a_nested_lookup_table_is_that_of_the_image(tmp_path: Path) -> None:
    for signed in (True, False):
        made = dataset((3, 3), 16, signed=signed)
        lut = Dataset()
        lut.add_new(0x00283002, "SS" if signed else "US", [2, 7, 16])
        made.ModalityLUTSequence = Sequence([lut])
        made.add_new("PixelData", "OW", bytes(18))
        out = dcmread(rendition(write(tmp_path / f"{signed}.dcm", made, IMPLICIT_LE)))
        assert ("SS" if signed else "US") == out.ModalityLUTSequence[0]["LUTDescriptor"].VR


def dcmdump(path: Path) -> list[bytes]:
    shown = subprocess.run(
        [program("dcmdump"), "-q", "+L", str(path)], check=True, capture_output=True
    ).stdout
    return [line for line in shown.splitlines() if not line.startswith((b"(0002,", b"#")) and line]


@pytest.mark.parametrize("target", TARGETS)
def test_private_elements_and_sequences_survive(target: str, tmp_path: Path) -> None:
    for name in ("nested_priv_SQ.dcm", "priv_SQ.dcm", "UN_sequence.dcm"):
        content = shipped(name).read_bytes()
        source = tmp_path / name
        uid = str(dcmread(shipped(name)).file_meta.TransferSyntaxUID)
        source.write_bytes(
            file_header(SECONDARY_CAPTURE, "1.2.3", uid) + content[dataset_offset(shipped(name)) :]
        )
        out = dcmread(rendition(source, target))
        # One value has an odd length in its file, which becomes even.
        assert [str(e).replace("SQ\\x00'", "SQ'") for e in out.iterall()] == [
            str(e) for e in dcmread(source).iterall()
        ] or target == EXPLICIT_LE
        back = rendition(rendition(source, EXPLICIT_LE).rename(tmp_path / f"{name}.mid"), IMPLICIT_LE)
        again = rendition(source, IMPLICIT_LE)
        assert back.read_bytes() == again.read_bytes()


def test_text_too_long_for_its_explicit_vr_becomes_un_and_keeps_its_bytes(tmp_path: Path) -> None:
    made = dataset((2, 2), 8)
    made.add_new("PixelData", "OW", b"1234")
    source = write(tmp_path / "in.dcm", made, IMPLICIT_LE)
    long_value = b"1\\2 " * 20_000
    content = source.read_bytes()
    position = content.index(struct.pack("<HH", 0x7FE0, 0x0010))
    element = struct.pack("<HHI", 0x0028, 0x3000 - 0x1EFA, len(long_value)) + long_value  # (0028,1106)
    source.write_bytes(content[:position] + element + content[position:])
    target = rendition(source, EXPLICIT_LE)
    assert target.read_bytes().count(long_value) == 1
    assert dcmdump(target)  # DCMTK reads it whole
    assert dcmread(target).PixelData == b"1234"


@pytest.mark.parametrize("kept", [0.23, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    "name", ["MR2_J2KR", "image_dfl", "SC_rgb_rle", "JPGExtended", "rtplan", "MR_small_bigendian"]
)
def test_a_truncated_file_is_refused_without_a_word_of_its_content(
    name: str, kept: float, tmp_path: Path
) -> None:
    whole = shipped(f"{name}.dcm")
    source = tmp_path / "in.dcm"
    content = whole.read_bytes()
    start = dataset_offset(whole)
    source.write_bytes(content[: start + int((len(content) - start) * kept)])
    with pytest.raises(Permanent) as refusal:
        rendition(source)
    assert str(dcmread(whole).get("PatientName", "nobody")) not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in.dcm"]


def test_flipped_bits_end_in_a_rendition_or_a_clear_refusal(tmp_path: Path) -> None:
    random = np.random.default_rng(20)
    source = tmp_path / "in.dcm"
    outcomes = {"made": 0, "refused": 0}
    for name in (
        "MR_small_jp2klossless",
        "MR_small_RLE",
        "MR_small_jpeg_ls_lossless",
        "SC_rgb_jpeg_dcmtk",
        "SC_rgb_jpeg_gdcm",
        "test-SR",
    ):
        content = shipped(f"{name}.dcm").read_bytes()
        start = dataset_offset(shipped(f"{name}.dcm"))
        for _ in range(60):
            damaged = bytearray(content)
            damaged[random.integers(start, len(content))] ^= 1 << int(random.integers(8))
            source.write_bytes(damaged)
            try:
                rendition(source)
                outcomes["made"] += 1
            except Permanent:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 10


def test_a_deflated_data_set_that_is_cut_or_a_bomb_in_name_only_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in.dcm"
    source.write_bytes(file_header(SECONDARY_CAPTURE, "1.2.3", DEFLATED_LE) + b"\xff\xff not deflate")
    with pytest.raises(Permanent, match="deflate"):
        rendition(source)


MEASURE = """
import resource, sys
from pathlib import Path
from dicomferry.spool.instance import RenditionSpec
from workers.transcode import transcode
small, large, target = map(Path, sys.argv[1:])
spec = RenditionSpec("1.2.840.10008.1.2.1")
transcode(small, target, spec)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
transcode(large, target, spec)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("uid", [JPEG + "80", EXPLICIT_BE])
def test_memory_does_not_grow_with_the_number_of_frames(uid: str, tmp_path: Path) -> None:
    picture = image(512, 512, 16)
    sources = []
    for frames in (1, 200):
        made = dataset(picture.shape, 16, NumberOfFrames=frames)
        path = tmp_path / f"{frames}.dcm"
        if uid == EXPLICIT_BE:
            made.add_new("PixelData", "OW", picture.tobytes() * frames)
            sources.append(write(path, made, uid))
        else:
            sources.append(encapsulated(path, made, uid, [jpeg_ls(picture)] * frames))
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, *map(str, sources), str(tmp_path / "out")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    native = 200 * picture.nbytes // 1024
    assert int(measured.stdout) < native // 10  # KiB
