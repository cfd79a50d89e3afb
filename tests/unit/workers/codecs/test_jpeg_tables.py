"""Huffman tables with DC categories that no process has: read where no scan uses them, as DCMTK does."""

from typing import Any

import imagecodecs
import numpy as np
import pytest

from dicomferry.errors import Permanent
from tests.support.images.synthetic import image
from workers.codecs.codestreams import read_jpeg
from workers.codecs.jpeg_entropy import decode_complete
from workers.codecs.jpeg_tables import with_known_symbols

KINDS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "8 bits": (8, 1, {"level": 90}),
    "12 bits": (12, 1, {"level": 90}),
    "colour": (8, 3, {"level": 90, "subsampling": "420"}),
    "lossless": (16, 1, {"lossless": True, "predictor": 1}),
    "lossless colour": (8, 3, {"lossless": True, "colorspace": "RGB", "outcolorspace": "RGB"}),
}


def encoded(kind: str) -> tuple[bytes, str | None]:
    bits, samples, options = KINDS[kind]
    made = imagecodecs.jpeg8_encode(image(61, 83, bits, samples=samples), bitspersample=bits, **options)
    return bytes(made), None if samples == 1 else "RGB" if "lossless" in options else "YCBCR"


def dc_tables(codestream: bytes) -> list[int]:
    """Where each table of DC differences begins; every one has a segment of its own."""
    found, at = [], 0
    while (at := codestream.find(b"\xff\xc4", at)) >= 0:
        if not codestream[at + 4] >> 4:
            found.append(at)
        at += 2
    return found


def with_unused_symbols(codestream: bytes, *symbols: int) -> bytes:
    """Every DC table with more symbols, of 16 bits: the longest codes come last and change no other."""
    for at in reversed(dc_tables(codestream)):
        length = int.from_bytes(codestream[at + 2 : at + 4], "big")
        table = bytearray(codestream[at + 4 : at + 2 + length])
        table[16] += len(symbols)
        table += bytes(symbols)
        content = (len(table) + 2).to_bytes(2, "big") + table
        codestream = codestream[: at + 2] + content + codestream[at + 2 + length :]
    return codestream


@pytest.mark.parametrize("symbols", [(17,), (255, 17, 16, 18)])
@pytest.mark.parametrize("kind", KINDS)
def test_symbols_that_no_scan_uses_make_no_difference(kind: str, symbols: tuple[int, ...]) -> None:
    sound, colour = encoded(kind)
    odd = with_unused_symbols(sound, *symbols)
    with pytest.raises(RuntimeError, match="Huffman"):
        imagecodecs.jpeg8_decode(odd, colorspace=colour, outcolorspace=colour)
    expected = decode_complete(sound, read_jpeg(sound), colour, colour)
    assert np.array_equal(decode_complete(odd, read_jpeg(odd), colour, colour), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_symbol_that_is_used_is_never_guessed(kind: str) -> None:
    sound, colour = encoded(kind)
    at = dc_tables(sound)[0]
    count = sum(sound[at + 5 : at + 21])
    refused = 0
    for number in range(count):
        damaged = bytearray(sound)
        damaged[at + 21 + number] = 200
        try:
            found = decode_complete(bytes(damaged), read_jpeg(bytes(damaged)), colour, colour)
        except (Permanent, RuntimeError):
            refused += 1
        else:
            assert np.array_equal(found, decode_complete(sound, read_jpeg(sound), colour, colour))
    assert refused


@pytest.mark.parametrize("kind", KINDS)
def test_a_codestream_without_such_symbols_is_not_even_copied(kind: str) -> None:
    sound, _ = encoded(kind)
    assert with_known_symbols(sound, 16 if "lossless" in kind else 15, 0) is sound


def test_tables_between_scans_are_seen_too_and_one_that_is_cut_short_hurts_nobody() -> None:
    sound, _ = encoded("12 bits")
    odd = with_unused_symbols(sound, 17)
    at = dc_tables(odd)[0]
    table = odd[at : at + 2 + int.from_bytes(odd[at + 2 : at + 4], "big")]
    later = sound[:-2] + table + sound[-2:]
    assert with_known_symbols(later, 15, 3) == sound[:-2] + table[:-1] + b"\3" + sound[-2:]
    for end in range(len(sound) - 1, len(later)):
        with_known_symbols(later[:end], 15, 0)
