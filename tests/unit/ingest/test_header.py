"""What ingest reads of a data set: the right UIDs of every public file, and every truncation noticed."""

import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pydicom.data
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from dicomferry.dicom.identifiers import is_uid
from dicomferry.dicom.part10 import dataset_offset, read_meta
from dicomferry.dicom.syntaxes import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, label
from dicomferry.errors import Permanent
from ingest.header import Header, Malformed, read_header
from tests.support.images.files import shipped
from tests.support.images.synthetic import item

FOLDER = Path(pydicom.data.__file__).parent / "test_files"
# Made by pydicom's authors to be broken, or no data set of a SOP instance.
BROKEN = (
    "truncated",
    "bad",
    "no_meta",
    "DICOMDIR",
    "nested_priv_SQ",
    "rtplan_trunc",
    "UN_sequence",
    "priv_SQ",
)


def whole_files() -> list[Path]:
    found = []
    for path in sorted(FOLDER.glob("*.dcm")):
        if any(word.lower() in path.name.lower() for word in BROKEN):
            continue
        with suppress(Permanent):
            read_meta(path)
            found.append(path)
    return found


@pytest.mark.parametrize("path", whole_files(), ids=lambda path: path.name)
def test_the_header_is_what_pydicom_reads(path: Path) -> None:
    meta = read_meta(path)
    dataset = dcmread(path)
    expected = Header(
        *(
            str(dataset.get(keyword) or "")
            for keyword in (
                "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
            )
        )
    )  # fmt: skip
    found = read_header(path, meta.offset, meta.transfer_syntax_uid)
    assert replace(found, notes=(), sendable=True) == expected
    assert found.sendable is (path.name != "SC_rgb_jpeg.dcm")  # JPEG in Implicit VR


def a_data_set() -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality = "OT"
    dataset.StudyInstanceUID = "1.2.4"
    dataset.SeriesInstanceUID = "1.2.5"
    item = Dataset()
    item.CodeValue = "A"
    item.ConceptNameCodeSequence = Sequence([Dataset()])
    item.is_undefined_length_sequence_item = True
    dataset.ContentSequence = Sequence([item, item])
    dataset["ContentSequence"].is_undefined_length = True
    dataset.PixelData = b"\0\1" * 500
    dataset["PixelData"].VR = "OW"
    return dataset


def encoded(syntax: str) -> bytes:
    buffer = BytesIO()
    implicit = syntax == IMPLICIT_LE
    dcmwrite(buffer, a_data_set(), implicit_vr=implicit, little_endian=syntax != EXPLICIT_BE)
    content = buffer.getvalue()
    if syntax == DEFLATED_LE:
        deflate = zlib.compressobj(wbits=-15)
        content = deflate.compress(content) + deflate.flush()
    return content


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes, str], Header]:
    def judge(content: bytes, syntax: str) -> Header:
        path = tmp_path / "data"
        path.write_bytes(b"*" * 10 + content)
        return read_header(path, 10, syntax)

    return judge


@pytest.mark.parametrize("syntax", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE])
def test_every_truncation_within_an_element_is_noticed(
    syntax: str, read: Callable[[bytes, str], Header]
) -> None:
    content = encoded(syntax)
    whole = read(content, syntax)
    assert whole == Header("1.2.840.10008.5.1.4.1.1.7", "1.2.3", "1.2.4", "1.2.5", "OT")
    missed = []
    for length in range(len(content)):
        try:
            read(content[:length], syntax)
        except Malformed:
            continue
        missed.append(length)
    # Between two elements of the top level a cut is no damage that anyone could see; in Big Endian the zero
    # that begins the next tag looks like padding besides.
    boundaries = {DEFLATED_LE: 0, EXPLICIT_BE: 16}.get(syntax, 8)
    assert len(missed) <= boundaries, missed
    assert len(content) - 1 not in missed


