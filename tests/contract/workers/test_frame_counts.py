"""Number of Frames, offset tables, fragments and codestreams that contradict each other (PS3.5 A.4).

Frames are never lost, invented or mixed: such an object is refused, unless it is clear what its frames are.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openjpeg
import pytest
from pydicom.encaps import encapsulate_extended

from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.errors import Permanent
from dicomferry.spool.instance import RenditionSpec
from tests.support.images.files import native_pixels
from tests.support.images.synthetic import dataset, image, item, with_pixel_data
from workers.codecs import boundaries
from workers.transcode import transcode

JPEG = "1.2.840.10008.1.2.4."
RLE, DEFLATED_FRAME = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.8.1"
BASELINE, JPEG_LS, J2K, JXL = JPEG + "50", JPEG + "80", JPEG + "90", JPEG + "110"
PICTURES = [image(40, 48, 8, seed=n) for n in range(3)]


def rle(values: np.ndarray) -> bytes:
    """One segment of literal runs (PS3.5 annex G)."""
    content = values.tobytes()
    runs = (content[at : at + 128] for at in range(0, len(content), 128))
    return struct.pack("<16I", 1, 64, *[0] * 14) + b"".join(bytes([len(run) - 1]) + run for run in runs)


def deflated(values: np.ndarray) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(values.tobytes()) + compressor.flush()


def j2k(values: np.ndarray) -> bytes:
    return bytes(openjpeg.utils.encode_array(values, bits_stored=8, photometric_interpretation=0))


ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {
    BASELINE: lambda v: bytes(imagecodecs.jpeg8_encode(v, level=95)),
    JPEG + "57": lambda v: bytes(imagecodecs.jpeg8_encode(v, lossless=True, predictor=4)),
    JPEG + "70": lambda v: bytes(imagecodecs.jpeg8_encode(v, lossless=True, predictor=1)),
    JPEG_LS: lambda v: bytes(imagecodecs.jpegls_encode(v)),
    J2K: j2k,
    JPEG + "201": lambda v: bytes(imagecodecs.htj2k_encode(v, tlm=True)),
    JXL: lambda v: bytes(imagecodecs.jpegxl_encode(v, lossless=True)),
    JPEG + "111": lambda v: bytes(
        imagecodecs.jpegxl_encode_jpeg(bytes(imagecodecs.jpeg8_encode(v, level=95)))
    ),
    RLE: rle,
    DEFLATED_FRAME: deflated,
}
SHOWN = sorted(ENCODERS.keys() - {DEFLATED_FRAME})  # where bytes show that a codestream begins
every_syntax = pytest.mark.parametrize("uid", sorted(ENCODERS))
every_shown = pytest.mark.parametrize("uid", SHOWN)


def even(content: bytes) -> bytes:
    return content + b"\0" * (len(content) % 2)


def frames_of(uid: str) -> list[bytes]:
    return [even(ENCODERS[uid](picture)) for picture in PICTURES]


def parts(content: bytes, count: int = 2) -> list[bytes]:
    size = len(content) // count // 2 * 2
    return [content[n * size : (n + 1) * size if n < count - 1 else None] for n in range(count)]


def offsets(fragments: Sequence[bytes]) -> list[int]:
    return [sum(len(f) + 8 for f in fragments[:n]) for n in range(len(fragments))]


def source(
    folder: Path, uid: str, fragments: Sequence[bytes], table: Sequence[int] = (), **elements: Any
) -> Path:
    value = item(struct.pack(f"<{len(table)}I", *table)) + b"".join(map(item, fragments))
    return with_pixel_data(folder / "in.dcm", dataset((40, 48), 8, **elements), uid, value)


def made(path: Path) -> tuple[bytes, str]:
    target = path.with_name("out.dcm")
    notes = transcode(path, target, RenditionSpec(EXPLICIT_LE)).notes
    return native_pixels(target), notes


def truth(folder: Path, uid: str, count: int = 3) -> bytes:
    """The pixels of the first frames; of lossy ones, each alone in an object of its own."""
    if uid not in (BASELINE, JPEG + "111"):
        return b"".join(p.tobytes() for p in PICTURES[:count])
    folder = folder / "alone"
    folder.mkdir(exist_ok=True)
    return b"".join(made(source(folder, uid, [frame]))[0] for frame in frames_of(uid)[:count])


@every_syntax
@pytest.mark.parametrize("has_table", [False, True])
@pytest.mark.parametrize("stated", [{}, {"NumberOfFrames": 1}, {"NumberOfFrames": ""}], ids=str)
def test_one_frame_that_is_three_codestreams_is_refused(
    uid: str, stated: dict[str, Any], has_table: bool, tmp_path: Path
) -> None:
    frames = frames_of(uid)
    path = source(tmp_path, uid, frames, offsets(frames) if has_table else (), **stated)
    reason = "Number of Frames is 1, pixel data holds 3 codestreams" if uid in SHOWN else "another"
    with pytest.raises(Permanent, match=reason):
        made(path)


@every_syntax
@pytest.mark.parametrize("count", [1, 2])
def test_codestreams_in_a_row_in_one_fragment_are_refused(uid: str, count: int, tmp_path: Path) -> None:
    first, second, third = frames_of(uid)
    fragments = [first + second + third] if count == 1 else [first, second + third]
    reason = f"Number of Frames is {count}, pixel data holds 3 codestreams" if uid in SHOWN else "another"
    with pytest.raises(Permanent, match=reason):
        made(source(tmp_path, uid, fragments, NumberOfFrames=count))


def jxl(number: int, **options: Any) -> bytes:
    return even(bytes(imagecodecs.jpegxl_encode(PICTURES[number], **options)))


BOXES, NAKED = {"lossless": True, "usecontainer": True}, {"lossless": True, "usecontainer": False}
LOSSY_XL = {"distance": 1.0, "usecontainer": False}


@pytest.mark.parametrize(
    ("first", "second"),
    [(BOXES, NAKED), (NAKED, BOXES), (NAKED, LOSSY_XL), (LOSSY_XL, NAKED), (LOSSY_XL, BOXES)],
    ids=str,
)
def test_a_jpeg_xl_of_another_form_is_a_frame_too(
    first: dict[str, Any], second: dict[str, Any], tmp_path: Path
) -> None:
    path = source(tmp_path, JPEG + "112", [jxl(0, **first), jxl(1, **second)])
    with pytest.raises(Permanent, match="Number of Frames is 1, pixel data holds 2 codestreams"):
        made(path)


@pytest.mark.parametrize("stated", [1, 2])
@pytest.mark.parametrize(
    ("uid", "other"),
    [(J2K, BASELINE), (J2K, JPEG_LS), (BASELINE, J2K), (JPEG_LS, J2K), (JXL, J2K), (JXL, BASELINE)],
)
def test_a_codestream_of_another_format_is_not_dropped(
    uid: str, other: str, stated: int, tmp_path: Path
) -> None:
    fragments = [frames_of(uid)[0], frames_of(other)[1], *frames_of(uid)[2:][: stated - 1]]
    reason = f"Number of Frames is {stated}, pixel data holds {stated + 1} codestreams"
    with pytest.raises(Permanent, match=reason):
        made(source(tmp_path, uid, fragments, NumberOfFrames=stated))


@every_shown
def test_a_table_cannot_hide_a_frame(uid: str, tmp_path: Path) -> None:
    frames = frames_of(uid)
    path = source(tmp_path, uid, frames, offsets(frames)[:2], NumberOfFrames=2)
    with pytest.raises(Permanent, match="Number of Frames is 2, pixel data holds 3 codestreams"):
        made(path)


@every_shown
def test_fragments_that_begin_no_codestream_are_no_frames(uid: str, tmp_path: Path) -> None:
    fragments = parts(frames_of(uid)[0], 3)
    path = source(tmp_path, uid, fragments, offsets(fragments), NumberOfFrames=3)
    with pytest.raises(Permanent, match=r"Number of Frames is 3, pixel data holds 1 codestream \("):
        made(path)


@every_syntax
@pytest.mark.parametrize("kind", ["empty", "right", "wrong", "of fragments", "of one"])
def test_frames_in_several_fragments_are_found_whatever_the_table_says(
    uid: str, kind: str, tmp_path: Path
) -> None:
    fragments = [part for frame in frames_of(uid) for part in parts(frame)]
    all_ = offsets(fragments)
    tables = {"empty": [], "right": all_[::2], "wrong": [4, 9, 11], "of fragments": all_, "of one": [0]}
    path = source(tmp_path, uid, fragments, tables[kind], NumberOfFrames=3)
    if uid == DEFLATED_FRAME and kind != "right":
        with pytest.raises(Permanent, match="no usable offset table"):
            made(path)
        return
    pixels, notes = made(path)
    assert pixels == truth(tmp_path, uid)
    assert ("Basic Offset Table contradicts" in notes) == (kind not in ("empty", "right"))


@every_syntax
@pytest.mark.parametrize("table", [(), (0,), (0, 20)], ids=str)
def test_one_frame_in_several_fragments_is_one_frame(
    uid: str, table: tuple[int, ...], tmp_path: Path
) -> None:
    fragments = parts(frames_of(uid)[0], 3)
    assert made(source(tmp_path, uid, fragments, table))[0] == truth(tmp_path, uid, 1)


@every_syntax
def test_a_table_in_another_order_is_refused(uid: str, tmp_path: Path) -> None:
    frames = frames_of(uid)
    path = source(tmp_path, uid, frames, offsets(frames)[::-1], NumberOfFrames=3)
    with pytest.raises(Permanent, match="Basic Offset Table puts the frames in another order"):
        made(path)


@every_syntax
@pytest.mark.parametrize(
    ("kept", "shorter", "noted"), [(3, 0, False), (3, 1, False), (3, 2, True), (2, 0, True)], ids=str
)
def test_an_extended_table_that_contradicts_the_fragments_is_noted(
    uid: str, kept: int, shorter: int, noted: bool, tmp_path: Path
) -> None:
    value, table, _ = encapsulate_extended(frames_of(uid))
    lengths = [len(frame) - shorter for frame in frames_of(uid)][:kept]
    extended = {
        "ExtendedOffsetTable": table[: 8 * kept],
        "ExtendedOffsetTableLengths": struct.pack(f"<{kept}Q", *lengths),
    }
    data = dataset((40, 48), 8, NumberOfFrames=3, **extended)
    pixels, notes = made(with_pixel_data(tmp_path / "in.dcm", data, uid, value))
    assert pixels == truth(tmp_path, uid)
    assert ("Extended Offset Table contradicts" in notes) == noted


@every_syntax
def test_an_extended_table_in_another_order_is_refused(uid: str, tmp_path: Path) -> None:
    value, table, lengths = encapsulate_extended(frames_of(uid))
    other = struct.pack("<3Q", *reversed(struct.unpack("<3Q", table)))
    data = dataset(
        (40, 48), 8, NumberOfFrames=3, ExtendedOffsetTable=other, ExtendedOffsetTableLengths=lengths
    )
    with pytest.raises(Permanent, match="Extended Offset Table puts the frames in another order"):
        made(with_pixel_data(tmp_path / "in.dcm", data, uid, value))


@every_syntax
@pytest.mark.parametrize("stated", [1, 2, 3])
def test_a_fragment_in_place_of_the_table_is_no_table(uid: str, stated: int, tmp_path: Path) -> None:
    value = b"".join(map(item, frames_of(uid)))
    path = with_pixel_data(tmp_path / "in.dcm", dataset((40, 48), 8, NumberOfFrames=stated), uid, value)
    if stated == 3 and uid in SHOWN:
        pixels, notes = made(path)
        assert pixels == truth(tmp_path, uid)
        assert notes.endswith(
            "pixel data begins with a fragment in place of the Basic Offset Table (PS3.5 A.4)"
        )
        return
    with pytest.raises(Permanent, match="holds 3 codestreams" if uid in SHOWN else "no Basic Offset Table"):
        made(path)


@every_shown
def test_frames_behind_a_fragment_that_begins_no_codestream_are_refused(uid: str, tmp_path: Path) -> None:
    fragments = [b"any" * 40, *frames_of(uid)]
    with pytest.raises(Permanent, match="does not begin with a codestream"):
        made(source(tmp_path, uid, fragments, NumberOfFrames=3))


@pytest.mark.parametrize("uid", sorted(ENCODERS))
def test_damage_never_makes_the_count_fail(uid: str) -> None:
    random = np.random.default_rng(13)
    whole = b"".join(frames_of(uid))
    for _ in range(200):
        content = bytearray(whole[: random.integers(1, len(whole))])
        for at in random.integers(0, len(content), 4):
            content[at] = random.integers(256)
        assert 1 <= boundaries.count(uid, bytes(content)) <= 4


def with_comment(uid: str, codestream: bytes, comment: bytes) -> tuple[bytes, int]:
    """The codestream with a comment in its header, and the offset of the comment's text."""
    if uid == J2K:
        at = codestream.index(b"\xff\x90")  # before the first tile-part (T.800 A.9.2)
        segment = b"\xff\x64" + struct.pack(">HH", len(comment) + 4, 0)
    else:
        at = 2
        segment = b"\xff\xfe" + struct.pack(">H", len(comment) + 2)
    return codestream[:at] + segment + comment + codestream[at:], at + len(segment)


