"""JPEG Huffman tables that define symbols which no process has, and which no scan uses.

Some encoders write one table for all processes. libjpeg-turbo refuses a table of DC differences with a
category above 15 (16 in lossless JPEG, T.81 table H.2), whether the scan uses it or not; DCMTK does not.
"""

from workers.codecs.codestreams import check_tables_size, segments

_TABLES = 0xC4


def with_known_symbols(codestream: bytes, largest: int, substitute: int) -> bytes:
    """The codestream with each DC symbol above `largest` replaced; the same object if it has none."""
    patched: bytearray | None = None
    for start, end in _tables(codestream):
        at = start
        while at + 17 <= end:
            count = sum(codestream[at + 1 : at + 17])
            symbols = codestream[at + 17 : min(at + 17 + count, end)]
            if codestream[at] >> 4 == 0 and max(symbols, default=0) > largest:
                patched = patched or bytearray(codestream)
                known = (substitute if symbol > largest else symbol for symbol in symbols)
                patched[at + 17 : at + 17 + len(symbols)] = bytes(known)
            at += 17 + count
    return codestream if patched is None else bytes(patched)


def _tables(codestream: bytes) -> list[tuple[int, int]]:
    """Where the content of each DHT segment begins and ends, also of those between scans."""
    first = segments(codestream)
    found = [(end - len(content), end) for marker, content, end in first if marker == _TABLES]
    at = first[-1][2]
    # Entropy-coded data never hold FF C4 (T.81 B.1.1.5).
    total = sum(end - start for start, end in found)
    while (at := codestream.find(b"\xff\xc4", at)) >= 0 and at + 4 <= len(codestream):
        length = int.from_bytes(codestream[at + 2 : at + 4], "big")
        total += 4 + length
        check_tables_size(total)
        found.append((at + 4, min(at + 2 + length, len(codestream))))
        at += 2 + max(length, 2)
    return found
