"""Elements that old or odd writers leave as the standard does not want them: read, and written as it does."""

import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset, Sequence, dcmread

from dicomferry.dicom.part10 import dataset_offset, file_header
from dicomferry.dicom.syntaxes import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomferry.errors import NoPixelData, Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images import independent
from tests.support.images.conformant import problems
from tests.support.images.synthetic import SECONDARY_CAPTURE, dataset, image, item, with_pixel_data, write
from workers.transcode import Unsuitable, transcode

JPEG = "1.2.840.10008.1.2.4."
RLE, JPEG_LS, J2K = "1.2.840.10008.1.2.5", JPEG + "80", JPEG + "90"
PIXEL_DATA = 0x7FE00010
SR = "1.2.840.10008.5.1.4.1.1.88.11"


def rendition(source: Path, uid: str) -> tuple[Path, str]:
    target = source.with_name("out.dcm")
    return target, transcode(source, target, RenditionSpec(uid), verify="always").notes


def element(tag: int, vr: bytes, value: bytes, order: str, implicit: bool) -> bytes:
    """An element with the length that its value has, odd or not."""
    head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack(order + "I", len(value)) + value
    if vr in (b"OB", b"OW", b"UN", b"SQ", b"UT"):
        return head + vr + struct.pack(order + "HI", 0, len(value)) + value
    return head + vr + struct.pack(order + "H", len(value)) + value


def odd_object(path: Path, uid: str, *, undefined: bool = False) -> Path:
    """Odd lengths of every sort: text, UID, bytes; in the data set, in an item, in an item of an item."""
    order, implicit = ">" if uid == EXPLICIT_BE else "<", uid == IMPLICIT_LE

    def one(tag: int, vr: bytes, value: bytes) -> bytes:
        return element(tag, vr, value, order, implicit)

    def sequence(tag: int, content: bytes) -> bytes:
        if not undefined:
            return one(tag, b"SQ", struct.pack(order + "HHI", 0xFFFE, 0xE000, len(content)) + content)
        head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF) + (b"" if implicit else b"SQ\0\0")
        ends = struct.pack(order + "HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
        return head + struct.pack(order + "IHHI", 2**32 - 1, 0xFFFE, 0xE000, 2**32 - 1) + content + ends

    code = one(0x00080100, b"SH", b"113") + one(0x00080104, b"LO", b"abc")
    inner = one(0x00081150, b"UI", b"1.2.3") + sequence(0x00082228, code)
    numbers = ((0x00280002, 1), (0x00280010, 9), (0x00280011, 3), (0x00280100, 8), (0x00280101, 8))
    image_ = b"".join(one(tag, b"US", struct.pack(order + "H", n)) for tag, n in numbers[:1])
    image_ += one(0x00280004, b"CS", b"MONOCHROME2")
    image_ += b"".join(one(tag, b"US", struct.pack(order + "H", n)) for tag, n in numbers[1:])
    image_ += one(0x00280102, b"US", struct.pack(order + "H", 7))
    image_ += one(0x00280103, b"US", struct.pack(order + "H", 0))
    content = (
        one(0x00080016, b"UI", SECONDARY_CAPTURE.encode())
        + one(0x00080018, b"UI", b"1.2.3.4.5")
        + one(0x00080060, b"CS", b"OTX")
        + sequence(0x00081140, inner)
        + one(0x00090010, b"LO", b"ABC")
        + one(0x00091001, b"UN", b"\1\2\3")
        + one(0x00100010, b"PN", b"A^B")
        + one(0x0020000D, b"UI", b"1.2.3")
        + one(0x0020000E, b"UI", b"1.2.4")
        + one(0x00200013, b"IS", b"7")
        + one(0x00204000, b"LT", b"any")
        + image_
        + one(0x7FE00010, b"OW" if implicit else b"OB", bytes(range(1, 28)))
    )
    path.write_bytes(file_header(SECONDARY_CAPTURE, "1.2.3.4.5", uid) + content)
    return path


TEXTS = {0x00080060: "OTX", 0x00100010: "A^B", 0x0020000D: "1.2.3", 0x00200013: 7, 0x00204000: "any"}


def lengths(made: Dataset) -> list[int]:
    """The length of every value as it stands in the file."""
    found = []
    for tag in list(made.keys()):
        raw = made.get_item(tag)
        if made[tag].VR == "SQ":
            found += [length for nested in made[tag].value for length in lengths(nested)]
        elif raw.is_raw and raw.length != 0xFFFFFFFF:
            found.append(raw.length)
    return found


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("target", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, RLE, J2K])
@pytest.mark.parametrize("uid", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE])
def test_what_is_written_has_even_lengths_and_the_values_received(
    uid: str, target: str, undefined: bool, tmp_path: Path
) -> None:
    out, _ = rendition(odd_object(tmp_path / "in.dcm", uid, undefined=undefined), target)
    assert problems(out) == []
    found = lengths(dcmread(out))
    assert len(found) > 15
    assert all(length % 2 == 0 for length in found)
    made = dcmread(out)
    assert {tag: made[tag].value for tag in TEXTS} == TEXTS
    nested = made[0x00081140].value[0]
    assert nested.ReferencedSOPClassUID == "1.2.3"
    assert nested[0x00082228].value[0].CodeMeaning == "abc"
    assert bytes(made[0x00091001].value) == b"\1\2\3\0"
    assert independent.cells(out, tmp_path)[0].tobytes() == bytes(range(1, 28))