def test_a_fragment_that_is_missing_its_end_is_noticed(tmp_path: Path) -> None:
    source = shipped("JPEG2000.dcm")
    offset = dataset_offset(source)
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(source.read_bytes()[:-100])
    with pytest.raises(Malformed, match="ends early"):
        read_header(cut, offset, read_meta(source).transfer_syntax_uid)


def test_what_ends_early_is_measured_without_what_stands_before_it(tmp_path: Path) -> None:
    source = shipped("MR_small.dcm")
    offset = dataset_offset(source)
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(source.read_bytes()[:-100])
    size = source.stat().st_size - offset
    padded = cut.stat().st_size - offset
    with pytest.raises(Malformed) as found:
        read_header(cut, offset, read_meta(source).transfer_syntax_uid)
    assert str(found.value).endswith(f": {padded} bytes, at least {size} announced")


def test_zeros_after_the_end_are_forgiven(read: Callable[[bytes, str], Header]) -> None:
    for syntax in (EXPLICIT_LE, IMPLICIT_LE):
        for zeros in (1, 7, 8, 500):
            assert read(encoded(syntax) + b"\0" * zeros, syntax).sop_instance_uid == "1.2.3"


def test_what_a_finding_says_holds_no_value(read: Callable[[bytes, str], Header]) -> None:
    dataset = a_data_set()
    dataset.PatientName = "Secret^Name"
    buffer = BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True)
    content = buffer.getvalue()
    with pytest.raises(Malformed) as finding:
        read(content[: content.index(b"Secret") + 3], EXPLICIT_LE)
    assert "Sec" not in str(finding.value)


@pytest.mark.parametrize("garbage", [b"", b"abc", b"not DICOM at all" * 10, b"\xff" * 100])
def test_garbage_is_malformed(garbage: bytes, read: Callable[[bytes, str], Header]) -> None:
    for syntax in (EXPLICIT_LE, IMPLICIT_LE, DEFLATED_LE):
        with pytest.raises(Malformed):
            read(garbage, syntax)


def test_sequences_that_nest_without_end_are_refused_and_do_not_exhaust_the_stack(
    read: Callable[[bytes, str], Header],
) -> None:
    nested = b"\x40\x00\x30\xa7\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 5000
    with pytest.raises(Malformed, match="nest"):
        read(nested, IMPLICIT_LE)


@pytest.mark.parametrize("uid", ["1.2.3", "1", "1.02.3", "2.25." + "9" * 59])
def test_uids(uid: str) -> None:
    assert is_uid(uid)


@pytest.mark.parametrize("text", ["", "..", "1.2/3", "1.2.", ".1", "1" * 65, "1.2\n", "1.2.a", "../../etc"])
def test_what_is_no_uid(text: str) -> None:
    assert not is_uid(text)


STRAYS = b"\2\0\3\0UI\6\x009.9.9\0\2\0\x10\0UI\x16\x001.2.840.10008.1.2.4.90"
STRAYS_NOTED = "elements of group 0000 or 0002 stand in its data set and are not sent (PS3.10 7.1)"
BODIES = {
    EXPLICIT_LE: "CT_small.dcm",
    IMPLICIT_LE: "MR_small_implicit.dcm",
    EXPLICIT_BE: "MR_small_bigendian.dcm",
}
J2K, RLE, JPEG = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50"


def body_of(syntax: str) -> bytes:
    path = shipped(BODIES[syntax])
    return path.read_bytes()[dataset_offset(path) :]


Read = Callable[[bytes, str], Header]


@pytest.mark.parametrize("stated", [*BODIES, J2K])
@pytest.mark.parametrize("real", BODIES)
def test_the_encoding_is_the_one_that_the_data_set_has(read: Read, stated: str, real: str) -> None:
    found = read(body_of(real), stated)
    assert is_uid(found.sop_instance_uid)
    if real == stated:
        assert (found.transfer_syntax_uid, found.notes, found.sendable) == ("", (), True)
    else:
        assert (found.transfer_syntax_uid, found.sendable) == (real, True)
        assert (
            f"its pixel data is native, though its transfer syntax is {label(J2K)} (PS3.5 A.4)" in found.notes
        ) == (stated == J2K)
        assert ("its data set is in" in found.notes[0]) == ((real, stated) != (EXPLICIT_LE, J2K))


