"""A data set of odd length becomes a legal one: what is padded, and what must follow from it."""

import io
import struct
from collections.abc import Callable, Iterator

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames, parse_basic_offsets
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from dicomferry.dicom import even
from dicomferry.dicom.even import Spliced, edits
from dicomferry.dicom.syntaxes import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE

J2K = "1.2.840.10008.1.2.4.90"
SQ, ITEM, ITEM_END, SQ_END = 0x00081140, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
Encoder = Callable[[int, str, bytes], bytes]


def explicit(order: str = "<") -> Encoder:
    def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
        size = len(value) if length is None else length
        head = struct.pack(order + "HH", tag >> 16, tag & 0xFFFF)
        if vr in {"OB", "OW", "SQ", "UN", "UT", "OV"}:
            return head + struct.pack(order + "2s2xI", vr.encode(), size) + value
        return head + struct.pack(order + "2sH", vr.encode(), size) + value

    return element


def implicit(tag: int, _: str, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, size) + value


def bare(order: str, tag: int, value: bytes = b"", length: int | None = None) -> bytes:
    """An item or a delimiter (PS3.5 7.5)."""
    size = len(value) if length is None else length
    return struct.pack(order + "HHI", tag >> 16, tag & 0xFFFF, size) + value


ENCODINGS = [(EXPLICIT_LE, explicit(), "<"), (IMPLICIT_LE, implicit, "<"), (EXPLICIT_BE, explicit(">"), ">")]


def evened(content: bytes, syntax: str = EXPLICIT_LE, before: bytes = b"head") -> tuple[bytes, str]:
    file = io.BytesIO(before + content)
    end = len(before) + len(content)
    changes, note = edits(file, len(before), end, syntax)
    source = Spliced(file, len(before), end, changes)
    sent = b""
    while part := source.read(7):
        sent += part
    assert len(sent) == source.length
    return sent, note


def parsed(content: bytes, syntax: str = EXPLICIT_LE) -> Dataset:
    """What pydicom reads, all of it, with every length checked."""
    found = DicomBytesIO(content)
    data_set = read_dataset(found, syntax == IMPLICIT_LE, syntax != EXPLICIT_BE)
    assert all(length % 2 == 0 for length in lengths(data_set))
    return data_set


def lengths(data_set: Dataset) -> Iterator[int]:
    for tag in list(data_set.keys()):
        raw = data_set.get_item(tag)
        if isinstance(raw, pydicom.dataelem.RawDataElement) and raw.length != UNDEFINED:
            yield raw.length
        element = data_set[tag]
        if element.VR == "SQ":
            for item in element.value:
                yield from lengths(item)


@pytest.mark.parametrize(("syntax", "element"), [encoding[:2] for encoding in ENCODINGS])
@pytest.mark.parametrize(
    ("tag", "vr", "value", "pad"),
    [
        (0x00400254, "LO", b"abc", b" "),
        (0x00080018, "UI", b"1.2.3", b"\0"),
        (0x00420011, "OB", b"\x01\x02\x03", b"\0"),
        (0x00091001, "UN", b"\x01", b"\0"),
        (0x00090010, "LO", b"ACM", b" "),  # a private creator: LO in Implicit VR too (PS3.5 7.8.1)
    ],
)
def test_an_odd_value_is_padded_as_its_vr_says(  # noqa: PLR0917  a table
    syntax: str, element: Encoder, tag: int, vr: str, value: bytes, pad: bytes
) -> None:
    before, after = element(0x00080005, "CS", b"X "), element(0x00420010, "ST", b"even")
    sent, note = evened(before + element(tag, vr, value) + after, syntax)
    assert sent == before + element(tag, vr, value + pad) + after
    assert note == f"its data set has an odd length: ({tag >> 16:04X},{tag & 0xFFFF:04X}) padded"


@pytest.mark.parametrize(("syntax", "element", "order"), ENCODINGS, ids=["explicit", "implicit", "big"])
@pytest.mark.parametrize("sequence", ["stated", "undefined"])
@pytest.mark.parametrize("item", ["stated", "undefined"])
def test_lengths_around_an_odd_value_grow_with_it(
    syntax: str, element: Callable[..., bytes], order: str, sequence: str, item: str
) -> None:
    def nested(content: bytes) -> bytes:
        inside = (
            bare(order, ITEM, content)
            if item == "stated"
            else bare(order, ITEM, content, UNDEFINED) + bare(order, ITEM_END)
        )
        if sequence == "stated":
            return element(SQ, "SQ", inside)
        return element(SQ, "SQ", inside + bare(order, SQ_END), UNDEFINED)

    def whole(pad: bytes) -> bytes:
        deep = nested(element(0x00081155, "UI", b"1.2.3" + pad) + nested(element(0x00080050, "SH", b"ab")))
        return element(0x00080005, "CS", b"") + deep + element(0x00100020, "LO", b"12")

    sent, note = evened(whole(b""), syntax)
    assert sent == whole(b"\0")
    assert "(0008,1155)" in note
    assert parsed(sent, syntax).PatientID == "12"


