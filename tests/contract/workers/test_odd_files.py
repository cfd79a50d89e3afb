"""Files that are not quite what the standard wants, as archives hold them: read where that is safe."""

import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames

from dicomferry.dicom.part10 import PREFIX_LENGTH, dataset_offset, file_header, read_meta
from dicomferry.dicom.syntaxes import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images.files import native_pixels, shipped
from tests.support.images.independent import cells, dump, encode, run
from tests.support.images.synthetic import dataset, encapsulated
from tests.support.running.services import program
from workers.files import folder
from workers.files.folder import Kind, Lossy
from workers.transcode import transcode

JPEG = "1.2.840.10008.1.2.4.50"
RLE = "1.2.840.10008.1.2.5"
J2K = "1.2.840.10008.1.2.4.90"
LENGTH_ELEMENT = slice(132, 144)


def rendition(source: Path, uid: str = EXPLICIT_LE) -> tuple[bytes, str]:
    """The data set of a rendition, and what was noted."""
    target = source.with_suffix(".out")
    notes = transcode(source, target, RenditionSpec(uid)).notes
    return target.read_bytes()[dataset_offset(target) :], notes


def group_length(value: int) -> bytes:
    return struct.pack("<HH2sHI", 2, 0, b"UL", 4, value)


@pytest.mark.parametrize("uid", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, RLE])
@pytest.mark.parametrize(
    "stated",
    [b"", *map(group_length, (0, 1, 16, 150, 5000, 0xFFFFFFFF))],
    ids=lambda s: s[8:].hex() or "none",
)
def test_the_meta_information_ends_where_its_group_ends_whatever_its_length_says(
    stated: bytes, uid: str, tmp_path: Path
) -> None:
    sound = shipped("CT_small.dcm") if uid == EXPLICIT_LE else tmp_path / "sound.dcm"
    if uid != EXPLICIT_LE:
        encode(shipped("CT_small.dcm"), sound, uid)
    content = sound.read_bytes()
    odd = tmp_path / "odd.dcm"
    odd.write_bytes(content[: LENGTH_ELEMENT.start] + stated + content[LENGTH_ELEMENT.stop :])
    copy = tmp_path / "copy.dcm"
    copy.write_bytes(content)
    assert read_meta(odd).transfer_syntax_uid == uid
    target = IMPLICIT_LE if uid == EXPLICIT_LE else EXPLICIT_LE
    assert rendition(odd, target) == rendition(copy, target)


def test_a_deflated_data_set_that_begins_like_meta_information_is_none(tmp_path: Path) -> None:
    encode(shipped("CT_small.dcm"), tmp_path / "sound.dcm", DEFLATED_LE)
    content = (tmp_path / "sound.dcm").read_bytes()
    start = dataset_offset(tmp_path / "sound.dcm")
    # RFC 1951: an empty block of fixed codes, then an empty stored one.
    odd = tmp_path / "odd.dcm"
    odd.write_bytes(content[:start] + b"\x02\x00\x00\x00\xff\xff" + content[start:])
    assert rendition(odd) == rendition(tmp_path / "sound.dcm")


def test_meta_information_that_ends_early_is_refused(tmp_path: Path) -> None:
    content = shipped("CT_small.dcm").read_bytes()
    start = dataset_offset(shipped("CT_small.dcm"))
    cut = tmp_path / "cut.dcm"
    for length in (*range(120, start), start, start + 7):
        cut.write_bytes(content[:length])
        with pytest.raises(Permanent):
            rendition(cut)
        assert list(tmp_path.iterdir()) == [cut]


def converted(source: Path, target: Path, group: str = "uncompressed") -> folder.Outcome:
    (job,) = folder.jobs([source], target)
    return folder.convert(job, folder.order(group, Lossy()))


def dump_of(path: Path) -> list[str]:
    return dump(path, r"(0008,0000)")