@pytest.mark.parametrize("uid", [BASELINE, JPEG + "70", JPEG_LS, J2K])
@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_bytes_in_a_header_that_look_like_a_codestream_begin_no_frame(
    uid: str, ended: bool, count: int, tmp_path: Path
) -> None:
    start = b"\xff\x4f\xff\x51" if uid == J2K else b"\xff\xd8\xff\xe0"
    fragments: list[bytes] = []
    for frame in frames_of(uid)[:count]:
        before = b"\xff\xd9" if ended else b"ab"
        codestream, at = with_comment(uid, frame, before + start + b"more")
        # A fragment that begins with them; with an EOI before, only within a frame of its own.
        cut = at + 2 if not ended or count == 1 else at
        fragments += [codestream[:cut], codestream[cut:]]
    pixels, _ = made(source(tmp_path, uid, fragments, NumberOfFrames=count))
    assert pixels == truth(tmp_path, uid, count)


@pytest.mark.parametrize("uid", [BASELINE, JPEG + "70", JPEG_LS, J2K])
def test_a_codestream_without_its_end_does_not_hide_the_next(uid: str, tmp_path: Path) -> None:
    first, second, _ = frames_of(uid)
    first = first[: first.rindex(b"\xff\xd9")]
    with pytest.raises(Permanent, match="Number of Frames is 1, pixel data holds 2 codestreams"):
        made(source(tmp_path, uid, [even(first), second]))