def test_what_counts_bytes_of_its_group_counts_the_padding() -> None:
    element = explicit()
    odd = element(0x00080000, "UL", struct.pack("<I", 11)) + element(0x00080050, "SH", b"abc")
    assert evened(odd)[0] == (
        element(0x00080000, "UL", struct.pack("<I", 12)) + element(0x00080050, "SH", b"abc ")
    )


def encapsulated(frames: list[bytes], offsets: list[int], extended: list[int] | None = None) -> bytes:
    table = struct.pack(f"<{len(offsets)}I", *offsets)
    items = b"".join(bare("<", ITEM, part) for part in (table, *frames)) + bare("<", SQ_END)
    element = explicit()
    before = b""
    if extended is not None:
        before = element(0x7FE00001, "OV", struct.pack(f"<{len(extended)}Q", *extended))
    return before + element(0x7FE00010, "OB", items, UNDEFINED)  # type: ignore[call-arg]


def test_odd_fragments_are_padded_and_the_offset_tables_follow() -> None:
    frames = [b"\x01" * 5, b"\x02" * 7, b"\x03" * 9]
    sent, note = evened(encapsulated(frames, [0, 13, 28], [0, 13, 28]), J2K)
    padded = [frame + b"\0" for frame in frames]
    assert sent == encapsulated(padded, [0, 14, 30], [0, 14, 30])
    assert "(7FE0,0010)" in note
    pixels = parsed(sent)[0x7FE00010].value
    assert parse_basic_offsets(pixels) == [0, 14, 30]
    assert list(generate_frames(pixels, number_of_frames=3)) == padded


def test_an_offset_table_that_was_wrong_stays_as_it_came() -> None:
    sent, _ = evened(encapsulated([b"\x01" * 5, b"\x02" * 6], [0, 999]), J2K)
    assert sent == encapsulated([b"\x01" * 5 + b"\0", b"\x02" * 6], [0, 999])


def test_a_value_that_gets_too_long_for_its_vr_becomes_un() -> None:
    element = explicit()
    sent, _ = evened(element(0x00080050, "SH", b"x" * 65535) + element(0x00100020, "LO", b"12"))
    assert sent == element(0x00080050, "UN", b"x" * 65535 + b" ") + element(0x00100020, "LO", b"12")


@pytest.mark.parametrize(
    "odd",
    [
        explicit()(0x00100020, "LO", b"12") + b"\0",
        explicit()(0x00100020, "LO", b"12") + b"\0" * 9,
        explicit()(0x00100020, "LO", b"12")[:-1],
        explicit()(0x00100020, "LO", b"1") + b"junk, of even lengt!",
        bare("<", SQ_END) + b"\1",
        bare("<", 0x00081140, b"SQ\0\0\xff\xff\xff\xff" * 40 + b"\0"),
        encapsulated([b"12345"], [0])[:-9] + b"\xff" * 6,
    ],
)
def test_after_damage_or_junk_a_nul_follows(odd: bytes) -> None:
    odd += b"\0" * (1 - len(odd) % 2)
    sent, note = evened(odd)
    assert sent == odd + b"\0"
    assert "from damage or junk" in note


def test_a_deflated_data_set_gets_the_nul_that_the_standard_asks_for() -> None:
    assert evened(b"\1\2\3", DEFLATED_LE)[0] == b"\1\2\3\0"


def test_a_data_set_of_even_length_leaves_as_it_came() -> None:
    content = explicit()(0x00080050, "SH", b"abc") + explicit()(0x00100020, "LO", b"1")
    assert evened(content) == (content, "")


def test_a_hostile_data_set_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(even, "MAX_HEADERS", 100)
    content = explicit()(0x00080050, "SH", b"") * 200 + explicit()(0x00100020, "LO", b"1")
    assert evened(content)[0] == content + b"\0"
    deep = b"".join(explicit()(SQ, "SQ", b"", UNDEFINED) + bare("<", ITEM, b"", UNDEFINED) for _ in range(90))  # type: ignore[call-arg]
    assert evened(deep + b"\0")[0] == deep + b"\0\0"


@pytest.mark.parametrize("is_sequence", [True, False])
def test_a_sequence_in_a_un_is_padded_inside_and_anything_else_behind(is_sequence: bool) -> None:
    """A NUL behind the last item ends the reading of those who know from the tag that it is a sequence."""
    element = explicit()
    content = implicit(0x00081155, "UI", b"1.2.3")
    value = bare("<", ITEM, content) if is_sequence else b"no sequence"
    odd = element(SQ, "UN", value)
    sent, note = evened(odd + element(0x00100020, "LO", b"12"))
    padded = bare("<", ITEM, implicit(0x00081155, "UI", b"1.2.3\0")) if is_sequence else value + b"\0"
    assert sent == element(SQ, "UN", padded) + element(0x00100020, "LO", b"12")
    assert ("(0008,1155)" if is_sequence else "(0008,1140)") in note
