"""The elements of a lossy rendition: a new instance, derived, with its whole lossy history. Pure.

PS3.3 C.7.6.1.1.5 (lossy compression), C.7.6.1.1.2 (Image Type), C.12.4 (derivation and sources). A lossy
source that is only decoded, or encoded without further loss, keeps its UID and history; nothing here applies.
`functional_groups` has what an enhanced multi-frame image states for its frames.
"""

import hashlib
import struct
import uuid
from collections.abc import Mapping

from dicomferry.dicom.syntaxes import BY_UID
from dicomferry.errors import Unsuitable
from workers.codecs.encoders import Quality
from workers.dataset import attributes
from workers.dataset.fragment_writer import item_header

_JPEG = "1.2.840.10008.1.2.4."
# Defined Terms of PS3.3 C.7.6.1.1.5.1, and the field of Quality that each encoder uses.
METHODS: dict[str, tuple[str, str]] = {
    _JPEG + "50": ("ISO_10918_1", "quality"),
    _JPEG + "51": ("ISO_10918_1", "quality"),
    _JPEG + "81": ("ISO_14495_1", "near"),
    _JPEG + "91": ("ISO_15444_1", "ratio"),
    _JPEG + "203": ("ISO_15444_15", "ratio"),
    _JPEG + "112": ("ISO_18181_1", "quality"),
}
_IMAGE_TYPE, _SOP_INSTANCE, _DESCRIPTION = 0x00080008, 0x00080018, 0x00082111
_SOURCES, _DERIVATION_CODES = 0x00082112, 0x00089215
FRAME_TYPE = 0x00089007
_LOSSY, _RATIO, _METHOD = 0x00282110, 0x00282112, 0x00282114
DESCRIBING = frozenset((_IMAGE_TYPE, _DESCRIPTION, _LOSSY, _RATIO, _METHOD, FRAME_TYPE))
_LONGEST_TEXT = 1024  # characters of an ST (PS3.5 6.2); bytes are never fewer


def derived_uid(sop_instance_uid: str, transfer_syntax_uid: str, quality: Quality) -> str:
    """The SOP Instance UID of a lossy rendition, always the same for the same instance and parameters.

    PS3.5 B.2: a UUID under 2.25, made by hashing (RFC 9562, version 5).
    """
    name = f"{sop_instance_uid}\0{transfer_syntax_uid}\0{_parameter(transfer_syntax_uid, quality)}"
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return f"2.25.{uuid.UUID(bytes=digest, version=5).int}"


def changes(
    values: Mapping[int, bytes],
    transfer_syntax_uid: str,
    quality: Quality,
    ratio: float,
    instance: tuple[str, str],
) -> dict[int, tuple[bytes, bytes]]:
    """VR and value, by tag, of the elements that lossy compression changes.

    `instance` is the SOP class and the UID received, `ratio` the bytes before divided by the bytes after.

    Raises:
        Unsuitable: the lossy history is too long to be continued.
    """
    if any(len(values.get(tag, b"")) >= attributes.LONGEST_READ for tag in DESCRIBING):
        raise Unsuitable("its lossy history is too long to be continued")
    method, _ = METHODS[transfer_syntax_uid]
    ratios, methods = _values(values, _RATIO), _values(values, _METHOD)
    # The values of both correspond one by one (PS3.3 C.7.6.1.1.5.1): unknown ones stay empty.
    known = max(len(ratios), len(methods))
    ratios += [b""] * (known - len(ratios)) + [f"{ratio:.6g}".encode()]
    methods += [b""] * (known - len(methods)) + [method.encode()]
    changed = {
        _IMAGE_TYPE: (b"CS", mark_derived(values.get(_IMAGE_TYPE) or b"\\SECONDARY")),
        _SOP_INSTANCE: (b"UI", _uid(derived_uid(instance[1], transfer_syntax_uid, quality))),
        _LOSSY: (b"CS", b"01"),
        _RATIO: (b"DS", _padded(b"\\".join(ratios))),
        _METHOD: (b"CS", _padded(b"\\".join(methods))),
    }
    label = BY_UID[transfer_syntax_uid].label
    ours = f"{label} {_parameter(transfer_syntax_uid, quality)}, ratio {ratio:.3g}".encode()
    before = values.get(_DESCRIPTION, b"").rstrip(b" \x00")
    text = before + b"; " + ours if before else ours
    if len(text) <= _LONGEST_TEXT:  # the text received matters more than ours
        changed[_DESCRIPTION] = (b"ST", _padded(text))
    return changed


def mark_derived(kind: bytes) -> bytes:
    """The Image Type or Frame Type `kind` with DERIVED as value 1."""
    first, separator, others = kind.rstrip(b" \x00").partition(b"\\")
    return kind if first.strip() == b"DERIVED" else _padded(b"DERIVED" + separator + others)


def appended(sop_class_uid: str, sop_instance_uid: str, frame: int | None = None) -> dict[int, bytes]:
    """Items, in Explicit VR Little Endian, to be appended to sequences, by tag.

    Source Image Sequence names the instance received (PS3.3 C.12.4, purpose from CID 7202), or one `frame` of
    it; Derivation Code Sequence states that it was compressed (CID 7203).
    """
    source = _element(0x00081150, b"UI", _uid(sop_class_uid)) + _element(
        0x00081155, b"UI", _uid(sop_instance_uid)
    )
    if frame is not None:
        source += _element(0x00081160, b"IS", _padded(str(frame).encode()))
    source += _sequence(0x0040A170, _item(_code("121320", "Uncompressed predecessor")))
    return {_SOURCES: _item(source), _DERIVATION_CODES: _item(_code("113040", "Lossy Compression"))}


def derivation_image(sop_class_uid: str, sop_instance_uid: str, frame: int | None = None) -> bytes:
    """The same items inside one item of Derivation Image Sequence (PS3.3 C.7.6.16.2.6)."""
    items = appended(sop_class_uid, sop_instance_uid, frame)
    return _item(b"".join([_sequence(tag, items[tag]) for tag in sorted(items)]))


def _parameter(transfer_syntax_uid: str, quality: Quality) -> str:
    name = METHODS[transfer_syntax_uid][1]
    return f"{name} {getattr(quality, name):g}"


def _values(values: Mapping[int, bytes], tag: int) -> list[bytes]:
    text = values.get(tag, b"").rstrip(b" \x00")
    return [value.strip() for value in text.split(b"\\")] if text else []


def _code(value: str, meaning: str) -> bytes:
    return (
        _element(0x00080100, b"SH", _padded(value.encode()))
        + _element(0x00080102, b"SH", _padded(b"DCM"))
        + _element(0x00080104, b"LO", _padded(meaning.encode()))
    )


def _item(content: bytes) -> bytes:
    return item_header(len(content)) + content


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def _sequence(tag: int, items: bytes) -> bytes:
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(items)) + items


def _uid(text: str) -> bytes:
    return text.encode("ascii") + b"\x00" * (len(text) % 2)


def _padded(text: bytes) -> bytes:
    return text + b" " * (len(text) % 2)
