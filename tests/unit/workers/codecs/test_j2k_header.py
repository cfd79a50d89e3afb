"""The work that a JPEG 2000 codestream announces, held against the bytes that it has.

Packets are counted by hand (T.800 B.6 and B.12).
"""

import struct
import time
from pathlib import Path

import imagecodecs
import numpy as np
import openjpeg
import pytest
from pydicom import dcmread
from pydicom.encaps import generate_frames

from dicomferry.errors import Permanent
from tests.support.images.files import shipped
from tests.support.images.synthetic import image
from workers.codecs import j2k_header
from workers.codecs.codestreams import Header
from workers.codecs.j2k_header import check_work, read_j2k

DATA = Path(__file__).parents[3] / "data"
CASES = DATA / "cases/hostile"
STREAMS = DATA / "codestreams"  # by OpenJPEG, of blank images, with one byte for most packets
SIZED = bytes([0x66] * 33)  # precincts of 64 x 64


def siz(side: int, tile: int = 0, components: int = 1, origin: int = 0) -> bytes:
    content = struct.pack(
        ">H8IH", 0, side, side, origin, origin, tile or side, tile or side, 0, 0, components
    )
    content += b"\x07\x01\x01" * components
    return b"\xff\x51" + struct.pack(">H", len(content) + 2) + content


def cod(layers: int, levels: int, precincts: bytes = b"") -> bytes:
    content = struct.pack(">BBHB", bool(precincts), 0, layers, 0) + bytes((levels, 4, 4, 0, 1))
    content += precincts[: levels + 1]
    return b"\xff\x52" + struct.pack(">H", len(content) + 2) + content


def coc(component: int, levels: int, precincts: bytes) -> bytes:
    content = bytes((component, 1, levels, 4, 4, 0, 1)) + precincts[: levels + 1]
    return b"\xff\x53" + struct.pack(">H", len(content) + 2) + content


def poc(changes: int) -> bytes:
    content = struct.pack(">BBHBBB", 0, 0, 1, 6, 1, 0) * changes
    return b"\xff\x5f" + struct.pack(">H", len(content) + 2) + content


def tile(header: bytes = b"", content: bytes = b"", number: int = 0, length: int | None = None) -> bytes:
    whole = 14 + len(header) + len(content) if length is None else length
    return struct.pack(">HHHIBB", 0xFF90, 10, number, whole, 0, 1) + header + b"\xff\x93" + content


def stream(*parts: bytes) -> bytes:
    return b"\xff\x4f" + b"".join(parts) + b"\xff\xd9"


def checked(codestream: bytes) -> Header:
    header = read_j2k(codestream)
    check_work(codestream, header.components)
    return header


