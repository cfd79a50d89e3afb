"""Properties that hold for any image: there and back without a loss, whatever stands around the pixels.

In CI the examples are always the same ones; at a desk they are random, and a failure prints how to repeat it.
"""

import os
import struct
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, Sequence, dcmread
from pydicom.encaps import generate_frames

from dicomferry.dicom.syntaxes import BY_UID, DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE, TABLE
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images.conformant import problems
from tests.support.images.gallery import Picture, surround
from tests.support.images.independent import JPEG, RLE, native_cells
from tests.support.images.surroundings import changeable, values
from tests.support.images.synthetic import dataset, encapsulated, image, item, with_pixel_data, write
from workers.codecs.encoders import refusal
from workers.transcode import Unsuitable, transcode

LOSSLESS = [s for s in TABLE if s.encoded and s.lossless and s.uid != EXPLICIT_LE]
ENCAPSULATED = [s for s in LOSSLESS if not s.native]
IS_CI = os.environ.get("CI") == "true"


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples, deadline=None, derandomize=IS_CI, database=None, print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    """Any image of the sorts that PS3.3 C.7.6.3 knows."""
    samples = draw(st.sampled_from((1, 1, 3)))
    allocated = draw(st.sampled_from((8, 16, 32) if samples == 1 else (8, 16)))
    photometric = draw(
        st.sampled_from(("MONOCHROME1", "MONOCHROME2") if samples == 1 else ("RGB", "YBR_FULL"))
    )
    return Picture(
        name=f"any-{draw(st.integers(0, 1 << 32))}",
        bits=draw(st.integers(2 if allocated == 8 else 9 if allocated == 16 else 17, allocated)),
        allocated=allocated,
        signed=draw(st.booleans()) if samples == 1 else False,
        samples=samples,
        photometric=photometric,
        planar=draw(st.integers(0, 1)) if samples == 3 else 0,
        frames=draw(st.integers(1, 3)),
        rows=draw(st.integers(1, 40)),
        columns=draw(st.integers(1, 40)),
    )


def cells_of(path: Path) -> np.ndarray:
    return native_cells(dcmread(path))


@pytest.mark.parametrize("target", LOSSLESS, ids=lambda s: s.label)
def test_any_image_comes_back_from_each_lossless_syntax(target, tmp_path: Path) -> None:
    made = {"back": 0, "refused": 0}

    @bounded(25)
    @given(pictures())
    def there_and_back(picture: Picture) -> None:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        source = picture.write(folder / "in.dcm")
        reason = None if target.native else refusal(target.uid, picture.described)
        try:
            transcode(source, folder / "there.dcm", RenditionSpec(target.uid, "as-encoded"))
        except Unsuitable:
            assert reason
            made["refused"] += 1
            return
        assert reason is None
        assert problems(folder / "there.dcm") == []
        transcode(folder / "there.dcm", folder / "back.dcm", RenditionSpec(EXPLICIT_LE, "as-encoded"))
        assert (cells_of(folder / "back.dcm") == picture.cells).all()
        without = changeable(EXPLICIT_LE, target.uid)
        assert values(folder / "back.dcm", without, folder) == values(source, without, folder)
        after = dcmread(folder / "back.dcm")
        if picture.photometric != "YBR_FULL":
            assert after.PhotometricInterpretation == picture.photometric
        assert target.native or after.get("PlanarConfiguration", 0) == 0
        made["back"] += 1

    there_and_back()
    assert made["back"] >= 3, made


@pytest.mark.parametrize("target", LOSSLESS, ids=lambda s: s.label)
def test_equal_inputs_and_specs_give_equal_bytes(target, tmp_path: Path) -> None:
    picture = Picture("again", 12, 16, frames=3, rows=40, columns=41)
    source = picture.write(tmp_path / "in.dcm")
    for name in ("one", "two"):
        transcode(source, tmp_path / name, RenditionSpec(target.uid))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


TABLES = ("right", "empty", "wrong", "extended")