def test_odd_elements_beside_compressed_pixels_become_even_too(tmp_path: Path) -> None:
    picture = image(20, 20, 8)
    sound = with_pixel_data(
        tmp_path / "sound.dcm", dataset((20, 20), 8, StudyID="ab"), JPEG_LS,
        item() + item(bytes(imagecodecs.jpegls_encode(picture)) + b"\0"),
    )  # fmt: skip
    content = sound.read_bytes()
    at = content.index(b"\x20\x00\x10\x00SH")
    odd = tmp_path / "odd.dcm"
    odd.write_bytes(content[: at + 6] + b"\1\0a" + content[at + 10 :])
    out, _ = rendition(odd, EXPLICIT_LE)
    assert problems(out) == []
    assert dcmread(out).get_item("StudyID").value == b"a "


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("values", [[b"abc"], [b"abc", b"x"], [b"ab", b"xy"]], ids=str)
@pytest.mark.parametrize("target", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE])
@pytest.mark.parametrize("uid", [EXPLICIT_LE, EXPLICIT_BE])
def test_an_odd_value_in_a_sequence_of_vr_un_is_padded_where_it_stands(
    uid: str, target: str, values: list[bytes], damaged: bool, tmp_path: Path
) -> None:
    """In Implicit VR its tag shows that it is a sequence: a NUL behind the last item would be no item."""
    order = ">" if uid == EXPLICIT_BE else "<"
    code = b"".join(
        element(tag, b"SH", value, "<", implicit=True)
        for tag, value in zip((0x00080100, 0x00080102), values, strict=False)
    )
    content = item(code)
    content = content[:-1] if damaged else content
    source = tmp_path / "in.dcm"
    data = element(0x00080016, b"UI", SR.encode() + b"\0", order, implicit=False)
    data += element(0x00080018, b"UI", b"1.2.3\0", order, implicit=False)
    data += element(0x00082218, b"UN", content, order, implicit=False)
    data += element(0x00100020, b"LO", b"kept", order, implicit=False)
    data += element(0x0020000D, b"UI", b"1.2.4\0", order, implicit=False)
    data += element(0x0020000E, b"UI", b"1.2.5\0", order, implicit=False)
    source.write_bytes(file_header(SR, "1.2.3", uid) + data)
    out, _ = rendition(source, target)
    if damaged:
        assert (content + b"\0" * (len(content) % 2) in out.read_bytes()) != (target == DEFLATED_LE)
        return
    assert problems(out) == []
    made = dcmread(out)
    assert made.PatientID == "kept"
    if target != EXPLICIT_BE:  # pydicom takes such items for big endian
        assert made.AnatomicRegionSequence[0].CodeValue == values[0].decode()
    if target != DEFLATED_LE:
        inner = item(b"".join(
            element(tag, b"SH", value + b" " * (len(value) % 2), "<", implicit=True)
            for tag, value in zip((0x00080100, 0x00080102), values, strict=False)
        ))  # fmt: skip
        assert inner in out.read_bytes()


