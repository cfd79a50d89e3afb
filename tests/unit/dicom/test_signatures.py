"""What codestreams show of themselves, and that no hostile header costs time."""

import struct

import numpy as np
import pytest

from dicomferry.dicom.real_syntax import shown_in_fragments
from dicomferry.dicom.signatures import contradicts, shown_syntax
from dicomferry.dicom.syntaxes import BY_UID, label
from workers.codecs import encoders
from workers.codecs.image import Image

_JPEG = "1.2.840.10008.1.2.4."
GREY = Image(64, 64, 1, 8, 8, 7, False, "MONOCHROME2", 1, 0)
CELLS = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
# What a header proves; .91, .203 and .112 allow lossless codestreams too.
SHOWN = {
    "1.2.840.10008.1.2.5": "1.2.840.10008.1.2.5",
    **{_JPEG + uid: _JPEG + uid for uid in ("50", "70", "80", "81", "91", "203", "112")},
    _JPEG + "57": _JPEG + "70",  # with the predictor that .70 has
    _JPEG + "90": _JPEG + "91",
    _JPEG + "201": _JPEG + "203",
    _JPEG + "202": _JPEG + "203",
    _JPEG + "110": _JPEG + "112",
}


def made(uid: str) -> bytes:
    return encoders.encode(uid, CELLS, GREY, encoders.Quality(ratio=2)).codestream


@pytest.mark.parametrize("uid", SHOWN, ids=label)
def test_a_codestream_shows_a_syntax_that_allows_it_and_contradicts_those_of_other_formats(uid: str) -> None:
    shown = shown_syntax(made(uid))
    assert shown == SHOWN[uid]
    assert not contradicts(shown, uid)
    family = {"jpeg-lossless": "jpeg"}
    for other in SHOWN:
        mine, its = (family.get(BY_UID[u].group, BY_UID[u].group) for u in (uid, other))
        assert contradicts(shown, other) == (mine != its)


def test_a_jpeg_header_longer_than_the_first_look_shows_its_process() -> None:
    plain = made(_JPEG + "70")
    profile = b"\xff\xe2" + struct.pack(">H", 60_000) + bytes(59_998)
    codestream = plain[:2] + profile * 3 + plain[2:]
    item = b"\xfe\xff\0\xe0"
    content = item + bytes(4) + item + struct.pack("<I", len(codestream)) + codestream
    assert shown_in_fragments(lambda at, size: content[at : at + size], 0) == _JPEG + "70"


@pytest.mark.parametrize("content", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"junk" * 40, bytes(200)])
def test_what_is_no_codestream_shows_nothing(content: bytes) -> None:
    assert not shown_syntax(content)
    assert not contradicts("", _JPEG + "90")