@pytest.mark.parametrize("table", TABLES)
def test_frames_in_any_fragments_are_found_or_refused_and_never_mixed_up(table: str, tmp_path: Path) -> None:
    import openjpeg

    frames = [image(40, 41, 12, seed=n) for n in range(4)]
    sources = [bytes(openjpeg.utils.encode_array(f, bits_stored=12)) for f in frames]
    outcomes = {"made": 0, "refused": 0}

    @bounded(40)
    @given(st.data())
    def any_fragments(data: st.DataObject) -> None:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        count = data.draw(st.integers(1, 4))
        made = dataset((40, 41), 12, NumberOfFrames=count)
        items, offsets, at = [], [], 0
        for codestream in sources[:count]:
            offsets.append(at)
            whole = codestream + b"\0" * (len(codestream) % 2)
            # An extended table knows one fragment a frame (PS3.3 C.7.6.3.1.8).
            pieces = 0 if table == "extended" else data.draw(st.integers(0, 3))
            # Where no table tells, a frame is known by its codestream's first bytes.
            cuts = sorted({2 * data.draw(st.integers(4, len(whole) // 2 - 1)) for _ in range(pieces)})
            for begin, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
                items.append(item(whole[begin:stop]))
                at += len(items[-1])
        basic = b""
        if table == "right":
            basic = struct.pack(f"<{count}I", *offsets)
        elif table == "wrong":
            # Offsets of fragments in any order are the worst: they look right.
            starts = [sum(map(len, items[:n])) for n in range(len(items))]
            any_offset = st.sampled_from(starts) | st.integers(0, (1 << 32) - 1)
            wrong = data.draw(st.lists(any_offset, min_size=1, max_size=5))
            basic = struct.pack(f"<{len(wrong)}I", *wrong)
        elif table == "extended":
            made.ExtendedOffsetTable = struct.pack(f"<{count}Q", *offsets)
            made.ExtendedOffsetTableLengths = struct.pack(f"<{count}Q", *map(len, sources[:count]))
        value = item(basic) + b"".join(items)
        source = with_pixel_data(folder / "in.dcm", made, JPEG + "90", value)
        try:
            transcode(source, folder / "out.dcm", RenditionSpec(EXPLICIT_LE))
        except Permanent:
            outcomes["refused"] += 1
            assert table == "wrong"
            return
        outcomes["made"] += 1
        assert (cells_of(folder / "out.dcm") == np.stack(frames[:count])).all()
        assert problems(folder / "out.dcm") == []

    any_fragments()
    assert outcomes["made"] >= (3 if table == "extended" else 20), outcomes


@pytest.mark.parametrize("target", ENCAPSULATED, ids=lambda s: s.label)
def test_overlays_above_bits_stored_are_moved_or_the_target_is_refused(target, tmp_path: Path) -> None:
    made = {"moved": 0, "kept": 0, "refused": 0}

    @bounded(8)
    @given(st.integers(9, 15), st.integers(1, 3), st.integers(1, 30), st.integers(1, 30), st.integers(0, 99))
    @example(12, 2, 17, 19, 0)  # no target refuses it: chance may draw only sizes that are too small for one
    def with_overlay(bits: int, frames: int, rows: int, columns: int, seed: int) -> None:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        picture = Picture(
            f"overlay-{seed}", bits, 16, overlay=True, frames=frames, rows=rows, columns=columns
        )
        made_set = picture.dataset()
        if frames > 1:
            made_set.add_new(0x60000015, "IS", str(frames))  # Number of Frames in Overlay
        made_set.add_new("PixelData", "OW", picture.native)
        source = write(folder / "in.dcm", made_set, EXPLICIT_LE)
        try:
            transcode(source, folder / "there.dcm", RenditionSpec(target.uid))
        except Unsuitable:
            made["refused"] += 1
            return
        transcode(folder / "there.dcm", folder / "back.dcm", RenditionSpec(EXPLICIT_LE))
        back = dcmread(folder / "back.dcm")
        got = native_cells(back)
        plane = (picture.cells >> bits) & 1
        mask = (1 << bits) - 1
        assert (got & mask == picture.cells & mask).all()
        if (0x6000, 0x3000) in back:
            packed = np.packbits(plane.ravel(), bitorder="little").tobytes()
            assert back[0x60003000].value[: len(packed)] == packed
            assert back[0x60000100].value == 1
            assert back[0x60000102].value == 0
            made["moved"] += 1
        else:
            assert (got >> bits & 1 == plane).all()
            made["kept"] += 1

    with_overlay()
    assert made["moved"] + made["kept"], made


VRS = (
    ("LO", st.text("abc \u00e4\u00df", max_size=12)),
    ("UN", st.binary(max_size=20).filter(lambda b: not b.startswith(b"\xfe\xff"))),
    ("OB", st.binary(max_size=20).filter(lambda b: not b.startswith(b"\xfe\xff"))),
    ("US", st.integers(0, 65535)),
    ("FD", st.floats(allow_nan=False)),
)


@st.composite
def elements(draw: st.DrawFn, depth: int = 0) -> Dataset:
    """A data set of private elements and sequences, nested, of both kinds of length."""
    made = Dataset()
    made.is_undefined_length_sequence_item = draw(st.booleans())
    made.add_new(0x00110010, "LO", "ANYBODY")
    for number in range(draw(st.integers(0, 4))):
        vr, content = draw(st.sampled_from(VRS))
        value = draw(content)
        if isinstance(value, bytes):
            value += b"\0" * (len(value) % 2)
        made.add_new(0x00111000 + number, vr, value)
    if depth < 6 and draw(st.booleans()):
        items = draw(st.lists(elements(depth=depth + 1), max_size=2))
        made.add_new(0x00111080, "SQ", Sequence(items))
        made[0x00111080].is_undefined_length = draw(st.booleans())
    if depth < 6 and draw(st.booleans()):
        made.ReferencedImageSequence = Sequence(draw(st.lists(elements(depth=depth + 1), max_size=2)))
        made["ReferencedImageSequence"].is_undefined_length = draw(st.booleans())
    return made


@pytest.mark.parametrize(
    ("source_uid", "target"),
    [
        (source, target)
        for source in (EXPLICIT_LE, IMPLICIT_LE)
        for target in (IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE, RLE)
        if source != target
    ],
    ids=lambda uid: BY_UID[uid].label,
)
def test_private_sequences_of_any_depth_and_length_survive(
    source_uid: str, target: str, tmp_path: Path
) -> None:
    @bounded(25)
    @given(elements())
    def any_elements(private: Dataset) -> None:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        picture = Picture("around", 8, 8, rows=5, columns=7)
        made = picture.dataset()
        made.update({element.tag: element for element in private})
        made.add_new("PixelData", "OW" if source_uid == IMPLICIT_LE else "OB", picture.native)
        source = write(folder / "in.dcm", made, source_uid)
        transcode(source, folder / "there.dcm", RenditionSpec(target))
        assert problems(folder / "there.dcm") == []
        transcode(folder / "there.dcm", folder / "back.dcm", RenditionSpec(source_uid))
        without = changeable(source_uid, target)
        assert values(folder / "back.dcm", without, folder) == values(source, without, folder)
        assert (cells_of(folder / "back.dcm") == picture.cells).all()

    any_elements()


@pytest.mark.parametrize("depth", [20, 90])
def test_sequences_nested_deeper_than_any_document_survive(depth: int, tmp_path: Path) -> None:
    inner = Dataset()
    inner.add_new(0x00080100, "SH", "DEEPEST")
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner])
        inner = outer
    picture = Picture("deep", 8, 8, rows=5, columns=7)
    made = picture.dataset()
    made.add_new("PixelData", "OB", picture.native)
    made.ReferencedImageSequence = inner.ReferencedImageSequence
    surround(made)
    source = write(tmp_path / "in.dcm", made, EXPLICIT_LE)
    transcode(source, tmp_path / "there.dcm", RenditionSpec(IMPLICIT_LE))
    transcode(tmp_path / "there.dcm", tmp_path / "back.dcm", RenditionSpec(EXPLICIT_LE))
    assert b"DEEPEST" in (tmp_path / "back.dcm").read_bytes()
    assert values(tmp_path / "back.dcm", frozenset(), tmp_path) == values(source, frozenset(), tmp_path)


def test_an_rle_object_whose_frames_have_fragments_of_their_own_comes_back(tmp_path: Path) -> None:
    picture = Picture("rle", 16, 16, frames=3, rows=20, columns=21)
    source = picture.write(tmp_path / "in.dcm")
    if RLE not in {s.uid for s in LOSSLESS}:
        pytest.skip("RLE is not made")
    transcode(source, tmp_path / "there.dcm", RenditionSpec(RLE))
    frames = list(generate_frames(dcmread(tmp_path / "there.dcm").PixelData, number_of_frames=3))
    again = encapsulated(
        tmp_path / "again.dcm", replace(picture).dataset(), RLE, frames, fragments_per_frame=2
    )
    transcode(again, tmp_path / "back.dcm", RenditionSpec(EXPLICIT_LE))
    assert (cells_of(tmp_path / "back.dcm") == picture.cells).all()