@pytest.mark.parametrize(
    "name",
    ["ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "rtstruct.dcm", "CT_small.dcm", "no preamble"],
)
@pytest.mark.parametrize("option", ["+te", "+ti", "+tb"])
def test_a_data_set_without_a_header_gets_the_one_that_dcmtk_gives_it(
    name: str, option: str, tmp_path: Path
) -> None:
    bare, ours, theirs = tmp_path / "bare.dcm", tmp_path / "ours.dcm", tmp_path / "theirs.dcm"
    if name == "no preamble":
        bare.write_bytes(shipped("CT_small.dcm").read_bytes()[PREFIX_LENGTH:])
    else:
        run("dcmconv", option, "-F", str(shipped(name)), str(bare))
    assert converted(bare, ours).kind is Kind.MADE
    assert read_meta(ours).transfer_syntax_uid in (EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE)
    assert read_meta(ours).sop_instance_uid == dcmread(bare, force=True).SOPInstanceUID
    run("dcmconv", str(bare), str(theirs))
    assert dump_of(ours) == dump_of(theirs)


def test_without_a_header_pixels_are_converted_too_and_what_was_found_is_told(tmp_path: Path) -> None:
    source = shipped("CT_small.dcm")
    for option, shown in (("+te", "ExplicitLE"), ("+ti", "ImplicitLE"), ("+tb", "ExplicitBE")):
        bare, out, back = tmp_path / option, tmp_path / "out.dcm", tmp_path / "back.dcm"
        run("dcmconv", option, "-F", str(source), str(bare))
        outcome = converted(bare, out, "rle")
        assert f"its data set shows {shown}" in outcome.words
        run("dcmdrle", str(out), str(back))
        assert native_pixels(back) == native_pixels(source)
        out.unlink()


META_UIDS = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID")


@pytest.mark.parametrize("missing", [META_UIDS[:1], META_UIDS[1:], META_UIDS])
@pytest.mark.parametrize("empty", [True, False])
@pytest.mark.parametrize("group", ["uncompressed", "rle"])
@pytest.mark.parametrize("uid", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, RLE, JPEG[:-2] + "70"])
def test_sop_uids_that_the_meta_information_lacks_are_those_of_the_data_set(
    uid: str, group: str, empty: bool, missing: tuple[str, ...], tmp_path: Path
) -> None:
    made = dcmread(shipped("CT_small.dcm"))
    encode(shipped("CT_small.dcm"), tmp_path / "whole.dcm", uid)
    content = (tmp_path / "whole.dcm").read_bytes()
    for keyword in missing:
        number = 2 if keyword == META_UIDS[0] else 3
        at = content.index(struct.pack("<HH2s", 2, number, b"UI"), PREFIX_LENGTH)
        (length,) = struct.unpack_from("<H", content, at + 6)
        left = content[at : at + 6] + b"\0\0" if empty else b""
        content = content[:at] + left + content[at + 8 + length :]
    (tmp_path / "lacking.dcm").write_bytes(content)
    outcome = converted(tmp_path / "lacking.dcm", tmp_path / "out.dcm", group)
    assert outcome.kind is Kind.MADE, outcome.words
    assert ("leaves SOP UIDs empty" if empty else "lacks SOP UIDs") in outcome.words
    meta = read_meta(tmp_path / "out.dcm")
    assert (meta.sop_class_uid, meta.sop_instance_uid) == (made.SOPClassUID, made.SOPInstanceUID)
    found = cells(tmp_path / "out.dcm", tmp_path)[0]
    assert (found == made.pixel_array).all()


def test_a_file_that_cannot_be_told_fails_by_a_message_that_says_what_is_missing(tmp_path: Path) -> None:
    made = dcmread(shipped("CT_small.dcm"))
    del made.SOPInstanceUID
    del made.file_meta.MediaStorageSOPInstanceUID
    made.save_as(tmp_path / "unnamed.dcm", enforce_file_format=False)
    outcome = converted(tmp_path / "unnamed.dcm", tmp_path / "out2.dcm", "rle")
    assert outcome.kind is Kind.FAILED
    assert "SOP Instance UID" in outcome.words
    made = dcmread(shipped("MR_small_RLE.dcm"))
    made.PixelData = made.PixelData[:8] + made.PixelData[8:].replace(b"\2\0\0\0\x40\0\0\0", b"?" * 8)
    made.save_as(tmp_path / "unknown.dcm")
    content = (tmp_path / "unknown.dcm").read_bytes()
    (tmp_path / "bare.dcm").write_bytes(content[dataset_offset(tmp_path / "unknown.dcm") :])
    outcome = converted(tmp_path / "bare.dcm", tmp_path / "out3.dcm", "jpeg2000")
    assert outcome.kind is Kind.FAILED
    assert "in fragments though the syntax is a native one" in outcome.words