# What is announced, the codestream, and how many packets (or tiles) those are.
HOSTILE = {
    "layers": (stream(siz(2048), cod(65535, 5, SIZED), tile()), 65535 * 1365),
    "layers of one precinct": (stream(siz(64), cod(65535, 5), tile()), 65535 * 6),
    "precincts": (stream(siz(4096), cod(1, 0, b"\x00"), tile()), 4096 * 4096),
    "components": (stream(siz(512, components=16000), cod(1, 5), tile()), 16000 * 6),
    "a component of its own": (stream(siz(4096, components=2), cod(1, 0), coc(1, 0, b"\0"), tile()), None),
    "levels": (stream(siz(64), cod(65535, 32), tile()), 65535 * 33),
    "a tile's own layers": (stream(siz(512), cod(1, 5), tile(cod(65535, 5))), 65535 * 6),
    "a tile that says nothing hides no other": (
        stream(siz(512, 256), cod(1, 5), tile(cod(0, 0), number=1) * 9, tile(cod(65535, 5), number=2)),
        None,
    ),
    "tiles": (stream(siz(4096, 1), cod(1, 0), tile()), 4096 * 4096),
    "tiles of every kind": (stream(siz(2048, 9), cod(1, 0), tile()), 228 * 228),
    "the last tile part": (stream(siz(512), cod(1, 5), tile(cod(65535, 5), length=0)), 65535 * 6),
    "progression orders": (stream(siz(512), cod(600, 5), poc(9000), tile(content=bytes(4000))), 600 * 6),
    "progression orders of a tile": (
        stream(siz(512), cod(600, 5), tile(poc(500), bytes(4000)) * 20),
        600 * 6,
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_more_packets_or_tiles_than_bytes_are_refused_at_once(what: str) -> None:
    codestream, count = HOSTILE[what]
    began = time.process_time()
    with pytest.raises(Permanent, match=rf"announces {count or ''}.* and has {len(codestream)} bytes"):
        checked(codestream)
    assert time.process_time() - began < 1  # where OpenJPEG would take 11 s


def test_the_object_that_kept_workers_busy_is_refused_by_its_header() -> None:
    read = dcmread(CASES / "j2k_65535_layers_8_frames.dcm")
    for frame in generate_frames(read.PixelData, number_of_frames=8):
        with pytest.raises(Permanent, match="announces 89455275 packets and has 118 bytes"):
            checked(frame)


@pytest.mark.parametrize(
    ("siz_", "cod_", "packets"),
    [
        (siz(64), cod(1, 5), 6),
        (siz(64), cod(12, 5), 72),
        (siz(512, 256, components=3), cod(2, 5), 4 * 3 * 2 * 6),
        (siz(500, 256), cod(1, 2, SIZED), 2 * (1 + 4 + 16) + 2 * (1 + 4 + 16)),  # 244 is 4 precincts too
        (siz(2048, origin=2000), cod(1, 0, SIZED), 1),  # 48 across, within one precinct
        (siz(2080, origin=2000), cod(1, 0, SIZED), 4),  # across a border at 2048
        (siz(4, origin=3), cod(1, 3), 1),  # resolutions that hold nothing have no precinct
    ],
)
def test_packets_are_counted_as_the_standard_does(
    siz_: bytes, cod_: bytes, packets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(j2k_header, "_HARMLESS_PACKETS", 0)
    codestream = stream(siz_, cod_, tile())
    monkeypatch.setattr(j2k_header, "_HARMLESS_LOOKS", packets)
    monkeypatch.setattr(j2k_header, "_LOOKS_A_BYTE", 0)
    checked(codestream + bytes(packets))
    monkeypatch.setattr(j2k_header, "_HARMLESS_LOOKS", packets - 1)
    with pytest.raises(Permanent, match=f"announces {packets} packets"):
        checked(codestream + bytes(packets))


SOUND = {
    "noise": image(512, 512, 16),
    "blank": np.zeros((2048, 2048), np.uint8),
    "blank in colour": np.zeros((1024, 1024, 3), np.uint8),
    "one pixel": np.zeros((1, 1), np.uint8),
}


def without_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_HARMLESS_PACKETS", "_HARMLESS_TILES", "_HARMLESS_LOOKS"):
        monkeypatch.setattr(j2k_header, name, 0)


@pytest.mark.parametrize("what", SOUND)
@pytest.mark.parametrize("manner", [{}, {"resolutions": 1}, {"level": 40}], ids=str)
def test_whatever_an_encoder_writes_has_a_byte_for_each_packet(
    what: str, manner: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_tolerance(monkeypatch)
    pixels = SOUND[what]
    made = bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="J2K", **manner))
    header = checked(made)
    assert (header.rows, header.columns) == pixels.shape[:2]


@pytest.mark.parametrize("path", sorted(STREAMS.glob("*.j2k")), ids=lambda path: path.stem)
def test_blank_images_in_tiles_layers_and_precincts_pass(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_tolerance(monkeypatch)
    codestream = path.read_bytes()
    header = checked(codestream)
    assert header.rows == header.columns
    assert openjpeg.decode(codestream).size >= header.rows * header.columns


def test_shipped_files_pass_without_any_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    without_tolerance(monkeypatch)
    for name in ("693_J2KI.dcm", "693_J2KR.dcm", "MR_small_jp2klossless.dcm", "JPEG2000.dcm"):
        read = dcmread(shipped(name))
        for frame in generate_frames(read.PixelData, number_of_frames=int(read.get("NumberOfFrames", 1))):
            assert checked(j2k_header.without_jp2(frame)).rows == read.Rows
