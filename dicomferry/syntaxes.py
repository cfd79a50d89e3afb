"""The transfer syntaxes (PS3.5 annex A, UIDs from PS3.6 annex A) and what dicomferry does with each.

The one table from which accepting, planning, refusals and documentation come. Names in settings are a
UID, a keyword of PS3.6, or a group (after Orthanc's flags).
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from dicomferry.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Syntax:
    """One transfer syntax.

    `label` is what people see in Flower and tables. `lossless` says that encoding into it can never change
    a pixel value. `native` pixel data has no fragments. `decoded` and `encoded` say whether workers can read
    it and make it; what they can do neither with passes through unchanged or is parked.
    """

    uid: str
    keyword: str
    label: str
    group: str
    lossless: bool = False
    native: bool = False
    decoded: bool = False
    encoded: bool = False


IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE = "1.2.840.10008.1.2.2"

_JPEG = "1.2.840.10008.1.2.4."
_SMPTE = "1.2.840.10008.1.2.7."
_VIDEO = (
    ("100", "MPEG2MPML"),
    ("100.1", "MPEG2MPMLF"),
    ("101", "MPEG2MPHL"),
    ("101.1", "MPEG2MPHLF"),
    ("102", "MPEG4HP41"),
    ("102.1", "MPEG4HP41F"),
    ("103", "MPEG4HP41BD"),
    ("103.1", "MPEG4HP41BDF"),
    ("104", "MPEG4HP422D"),
    ("104.1", "MPEG4HP422DF"),
    ("105", "MPEG4HP423D"),
    ("105.1", "MPEG4HP423DF"),
    ("106", "MPEG4HP42STEREO"),
    ("106.1", "MPEG4HP42STEREOF"),
    ("107", "HEVCMP51"),
    ("108", "HEVCM10P51"),
)

# fmt: off
TABLE: tuple[Syntax, ...] = (
    Syntax(EXPLICIT_LE, "ExplicitVRLittleEndian", "ExplicitLE", "uncompressed",
           lossless=True, native=True, decoded=True, encoded=True),
    Syntax(IMPLICIT_LE, "ImplicitVRLittleEndian", "ImplicitLE", "uncompressed",
           lossless=True, native=True, decoded=True, encoded=True),
    Syntax(EXPLICIT_BE, "ExplicitVRBigEndian", "ExplicitBE", "uncompressed",
           lossless=True, native=True, decoded=True),
    Syntax(DEFLATED_LE, "DeflatedExplicitVRLittleEndian", "Deflated", "deflated",
           lossless=True, native=True, decoded=True),
    Syntax("1.2.840.10008.1.2.8.1", "DeflatedImageFrameCompression", "DeflatedFrame", "deflated",
           lossless=True),
    Syntax("1.2.840.10008.1.2.5", "RLELossless", "RLE", "rle", lossless=True, decoded=True),
    Syntax(_JPEG + "50", "JPEGBaseline8Bit", "JPEG", "jpeg", decoded=True),
    Syntax(_JPEG + "51", "JPEGExtended12Bit", "JPEG12", "jpeg", decoded=True),
    Syntax(_JPEG + "57", "JPEGLossless", "JPEGLossless", "jpeg-lossless", lossless=True, decoded=True),
    Syntax(_JPEG + "70", "JPEGLosslessSV1", "JPEGLosslessSV1", "jpeg-lossless", lossless=True, decoded=True),
    Syntax(_JPEG + "80", "JPEGLSLossless", "JPEGLS", "jpeg-ls", lossless=True, decoded=True),
    Syntax(_JPEG + "81", "JPEGLSNearLossless", "JPEGLSNear", "jpeg-ls", decoded=True),
    Syntax(_JPEG + "90", "JPEG2000Lossless", "J2K", "jpeg2000", lossless=True, decoded=True),
    Syntax(_JPEG + "91", "JPEG2000", "J2KLossy", "jpeg2000", decoded=True),
    Syntax(_JPEG + "92", "JPEG2000MCLossless", "J2KPart2", "jpeg2000", lossless=True),
    Syntax(_JPEG + "93", "JPEG2000MC", "J2KPart2Lossy", "jpeg2000"),
    Syntax(_JPEG + "201", "HTJ2KLossless", "HTJ2K", "htj2k", lossless=True, decoded=True),
    Syntax(_JPEG + "202", "HTJ2KLosslessRPCL", "HTJ2KRPCL", "htj2k", lossless=True, decoded=True),
    Syntax(_JPEG + "203", "HTJ2K", "HTJ2KLossy", "htj2k", decoded=True),
    Syntax(_JPEG + "110", "JPEGXLLossless", "JPEGXL", "jpeg-xl", lossless=True),
    Syntax(_JPEG + "111", "JPEGXLJPEGRecompression", "JPEGXLRecompressed", "jpeg-xl"),
    Syntax(_JPEG + "112", "JPEGXL", "JPEGXLLossy", "jpeg-xl"),
    Syntax(_JPEG + "94", "JPIPReferenced", "JPIP", "jpip"),
    Syntax(_JPEG + "95", "JPIPReferencedDeflate", "JPIPDeflate", "jpip"),
    Syntax(_JPEG + "204", "JPIPHTJ2KReferenced", "JPIPHTJ2K", "jpip"),
    Syntax(_JPEG + "205", "JPIPHTJ2KReferencedDeflate", "JPIPHTJ2KDeflate", "jpip"),
    *(Syntax(_JPEG + suffix, keyword, keyword, "mpeg") for suffix, keyword in _VIDEO),
    Syntax(_SMPTE + "1", "SMPTEST211020UncompressedProgressiveActiveVideo", "SMPTE2110-20", "smpte"),
    Syntax(_SMPTE + "2", "SMPTEST211020UncompressedInterlacedActiveVideo", "SMPTE2110-20i", "smpte"),
    Syntax(_SMPTE + "3", "SMPTEST211030PCMDigitalAudio", "SMPTE2110-30", "smpte"),
)
# fmt: on

BY_UID: dict[str, Syntax] = {syntax.uid: syntax for syntax in TABLE}
_BY_KEYWORD = {syntax.keyword: syntax for syntax in TABLE}
GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(syntax.uid for syntax in TABLE if syntax.group == group)
    for group in dict.fromkeys(syntax.group for syntax in TABLE)
} | {"all": tuple(BY_UID)}

# The planner's order among lossless syntaxes that a peer accepts, best first: fast and small before large.
BEST_LOSSLESS: tuple[str, ...] = tuple(
    _BY_KEYWORD[keyword].uid
    for keyword in (
        "HTJ2KLossless",
        "HTJ2KLosslessRPCL",
        "JPEGLSLossless",
        "JPEG2000Lossless",
        "JPEGLosslessSV1",
        "JPEGLossless",
        "RLELossless",
        "DeflatedExplicitVRLittleEndian",
        "ExplicitVRLittleEndian",
        "ImplicitVRLittleEndian",
    )
)


def resolve(names: Iterable[str]) -> tuple[str, ...]:
    """The UIDs that `names` (groups, keywords or UIDs) stand for, in order, each once.

    Raises:
        Misconfigured: a name is none of these; the message proposes the nearest.
    """
    uids: dict[str, None] = {}
    for name in names:
        if name in GROUPS:
            uids.update(dict.fromkeys(GROUPS[name]))
        elif name in _BY_KEYWORD:
            uids[_BY_KEYWORD[name].uid] = None
        elif name in BY_UID:
            uids[name] = None
        else:
            raise Misconfigured(f"unknown transfer syntax {name!r}; {_hint(name)}")
    return tuple(uids)


def label(uid: str) -> str:
    """The short name that people see; a UID that the table does not know stands for itself."""
    syntax = BY_UID.get(uid)
    return syntax.label if syntax else uid


def keyword(uid: str) -> str:
    """The keyword of PS3.6; a UID that the table does not know stands for itself."""
    syntax = BY_UID.get(uid)
    return syntax.keyword if syntax else uid


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, [*GROUPS, *_BY_KEYWORD], n=1, cutoff=0.5)
    groups = ", ".join(GROUPS)
    return (
        f"did you mean {near[0]!r}? " if near else ""
    ) + f"it takes a UID, a PS3.6 keyword or one of {groups}"
