"""What a conformant file holds, checked on its bytes: a small `dciodvfy` for renditions.

None of the engine's own parsers has a part in it. What it knows of image attributes is PS3.3 C.7.6.3, of
fragments PS3.5 A.4, of codestreams PS3.5 8.2 and 10.
"""

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.valuerep import VR

from dicomferry.dicom.syntaxes import BY_UID, DEFLATED_LE, EXPLICIT_BE, IMPLICIT_LE

_LONG = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"))
_KNOWN = frozenset(str(vr) for vr in VR if len(str(vr)) == 2)
_JPEG = "1.2.840.10008.1.2.4."
# PS3.5 8.2.1: baseline, extended, lossless.
_SOF = {_JPEG + "50": (0xC0,), _JPEG + "51": (0xC0, 0xC1), _JPEG + "57": (0xC3,), _JPEG + "70": (0xC3,)}
_REVERSIBLE = frozenset(_JPEG + s for s in ("90", "201", "202"))
_UNDEFINED = 0xFFFFFFFF


def problems(path: Path) -> list[str]:
    """What is wrong with the file, in words; empty where nothing is."""
    made = dcmread(path)
    uid = str(made.file_meta.TransferSyntaxUID)
    found = _meta(made, path)
    if uid != DEFLATED_LE:
        content = path.read_bytes()
        start = 144 + int(struct.unpack_from("<I", content, 140)[0])
        found += _structure(content, start, len(content), uid, uid == IMPLICIT_LE)
    if "Rows" in made:
        found += _image(made)
        if "PixelData" in made:
            found += _native_pixels(made) if BY_UID[uid].native else _fragments(made, uid)
    return found


def top_level(content: bytes) -> list[int]:
    """Where the elements of a file's data set begin, and where the last one ends."""
    start = 144 + int(struct.unpack_from("<I", content, 140)[0])
    uid = str(dcmread(BytesIO(content), specific_tags=[]).file_meta.TransferSyntaxUID)
    order, implicit = ">" if uid == EXPLICIT_BE else "<", uid == IMPLICIT_LE
    seams, at = [start], start
    while at < len(content):
        vr, value, length = _header(content, at, order, implicit)
        at = (
            _undefined(content, value, order, implicit or vr == "UN")
            if length == _UNDEFINED
            else value + length
        )
        seams.append(at)
    return seams


def _meta(made: Dataset, path: Path) -> list[str]:
    meta, found = made.file_meta, []
    if meta.MediaStorageSOPInstanceUID != made.SOPInstanceUID:
        found.append("SOP Instance UID differs from the File Meta Information's")
    if meta.MediaStorageSOPClassUID != made.SOPClassUID:
        found.append("SOP Class UID differs from the File Meta Information's")
    if path.read_bytes()[128:132] != b"DICM":
        found.append("no DICM")
    return found


def _structure(content: bytes, at: int, end: int, uid: str, implicit: bool) -> list[str]:
    """Tags ascend, VRs are known, lengths are even and meet the end (PS3.5 7.1)."""
    order = ">" if uid == EXPLICIT_BE else "<"
    found: list[str] = []
    last = -1
    while at < end:
        group, number = struct.unpack_from(order + "HH", content, at)
        tag = group << 16 | number
        if group == 0xFFFE:
            return [*found, f"stray item at {at}"]
        if tag <= last:
            found.append(f"({group:04X},{number:04X}) is out of order")
        last = tag
        vr, value, length = _header(content, at, order, implicit)
        if vr is not None and vr not in _KNOWN:
            found.append(f"({group:04X},{number:04X}) has the VR {vr}")
        if length == _UNDEFINED:
            length = _undefined(content, value, order, implicit or vr == "UN") - value
        elif length % 2:
            found.append(f"({group:04X},{number:04X}) has an odd length")
        if vr == "SQ":
            for begin, stop in _items(content, value, value + length, order, implicit):
                found += _structure(content, begin, stop, uid, implicit)
        at = value + length
    if at != end:
        found.append(f"the last element ends at {at} of {end}")
    return found


def _header(content: bytes, at: int, order: str, implicit: bool) -> tuple[str | None, int, int]:
    if implicit:
        return None, at + 8, int(struct.unpack_from(order + "I", content, at + 4)[0])
    vr = content[at + 4 : at + 6].decode("latin-1")
    if vr in _LONG:
        return vr, at + 12, int(struct.unpack_from(order + "I", content, at + 8)[0])
    return vr, at + 8, int(struct.unpack_from(order + "H", content, at + 6)[0])


def _items(content: bytes, at: int, end: int, order: str, implicit: bool) -> Iterator[tuple[int, int]]:
    while at < end:
        _, number, length = struct.unpack_from(order + "HHI", content, at)
        if number == 0xE0DD:
            return
        assert number == 0xE000, f"no item at {at}"
        at += 8
        if length == _UNDEFINED:
            stop = _item_end(content, at, order, implicit)
            yield at, stop - 8
        else:
            stop = at + length
            yield at, stop
        at = stop