def test_a_tile_part_of_unknown_or_wrong_length_does_not_hide_the_next_codestream(tmp_path: Path) -> None:
    frames = frames_of(J2K)
    for length in (0, len(frames[0])):
        at = frames[0].index(b"\xff\x90") + 6
        first = frames[0][:at] + struct.pack(">I", length) + frames[0][at + 4 :]
        with pytest.raises(Permanent, match="pixel data holds 2 codestreams"):
            made(source(tmp_path, J2K, [first + frames[1]]))


@pytest.mark.parametrize("uid", sorted(ENCODERS.keys() - {RLE, DEFLATED_FRAME, JXL, JPEG + "111"}))
def test_padding_behind_a_codestream_is_no_frame(uid: str, tmp_path: Path) -> None:
    fragments = [frame + bytes(6) for frame in frames_of(uid)]
    assert made(source(tmp_path, uid, fragments, NumberOfFrames=3)) == (truth(tmp_path, uid), "")


@pytest.mark.parametrize("uid", [BASELINE, JPEG + "70", JPEG_LS, J2K, JPEG + "201"])
@pytest.mark.parametrize("junk", [b"", b"\0" * 510, b"\xff" * 3 + b"\0", b"left over" * 100])
def test_what_stands_behind_a_codestream_and_is_no_padding_is_said(
    tmp_path: Path, uid: str, junk: bytes
) -> None:
    codestream = ENCODERS[uid](PICTURES[0])
    codestream += b"\0" * (len(codestream) % 2)
    value = item() + item(codestream) + (item(junk) if junk else b"")
    path = with_pixel_data(tmp_path / "in.dcm", dataset((40, 48), 8), uid, value)
    report = transcode(path, tmp_path / "out.dcm", RenditionSpec(EXPLICIT_LE))
    words = f"{len(junk)} bytes behind codestreams were left out"
    assert (words in report.notes) == junk.startswith(b"left"), report.notes