def icon(picture: np.ndarray, fragments: bytes) -> Dataset:
    made = dataset(picture.shape, 8)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality"):
        del made[keyword]
    made.add_new("PixelData", "OB", fragments)
    made["PixelData"].is_undefined_length = True
    return made


ICON = image(16, 17, 8)
CODESTREAMS = {
    "JPEGLS": lambda: bytes(imagecodecs.jpegls_encode(ICON)),
    "JPEGLosslessSV1": lambda: bytes(imagecodecs.jpeg8_encode(ICON, lossless=True, predictor=1)),
    "J2K": lambda: bytes(imagecodecs.jpeg2k_encode(ICON, reversible=True, codecformat="J2K")),
    "JPEGXL": lambda: bytes(imagecodecs.jpegxl_encode(ICON, lossless=True)),
}
MAIN = image(40, 48, 8, seed=1)


def with_icons(path: Path, uid: str, *fragments: bytes, nested: bool = False) -> Path:
    icons = Sequence([icon(ICON, one) for one in fragments])
    elements = {"IconImageSequence": icons, "StudyID": "kept"}
    if nested:
        elements = {"ReferencedImageSequence": Sequence([Dataset()]), "StudyID": "kept"}
        elements["ReferencedImageSequence"][0].IconImageSequence = icons
        elements["ReferencedImageSequence"][0].ReferencedSOPInstanceUID = "1.2.3"
    made = dataset(MAIN.shape, 8, **elements)
    if uid == EXPLICIT_LE:
        made.add_new("PixelData", "OB", MAIN.tobytes())
        return write(path, made, uid)
    main = imagecodecs.jpegls_encode(MAIN) if uid == JPEG_LS else imagecodecs.jpeg2k_encode(
        MAIN, reversible=True, codecformat="J2K"
    )  # fmt: skip
    return with_pixel_data(path, made, uid, item() + item(bytes(main) + b"\0" * (len(main) % 2)))


@pytest.mark.parametrize("target", [IMPLICIT_LE, DEFLATED_LE, RLE, JPEG_LS, JPEG + "70"])
@pytest.mark.parametrize("uid", [J2K, EXPLICIT_LE])
@pytest.mark.parametrize("kind", sorted(CODESTREAMS))
def test_an_icon_in_a_syntax_of_its_own_becomes_native(
    kind: str, uid: str, target: str, tmp_path: Path
) -> None:
    codestream = CODESTREAMS[kind]()
    fragments = item() + item(codestream + b"\0" * (len(codestream) % 2))
    out, notes = rendition(with_icons(tmp_path / "in.dcm", uid, fragments), target)
    assert bytes(dcmread(out).IconImageSequence[0].PixelData) == ICON.tobytes()
    assert np.array_equal(independent.cells(out, tmp_path)[0][0], MAIN)
    assert (f"an icon is {kind}" in notes) == ((kind, uid) != ("J2K", J2K))


BROKEN = {
    "cut": lambda: item() + item(CODESTREAMS["J2K"]()[:-40]),
    "no codestream": lambda: item() + item(b"nothing that anybody knows"),
    "no fragment": item,
    "two codestreams": lambda: item() + item(CODESTREAMS["J2K"]()) + item(CODESTREAMS["J2K"]()),
    "of another size": lambda: item() + item(bytes(imagecodecs.jpegls_encode(MAIN))),
}


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("target", [EXPLICIT_LE, IMPLICIT_LE, DEFLATED_LE, RLE, JPEG_LS])
@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_an_icon_that_cannot_be_converted_is_left_out_with_a_note(
    kind: str, target: str, nested: bool, tmp_path: Path
) -> None:
    source = with_icons(tmp_path / "in.dcm", J2K, BROKEN[kind](), nested=nested)
    out, notes = rendition(source, target)
    assert "the icon in (0088,0200) was left out: " in notes
    assert problems(out) == []
    made = dcmread(out)
    assert b"\x88\x00\x00\x02" not in out.read_bytes()
    assert "IconImageSequence" not in made
    assert made.StudyID == "kept"
    if nested:
        assert made.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
    assert np.array_equal(independent.cells(out, tmp_path)[0][0], MAIN)