# Pixel data, the transfer syntax it is labelled with, and the one that it shows.
MISLABELLED = [
    ("CT_small.dcm", J2K, EXPLICIT_LE),
    ("CT_small.dcm", RLE, EXPLICIT_LE),
    ("MR_small_implicit.dcm", JPEG, IMPLICIT_LE),
    ("MR_small_RLE.dcm", EXPLICIT_LE, RLE),
    ("MR_small_RLE.dcm", IMPLICIT_LE, RLE),
    ("MR_small_RLE.dcm", DEFLATED_LE, RLE),
    ("MR_small_RLE.dcm", J2K, RLE),
    ("693_J2KR.dcm", JPEG, J2K[:-1] + "1"),
    ("693_J2KR.dcm", RLE, J2K[:-1] + "1"),
    ("MR_small_jpeg_ls_lossless.dcm", J2K, JPEG[:-2] + "80"),
    ("MR_small_jpeg_ls_lossless.dcm", JPEG[:-2] + "70", JPEG[:-2] + "80"),
    ("SC_rgb_jpeg_dcmtk.dcm", J2K, JPEG),
    ("SC_rgb_jpeg_dcmtk.dcm", JPEG[:-2] + "80", JPEG),
]


def relabelled(name: str, label: str, folder: Path) -> Path:
    """The shipped file with another transfer syntax in its File Meta Information, and the same data set."""
    path, out = shipped(name), folder / "relabelled.dcm"
    meta, body = read_meta(path), path.read_bytes()[dataset_offset(path) :]
    if label == DEFLATED_LE:
        compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = compressor.compress(body) + compressor.flush()
        body += b"\0" * (len(body) % 2)
    out.write_bytes(file_header(meta.sop_class_uid, meta.sop_instance_uid, label) + body)
    return out


@pytest.mark.parametrize(("name", "label", "real"), MISLABELLED)
def test_pixel_data_that_contradict_the_transfer_syntax_are_what_they_show(
    name: str, label: str, real: str, tmp_path: Path
) -> None:
    source = relabelled(name, label, tmp_path)
    for target in dict.fromkeys((EXPLICIT_LE, real, EXPLICIT_LE if JPEG in {label, real} else label)):
        out = tmp_path / "out.dcm"
        report = transcode(source, out, RenditionSpec(target), verify="always")
        assert "its pixel data is " in report.notes
        assert read_meta(out).transfer_syntax_uid == target
        found, expected = (cells(path, tmp_path)[0].astype(int) for path in (out, shipped(name)))
        assert abs(found - expected).max() <= (real == JPEG)  # decoders of lossy JPEG differ by 1
        if target == real:
            assert dcmread(out).PixelData == dcmread(shipped(name)).PixelData


@pytest.mark.parametrize(
    ("name", "label", "group"),
    [
        ("CT_small.dcm", J2K, "jpeg2000"),
        ("CT_small.dcm", RLE, "rle"),
        ("MR_small_RLE.dcm", EXPLICIT_LE, "uncompressed"),
        ("MR_small_implicit.dcm", EXPLICIT_LE, "uncompressed"),
    ],
)
def test_a_file_is_not_left_in_a_transfer_syntax_that_it_only_states(
    name: str, label: str, group: str, tmp_path: Path
) -> None:
    outcome = converted(relabelled(name, label, tmp_path), tmp_path / "out.dcm", group)
    assert outcome.kind is Kind.MADE, outcome.words
    assert read_meta(tmp_path / "out.dcm").transfer_syntax_uid == label
    found, expected = (cells(path, tmp_path)[0] for path in (tmp_path / "out.dcm", shipped(name)))
    assert (found == expected).all()


def test_native_pixel_data_of_another_length_in_a_compressed_syntax_is_refused_in_every_form(
    tmp_path: Path,
) -> None:
    made = dcmread(shipped("CT_small.dcm"))
    for length in (1, -2, -16, 2):
        made.PixelData = (dcmread(shipped("CT_small.dcm")).PixelData + b"\0\0")[: 128 * 128 * 2 + length]
        made.file_meta.TransferSyntaxUID = EXPLICIT_LE
        made.save_as(tmp_path / "in.dcm")
        content = (tmp_path / "in.dcm").read_bytes()[dataset_offset(tmp_path / "in.dcm") :]
        meta = read_meta(tmp_path / "in.dcm")
        source = tmp_path / "odd.dcm"
        source.write_bytes(file_header(meta.sop_class_uid, meta.sop_instance_uid, J2K) + content)
        for target in (J2K, EXPLICIT_LE, RLE):
            with pytest.raises(Permanent, match="pixel data is not in fragments"):
                transcode(source, tmp_path / "out.dcm", RenditionSpec(target))