@pytest.mark.parametrize(
    ("name", "stated", "real", "sendable"),
    [
        ("MR_small_RLE.dcm", RLE, "", True),
        ("MR_small_RLE.dcm", EXPLICIT_LE, RLE, True),
        ("MR_small_RLE.dcm", IMPLICIT_LE, RLE, True),
        ("MR_small_RLE.dcm", DEFLATED_LE, RLE, False),  # its bytes are deflated, those of RLE are not
        ("MR_small_RLE.dcm", J2K, RLE, True),
        ("693_J2KR.dcm", J2K, "", True),
        ("693_J2KR.dcm", JPEG, J2K[:-1] + "1", True),  # .91 allows any: the header does not prove lossless
        ("MR_small_jpeg_ls_lossless.dcm", JPEG, JPEG[:-2] + "80", True),
        ("SC_rgb_jpeg_dcmtk.dcm", EXPLICIT_LE, JPEG, True),
        ("SC_rgb_jpeg_dcmtk.dcm", JPEG[:-2] + "70", "", True),  # every JPEG decoder reads the process
        ("SC_rgb_jpeg_dcmtk.dcm", "1.2.840.10008.1.2.4.102", "", True),  # we know nothing of video
        ("CT_small.dcm", "1.2.3.4", "", True),  # nor of private syntaxes
    ],
)
def test_what_is_in_another_transfer_syntax_than_its_context_is_known(
    read: Read, name: str, stated: str, real: str, sendable: bool
) -> None:
    content = shipped(name).read_bytes()[dataset_offset(shipped(name)) :]
    if stated == DEFLATED_LE:
        compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        content = compressor.compress(content) + compressor.flush()
    found = read(content, stated)
    assert (found.transfer_syntax_uid, found.sendable) == (real, sendable)
    noted = any("its pixel data is" in note and label(stated) in note for note in found.notes)
    assert noted == bool(real)


def test_pixel_data_that_are_in_no_syntax_are_never_sent_as_received(read: Read) -> None:
    native = body_of(EXPLICIT_LE)
    at = native.index(b"\xe0\x7f\x10\0OW\0\0")
    junk = item() + item(b"junk") + b"\xfe\xff\xdd\xe0\0\0\0\0"
    for pixels, stated in (
        (b"\xe0\x7f\x10\0OW\0\0\x10\0\0\0" + bytes(16), J2K),  # native, and of another length
        (b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff" + junk, EXPLICIT_LE),  # fragments of nothing known
    ):
        found = read(native[:at] + pixels, stated)
        assert (found.transfer_syntax_uid, found.sendable) == ("", False)
        assert "its pixel data is" in found.notes[0]


@pytest.mark.parametrize("syntax", BODIES)
def test_strays_at_the_head_are_noted_and_stay_behind(read: Read, syntax: str) -> None:
    found = read(STRAYS + body_of(syntax), syntax)
    assert (found.notes, found.sendable) == ((STRAYS_NOTED,), True)
    assert replace(found, notes=()) == read(body_of(syntax), syntax)


def test_strays_that_no_offset_skips_make_a_data_set_unfit_to_be_sent(read: Read) -> None:
    body = body_of(EXPLICIT_LE)
    middle = body.index(b"\x10\0\x10\0PN")
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = compressor.compress(STRAYS + body) + compressor.flush()
    for content, syntax in (
        (body[:middle] + STRAYS + body[middle:], EXPLICIT_LE),
        (deflated, DEFLATED_LE),
        (b"\2\0\1\0OB\0\0\0\0\0\0" * 300 + body, EXPLICIT_LE),  # more than are looked at
    ):
        found = read(content, syntax)
        assert (found.notes, found.sendable) == ((STRAYS_NOTED,), False)