@pytest.mark.parametrize("kind", ["no codestream", "no fragment"])
@pytest.mark.parametrize("uid", [EXPLICIT_LE, DEFLATED_LE])
def test_of_an_icon_that_nobody_knows_the_note_says_so(kind: str, uid: str, tmp_path: Path) -> None:
    source = with_icons(tmp_path / "in.dcm", EXPLICIT_LE, BROKEN[kind]())
    if uid == DEFLATED_LE:
        made = dcmread(source)
        made.file_meta.TransferSyntaxUID = DEFLATED_LE
        made.save_as(source)
    _, notes = rendition(source, RLE)
    assert "(0088,0200) was left out: its fragments begin with no codestream that shows what it is" in notes


def test_an_icon_in_a_compressed_file_in_implicit_vr_becomes_native_too(tmp_path: Path) -> None:
    codestream = CODESTREAMS["JPEGLS"]()
    source = with_icons(
        tmp_path / "in.dcm", JPEG_LS, item() + item(codestream + b"\0" * (len(codestream) % 2))
    )
    made = dcmread(source)
    content = write(tmp_path / "implicit.dcm", made, IMPLICIT_LE).read_bytes()
    start = dataset_offset(tmp_path / "implicit.dcm")
    source.write_bytes(file_header(made.SOPClassUID, made.SOPInstanceUID, JPEG_LS) + content[start:])
    out, notes = rendition(source, IMPLICIT_LE)
    assert "Implicit VR" in notes
    assert bytes(dcmread(out).IconImageSequence[0].PixelData) == ICON.tobytes()


def test_an_icon_stays_as_it_is_where_the_syntax_stays(tmp_path: Path) -> None:
    source = with_icons(tmp_path / "in.dcm", J2K, BROKEN["cut"]())
    out, notes = rendition(source, J2K)
    assert not notes
    assert dcmread(out).IconImageSequence == dcmread(source).IconImageSequence


def report(path: Path, uid: str, pixel_data: bytes = b"", **elements: object) -> Path:
    """A report; `pixel_data` is added as it is, encoded."""
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = SR, "1.2.3.4.6"
    made.StudyInstanceUID, made.SeriesInstanceUID = "1.2.3", "1.2.4"
    made.PatientID = "1"
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    content = write(path, made, IMPLICIT_LE if uid == IMPLICIT_LE else EXPLICIT_LE).read_bytes()
    path.write_bytes(file_header(SR, "1.2.3.4.6", uid) + content[dataset_offset(path) :] + pixel_data)
    return path