@pytest.mark.parametrize(("said", "found"), [(EXPLICIT_LE, IMPLICIT_LE), (IMPLICIT_LE, EXPLICIT_LE)])
@pytest.mark.parametrize("target", [EXPLICIT_LE, IMPLICIT_LE, RLE])
@pytest.mark.parametrize("name", ["MR_small.dcm", "rtplan.dcm", "image_dfl.dcm", "693_UNCI.dcm"])
def test_a_data_set_whose_label_is_wrong_about_its_vr_is_read_as_it_is_and_noted(
    name: str, target: str, said: str, found: str, tmp_path: Path
) -> None:
    if target == RLE and name == "rtplan.dcm":
        pytest.skip("no pixels")
    right, wrong = tmp_path / "right.dcm", tmp_path / "wrong.dcm"
    transcode(shipped(name), right, RenditionSpec(found))
    content = right.read_bytes()
    # UIDs of the same length: one is padded where the other is not.
    uids = (
        f"{found}\0".encode() if len(found) % 2 else found.encode(),
        said.encode() + b"\0" * (len(said) % 2),
    )
    element = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(uids[0])) + uids[0]
    assert content.count(element) == 1
    wrong.write_bytes(
        content.replace(element, b"\x02\x00\x10\x00UI" + struct.pack("<H", len(uids[1])) + uids[1])
    )
    made, notes = rendition(wrong, target)
    assert made == rendition(right, target)[0]
    assert f"in {'Explicit' if found == EXPLICIT_LE else 'Implicit'} VR" in notes


def test_a_compressed_file_in_implicit_vr_gives_the_pixels_that_dcmtk_decodes(tmp_path: Path) -> None:
    source, ours, theirs = shipped("SC_rgb_jpeg.dcm"), tmp_path / "ours.dcm", tmp_path / "theirs.dcm"
    assert "Implicit VR" in transcode(source, ours, RenditionSpec(EXPLICIT_LE)).notes
    read = dcmread(source)
    frame = next(generate_frames(read.PixelData, number_of_frames=1))
    same = dataset((read.Rows, read.Columns, 3), 8)  # RGB, as that file says
    explicit = encapsulated(tmp_path / "explicit.dcm", same, JPEG, [frame])
    subprocess.run([program("dcmdjpeg"), str(explicit), str(theirs)], check=True, capture_output=True)
    assert native_pixels(ours) == native_pixels(theirs)


@pytest.mark.parametrize("uid", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, RLE])
@pytest.mark.parametrize("stated", [b"", group_length(16), None], ids=["none", "wrong", "right"])
def test_what_is_left_over_at_the_head_of_a_data_set_neither_relabels_nor_stays(
    stated: bytes | None, uid: str, tmp_path: Path
) -> None:
    left_over = b"\2\0\3\0UI\6\x009.9.9\0\2\0\x10\0UI\x16\x001.2.840.10008.1.2.4.90"
    sound = tmp_path / "sound.dcm"
    encode(shipped("CT_small.dcm"), sound, uid)
    content, offset = sound.read_bytes(), dataset_offset(sound)
    data_set = left_over + content[offset:]
    if uid == DEFLATED_LE:
        data_set = zlib.compress(left_over + zlib.decompress(content[offset:], -zlib.MAX_WBITS), wbits=-15)
    head = content[:offset]
    if stated is not None:
        head = head[: LENGTH_ELEMENT.start] + stated + head[LENGTH_ELEMENT.stop :]
    odd = tmp_path / "odd.dcm"
    odd.write_bytes(head + data_set)
    target = IMPLICIT_LE if uid == EXPLICIT_LE else EXPLICIT_LE
    written, notes = rendition(odd, target)
    assert written == rendition(sound, target)[0]
    assert ("group 0000 or 0002" in notes) is (stated is None or uid == DEFLATED_LE)
    assert read_meta(odd.with_suffix(".out")).sop_instance_uid == dcmread(sound).SOPInstanceUID