def _undefined(content: bytes, at: int, order: str, implicit: bool) -> int:
    """Behind the delimiter of the sequence (or fragments) whose first item stands at `at`."""
    while True:
        group, number, length = struct.unpack_from(order + "HHI", content, at)
        assert group == 0xFFFE, f"no item at {at}"
        at += 8
        if number == 0xE0DD:
            return at
        at = _item_end(content, at, order, implicit) if length == _UNDEFINED else at + length


def _item_end(content: bytes, at: int, order: str, implicit: bool) -> int:
    while True:
        group, number = struct.unpack_from(order + "HH", content, at)
        if (group, number) == (0xFFFE, 0xE00D):
            return at + 8
        vr, value, length = _header(content, at, order, implicit)
        at = (
            _undefined(content, value, order, implicit or vr == "UN")
            if length == _UNDEFINED
            else value + length
        )


def _image(made: Dataset) -> list[str]:
    found = [
        f"{keyword} is missing"
        for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated")
        if keyword not in made
    ]
    if "PixelData" in made:
        found += [
            f"{k} is missing" for k in ("BitsStored", "HighBit", "PixelRepresentation") if k not in made
        ]
        if not found and not made.BitsStored <= made.BitsAllocated > made.HighBit >= made.BitsStored - 1:
            found.append(
                f"{made.BitsStored} bits stored, {made.BitsAllocated} allocated, high bit {made.HighBit}"
            )
    colour = made.get("SamplesPerPixel", 1) > 1
    if colour != ("PlanarConfiguration" in made):
        found.append("Planar Configuration is there if and only if there is more than one sample")
    if colour == (made.PhotometricInterpretation in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")):
        found.append(f"{made.SamplesPerPixel} samples are {made.PhotometricInterpretation}")
    if made.get("LossyImageCompression") == "01" and "LossyImageCompressionMethod" in made:
        ratios, methods = made.get("LossyImageCompressionRatio"), made.LossyImageCompressionMethod
        counts = [1 if isinstance(v, (str, float)) else len(v) for v in (ratios, methods)]
        if counts[0] != counts[1]:
            found.append("there are not as many lossy methods as ratios")
    return found


def _native_pixels(made: Dataset) -> list[str]:
    found = []
    samples = made.Rows * made.Columns * made.SamplesPerPixel * int(made.get("NumberOfFrames") or 1)
    if made.PhotometricInterpretation == "YBR_FULL_422":
        samples = samples * 2 // 3
    expected = (samples * made.BitsAllocated + 7) // 8
    expected += expected % 2
    if made["PixelData"].is_undefined_length or len(made.PixelData) != expected:
        found.append(f"{len(made.PixelData)} bytes of native pixel data where {expected} are right")
    if made.PhotometricInterpretation in ("YBR_RCT", "YBR_ICT"):
        found.append(f"native pixel data is {made.PhotometricInterpretation}")
    found += [
        f"{k} of native pixel data"
        for k in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
        if k in made
    ]
    return found


def _fragments(made: Dataset, uid: str) -> list[str]:
    """PS3.5 A.4 and PS3.3 C.7.6.3.1.8."""
    found = []
    frames = int(made.get("NumberOfFrames") or 1)
    content: bytes = made.PixelData
    if made["PixelData"].VR != "OB" or not made["PixelData"].is_undefined_length:
        found.append("encapsulated pixel data is not OB of undefined length")
    if not BY_UID[uid].lossless and made.get("LossyImageCompression") != "01" and uid != _JPEG + "81":
        found.append("a lossy codestream without Lossy Image Compression 01")
    spans = list(_items(content, 0, len(content), "<", implicit=True))
    if not spans:
        return [*found, "no Basic Offset Table item"]
    (begin, stop), fragments = spans[0], spans[1:]
    starts = {fragment[0] - 8 - stop: number for number, fragment in enumerate(fragments)}
    found += [f"fragment {n} has an odd length" for n, (a, b) in enumerate(fragments) if (b - a) % 2]
    table = struct.unpack(f"<{(stop - begin) // 4}I", content[begin:stop])
    if table and (len(table) != frames or not set(table) <= set(starts) or sorted(set(table)) != list(table)):
        found.append(f"the Basic Offset Table {table[:4]} does not point at the fragments")
    bounds = [starts.get(offset, 0) for offset in table] if len(table) == frames else list(range(frames))
    if "ExtendedOffsetTable" in made:
        offsets = struct.unpack(f"<{len(made.ExtendedOffsetTable) // 8}Q", made.ExtendedOffsetTable)
        lengths = struct.unpack(
            f"<{len(made.ExtendedOffsetTableLengths) // 8}Q", made.ExtendedOffsetTableLengths
        )
        if table:
            found.append("a Basic and an Extended Offset Table")
        if len(offsets) != frames or not set(offsets) <= set(starts) or len(fragments) != frames:
            found.append("the Extended Offset Table does not point at one fragment a frame")
        elif any(not n <= b - a <= n + 1 for n, (a, b) in zip(lengths, fragments, strict=True)):
            found.append("the Extended Offset Table Lengths are wrong")
    elif len(fragments) != frames and not table:
        found.append(f"{len(fragments)} fragments for {frames} frames and no offset table")
    for number, first in enumerate(bounds):
        last = bounds[number + 1] if number + 1 < len(bounds) else len(fragments)
        codestream = b"".join(content[a:b] for a, b in fragments[first:last])
        found += [f"frame {number + 1}: {problem}" for problem in _codestream(codestream, made, uid)]
    return found


def _codestream(codestream: bytes, made: Dataset, uid: str) -> list[str]:
    group = BY_UID[uid].group
    if group in ("jpeg", "jpeg-lossless", "jpeg-ls"):
        return _jpeg(codestream, made, uid)
    if group in ("jpeg2000", "htj2k"):
        return _j2k(codestream, made, uid)
    if group == "jpeg-xl" and codestream[:2] != b"\xff\x0a" and codestream[4:8] != b"JXL ":
        return ["no JPEG XL codestream"]
    if group == "rle":
        segments = struct.unpack_from("<I", codestream)[0]
        if segments != made.SamplesPerPixel * made.BitsAllocated // 8 or len(codestream) % 2:
            return [f"{segments} RLE segments"]
    return []


def _jpeg(codestream: bytes, made: Dataset, uid: str) -> list[str]:
    found = []
    at = 2
    if codestream[:2] != b"\xff\xd8" or b"\xff\xd9" not in codestream[-3:]:
        found.append("no SOI or no EOI")
    while codestream[at + 1] != 0xDA:
        marker, (length,) = codestream[at + 1], struct.unpack_from(">H", codestream, at + 2)
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            precision, rows, columns, components = struct.unpack_from(">BHHB", codestream, at + 4)
            if (rows, columns, components) != (made.Rows, made.Columns, made.SamplesPerPixel):
                found.append(f"{rows} x {columns} x {components} in the codestream")
            if marker not in _SOF.get(uid, (0xF7,)):
                found.append(f"SOF {marker:02X} under {BY_UID[uid].label}")
            if uid == _JPEG + "50" and precision != 8:
                found.append(f"precision {precision} under baseline")
            if precision != made.BitsStored and uid not in (_JPEG + "50", _JPEG + "51"):
                found.append(f"precision {precision} with {made.BitsStored} bits stored")
        at += 2 + length
    components = codestream[at + 4]
    selection = codestream[at + 5 + 2 * components]
    if uid == _JPEG + "70" and selection != 1:
        found.append(f"selection value {selection} under SV1")
    if uid == _JPEG + "80" and selection != 0:
        found.append(f"NEAR {selection} under lossless JPEG-LS")
    if BY_UID[uid].group in ("jpeg-lossless", "jpeg-ls") and "YBR_FULL_422" in made.PhotometricInterpretation:
        found.append(f"{made.PhotometricInterpretation} under {BY_UID[uid].label}")
    return found


def _j2k(codestream: bytes, made: Dataset, uid: str) -> list[str]:
    found = []
    if codestream[:4] != b"\xff\x4f\xff\x51":
        return ["no SOC and SIZ"]
    if codestream.rstrip(b"\0")[-2:] != b"\xff\xd9":
        found.append("no EOC")
    right, bottom, left, top = struct.unpack_from(">4I", codestream, 8)
    (components,) = struct.unpack_from(">H", codestream, 40)
    if (bottom - top, right - left, components) != (made.Rows, made.Columns, made.SamplesPerPixel):
        found.append(f"{bottom - top} x {right - left} x {components} in the codestream")
    precision, signed = (codestream[42] & 0x7F) + 1, codestream[42] >> 7
    if precision != made.BitsStored or signed != made.PixelRepresentation:
        found.append(
            f"precision {precision}, signed {signed} with {made.BitsStored} bits stored, "
            f"representation {made.PixelRepresentation}"
        )
    segments = dict(_segments(codestream))
    progression, _, transform, levels = struct.unpack_from(">BHBB", segments[0xFF52], 1)
    reversible = segments[0xFF52][9] == 1
    if uid in _REVERSIBLE and not reversible:
        found.append("the wavelet is not reversible")
    said = {"YBR_RCT": (1, True), "YBR_ICT": (1, False)}.get(made.PhotometricInterpretation)
    if (said is None and transform) or (said is not None and said != (transform, reversible)):
        found.append(f"{made.PhotometricInterpretation} with transform {transform}, reversible {reversible}")
    if (BY_UID[uid].group == "htj2k") != (0xFF50 in segments):
        found.append("CAP is there if and only if it is HTJ2K")
    if uid == _JPEG + "202":
        if progression != 2 or 0xFF55 not in segments:
            found.append(f"progression {progression}, markers {sorted(map(hex, segments))} under RPCL")
        if max(made.Rows, made.Columns) >> levels > 64:
            found.append(f"{levels} levels: the lowest resolution is larger than 64 (PS3.5 10.18)")
    return found


def _segments(codestream: bytes) -> Iterator[tuple[int, bytes]]:
    """The main header's markers and what stands behind their lengths (T.800 A.1)."""
    at = 2
    while True:
        marker, length = struct.unpack_from(">HH", codestream, at)
        if marker == 0xFF90:
            return
        yield marker, codestream[at + 4 : at + 2 + length]
        at += 2 + length