@pytest.mark.parametrize("uid", [EXPLICIT_LE, IMPLICIT_LE, JPEG_LS])
@pytest.mark.parametrize(
    "elements",
    [
        {"Rows": None},
        {"Rows": 0, "Columns": 0},
        {"PhotometricInterpretation": "", "BitsAllocated": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("has_pixel_data", [False, True])
def test_a_report_with_empty_elements_of_an_image_is_no_image(
    elements: dict[str, object], has_pixel_data: bool, uid: str, tmp_path: Path
) -> None:
    empty = element(PIXEL_DATA, b"OW", b"", "<", uid == IMPLICIT_LE) if has_pixel_data else b""
    source = report(tmp_path / "in.dcm", uid, empty, **elements)
    for target in (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE):
        out, notes = rendition(source, target)
        before, after = dcmread(source), dcmread(out)
        assert (PIXEL_DATA in after) == has_pixel_data
        for made in (before, after):
            if has_pixel_data:
                del made[PIXEL_DATA]
        assert after == before
        assert not notes
    if uid != JPEG_LS:
        with pytest.raises(NoPixelData):
            rendition(source, JPEG_LS)


@pytest.mark.parametrize("target", [IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE])
@pytest.mark.parametrize("pixels", [{"Rows": 1, "Columns": 1}, {"PhotometricInterpretation": "RGB"}], ids=str)
@pytest.mark.parametrize(
    "content",
    [
        {"SpectroscopyData": struct.pack("<4f", 1, 2, 3, 4)},
        {"ValueType": "CONTAINER"},
        {"WaveformSequence": Sequence([Dataset()])},
        {"EncapsulatedDocument": b"%PDF"},
    ],
    ids=lambda content: next(iter(content)),
)
def test_what_stands_in_place_of_pixel_data_shows_that_nothing_was_cut_off(
    content: dict[str, Any], pixels: dict[str, Any], target: str, tmp_path: Path
) -> None:
    """MR Spectroscopy has Rows and Columns and no Pixel Data; old reports have them too."""
    source = report(tmp_path / "in.dcm", EXPLICIT_LE, **pixels, **content)
    before = dcmread(source)
    if "SpectroscopyData" in content and target == EXPLICIT_BE:
        before.SpectroscopyData = struct.pack(">4f", 1, 2, 3, 4)
    assert dcmread(rendition(source, target)[0]) == before
    with pytest.raises(NoPixelData):
        rendition(source, J2K)


@pytest.mark.parametrize("table", [b"", item()], ids=["empty", "of a table"])
def test_pixel_data_without_a_fragment_is_empty_in_native_form(table: bytes, tmp_path: Path) -> None:
    ending = b"\xfe\xff\xdd\xe0" + bytes(4)
    pixel_data = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + table + ending
    out, _ = rendition(report(tmp_path / "in.dcm", JPEG_LS, pixel_data), EXPLICIT_LE)
    assert out.read_bytes().endswith(b"\xe0\x7f\x10\x00OW\0\0" + bytes(4))


@pytest.mark.parametrize("target", [EXPLICIT_LE, IMPLICIT_LE, RLE])
def test_an_image_whose_pixel_data_are_empty_is_truncated(target: str, tmp_path: Path) -> None:
    made = dataset((40, 48), 8)
    made.add_new("PixelData", "OB", b"")
    with pytest.raises(Permanent, match="truncated"):
        rendition(write(tmp_path / "in.dcm", made, EXPLICIT_LE), target)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("target", [RLE, JPEG + "70", JPEG_LS, J2K, JPEG + "110", JPEG + "201"])
@pytest.mark.parametrize(("stored", "high"), [(10, 11), (12, 15), (8, 14), (15, 15)])
def test_values_at_any_high_bit_come_down(
    stored: int, high: int, target: str, signed: bool, tmp_path: Path
) -> None:
    if signed and target == JPEG + "110":
        pytest.skip("JPEG XL has no signed samples")
    picture = image(33, 35, stored, signed=signed).astype("<i2" if signed else "<u2")
    cells = picture << (high - stored + 1)
    made = dataset(picture.shape, stored, signed=signed, BitsAllocated=16, HighBit=high)
    made.add_new("PixelData", "OW", cells.tobytes() + b"\0" * (cells.nbytes % 2))
    source = write(tmp_path / "in.dcm", made, EXPLICIT_LE)
    if stored == 8 and target == JPEG_LS:
        with pytest.raises(Unsuitable, match="8 bits stored in 16"):
            rendition(source, target)
        return
    out, notes = rendition(source, target)
    assert f"values moved from High Bit {high} to {stored - 1}" in notes
    assert dcmread(out).HighBit == stored - 1
    assert np.array_equal(independent.cells(out, tmp_path)[0][0], picture)


def test_bits_below_the_value_that_belong_to_nothing_stay_where_every_bit_is_kept(tmp_path: Path) -> None:
    picture = image(33, 36, 12).astype("<u2") << 4 | 1
    made = dataset(picture.shape, 12, HighBit=15)
    made.add_new("PixelData", "OW", picture.tobytes())
    source = write(tmp_path / "in.dcm", made, EXPLICIT_LE)
    out, notes = rendition(source, RLE)
    assert (dcmread(out).HighBit, notes) == (15, "")
    assert independent.cells(out, tmp_path)[0].tobytes() == picture.tobytes()
    with pytest.raises(Unsuitable, match="belong to no overlay"):
        rendition(source, J2K)


@pytest.mark.parametrize("uid", [J2K, IMPLICIT_LE])
def test_pixel_data_that_stands_twice_is_refused(tmp_path: Path, uid: str) -> None:
    cells = image(8, 8, 8)
    made = dataset(cells.shape, 8)
    made.add_new("PixelData", "OW", cells.tobytes())
    source = write(tmp_path / "in.dcm", made, EXPLICIT_LE)
    again = element(PIXEL_DATA, b"OW", bytes(64), "<", implicit=False)
    source.write_bytes(source.read_bytes() + again)
    with pytest.raises(Permanent, match="Pixel Data stands twice"):
        rendition(source, uid)


def test_group_0002_in_an_item_is_left_out_and_said(tmp_path: Path) -> None:
    inner = element(0x00020010, b"UI", b"1.2.840.10008.1.2.4.90", "<", implicit=False)
    inner += element(0x00080100, b"SH", b"1130", "<", implicit=False)
    sequence = element(
        0x00082218, b"SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner, "<", implicit=False
    )
    source = tmp_path / "in.dcm"
    uid = b"1.2.3\0"
    head = element(0x00080016, b"UI", SR.encode() + b"\0", "<", implicit=False)
    head += element(0x00080018, b"UI", uid, "<", implicit=False)
    source.write_bytes(file_header(SR, "1.2.3", EXPLICIT_LE) + head + sequence)
    target, notes = rendition(source, IMPLICIT_LE)
    assert "elements of group 0000 or 0002 were left out" in notes
    assert [e.tag for e in dcmread(target).AnatomicRegionSequence[0]] == [0x00080100]


def test_signed_values_without_their_sign_bits_are_not_made_positive(tmp_path: Path) -> None:
    """255 times -1 in 12 bits, the bits above empty, and one value that is too long."""
    cells = np.full((16, 16), 0x0FFF, "<u2")
    cells[0, 0] = 0x1001
    made = dataset(cells.shape, 12, signed=True)
    made.add_new("PixelData", "OW", cells.tobytes())
    source = write(tmp_path / "in.dcm", made, EXPLICIT_LE)
    with pytest.raises(Unsuitable):
        rendition(source, J2K)


@pytest.mark.parametrize("target", [RLE, J2K, JPEG_LS, JPEG + "70", JPEG + "110", "1.2.840.10008.1.2.8.1"])
@pytest.mark.parametrize(
    ("described", "extra", "noted"),
    [
        ((36, 8, 1), b"", ""),
        ((36, 8, 1), b"\7", "1 byte was left out"),
        ((36, 8, 1), b"\0", "1 byte was left out"),
        ((36, 8, 2), b"\7" * 2, "2 bytes were left out"),
        ((35, 8, 1), b"\0", ""),  # padding to even length
        ((35, 8, 1), b"\7", ""),
        ((35, 8, 1), b"\7\7", "2 bytes were left out"),
        ((35, 8, 3), b"\7", ""),
        ((35, 8, 2), b"\7", "1 byte was left out"),
        ((35, 16, 1), b"\7", "1 byte was left out"),
        ((35, 16, 1), b"\7\7\7", "3 bytes were left out"),
    ],
)
def test_bytes_behind_the_last_frame_that_pad_nothing_are_told(
    described: tuple[int, int, int], extra: bytes, noted: str, target: str, tmp_path: Path
) -> None:
    columns, bits, frames = described
    pictures = [image(33, columns, bits, seed=n).astype(f"<u{bits // 8}") for n in range(frames)]
    made = dataset(pictures[0].shape, bits)
    made.NumberOfFrames = frames
    made.add_new("PixelData", "OB" if bits == 8 else "OW", b"")
    value = b"".join(picture.tobytes() for picture in pictures) + extra
    source = write(tmp_path / "in.dcm", made, EXPLICIT_LE)
    head = element(0x7FE00010, b"OB" if bits == 8 else b"OW", value, "<", implicit=False)
    source.write_bytes(source.read_bytes()[:-12] + head)
    out, notes = rendition(source, target)
    assert noted in notes
    assert ("left out" in notes) == bool(noted)
    assert np.array_equal(independent.cells(out, tmp_path)[0], np.stack(pictures))
    kept, _ = rendition(source, IMPLICIT_LE)  # no codec runs, and nothing is left out
    assert dcmread(kept).PixelData[: len(value)] == value
