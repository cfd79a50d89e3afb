"""The transfer syntaxes (PS3.5 annex A, UIDs from PS3.6 annex A) and what dicomferry does with each.

Accepting, planning, refusals and documentation all use this one table. Settings name a transfer syntax by
its UID, its keyword of PS3.6, or a group (after Orthanc's flags).
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dicomferry.errors import Misconfigured
from dicomferry.text import shown_value


@dataclass(frozen=True, slots=True)
class Capability:
    """The images that workers can encode in a compressed syntax.

    `grey` and `colour` are the photometric interpretations of images with one and with three samples per
    pixel, before an encoder transforms them; None allows any. `every_bit` means that the encoder keeps all
    bits allocated, so that High Bit and bits above Bits Stored do not matter; elsewhere High Bit must be Bits
    Stored - 1. `min_stored_16` is the least Bits Stored where more than 8 bits are allocated.
    """

    clause: str  # of PS3.5
    allocated: tuple[int, ...]
    stored: tuple[int, int]  # least and most
    signed: bool  # whether grey samples may be signed; colour samples never are
    grey: tuple[str, ...] | None
    colour: tuple[str, ...] | None = ()
    every_bit: bool = False
    min_side: int = 1  # least rows and columns
    min_stored_16: int = 1
    limits: str = ""  # where we support less, or more, than the clause


@dataclass(frozen=True, slots=True)
class Syntax:
    """One transfer syntax.

    `label` is shown in Flower and in tables. `lossless`: encoding never changes a pixel value. `native`: its
    pixel data has no fragments. `decoded` and `encoded`: workers can decode and encode it, with the libraries
    `decoder` and `encoder`; a syntax with neither passes through unchanged or is parked. `capability` says
    which images can be encoded.
    """

    uid: str
    keyword: str
    label: str
    group: str
    lossless: bool = False
    native: bool = False
    decoded: bool = False
    encoded: bool = False
    decoder: str = ""
    encoder: str = ""
    capability: Capability | None = None


IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE = "1.2.840.10008.1.2.2"
# They deflate the whole data set (PS3.5 A.5, A.7, A.11).
DEFLATED = frozenset((DEFLATED_LE, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"))

_JPEG = "1.2.840.10008.1.2.4."
JPEG_IN_XL = _JPEG + "111"  # made only from JPEG Baseline, never from pixels
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

_OPENJPEG = "OpenJPEG (pylibjpeg-openjpeg)"
_OPENJPH = "OpenJPH (imagecodecs)"
_TURBO = "libjpeg-turbo (imagecodecs)"
_STRICT_TURBO = "libjpeg-turbo (simplejpeg, imagecodecs)"  # a binding that can treat its warnings as errors
_CHARLS = "CharLS (imagecodecs)"
_CHARLS_ENCODER = "CharLS (pyjpegls)"
_JXL = "libjxl (imagecodecs)"
_LIBDEFLATE = "libdeflate (imagecodecs)"
_PACKBITS = "PackBits (imagecodecs)"

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_INDEXED = (*_MONOCHROME, "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL")

_RLE = Capability(
    "PS3.5 8.2.2",
    (8, 16, 32),
    (1, 32),
    signed=True,
    grey=None,
    colour=None,
    every_bit=True,
    limits="32 bits allocated as RT Dose has them, 1 bit allocated not",
)
_DEFLATED_FRAME = Capability(
    "PS3.5 8.2.16", (1, 8, 16, 32, 64), (1, 64), signed=True, grey=None, colour=None, every_bit=True
)
_BASELINE = Capability("PS3.5 8.2.1", (8,), (8, 8), signed=False, grey=_MONOCHROME, colour=_COLOUR)
_EXTENDED = Capability(
    "PS3.5 8.2.1", (16,), (12, 12), signed=False, grey=_MONOCHROME, limits="8 bits are for JPEG Baseline"
)
_JPEG_LOSSLESS = Capability("PS3.5 8.2.1", (8, 16), (2, 16), signed=True, grey=_INDEXED, colour=_COLOUR)
# pyjpegls allocates twice the size of the image for the codestream: too little for the headers of a tiny one.
# The precision of the codestream is Bits Stored. PS3.5 table 8.2.3-1 allows up to 8 bits stored in 16
# allocated, but decoders then return bytes, not words: DCMTK 3.6.7 refuses such a frame, GDCM 3.0 aborts.
_JPEG_LS_LIMITS = "up to 8 bits stored in 16 allocated not, which DCMTK and GDCM cannot read"
_JPEG_LS = Capability(
    "PS3.5 8.2.3",
    (8, 16),
    (2, 16),
    signed=True,
    grey=_INDEXED,
    colour=_COLOUR,
    min_side=16,
    min_stored_16=9,
    limits=_JPEG_LS_LIMITS,
)
_JPEG_LS_NEAR = replace(_JPEG_LS, grey=_MONOCHROME)


def _wavelets(clause: str) -> tuple[Capability, Capability]:
    """The images that lossless and lossy JPEG 2000, or HTJ2K, can hold."""
    limits = "the standard goes to 38 bits, the libraries are proved to 16"
    return (
        Capability(clause, (1, 8, 16), (1, 16), signed=True, grey=_INDEXED, colour=_COLOUR, limits=limits),
        Capability(
            clause,
            (8, 16),
            (8, 16),
            signed=True,
            grey=_MONOCHROME,
            colour=_COLOUR,
            min_side=32,  # five levels of decomposition
            limits=limits,
        ),
    )


_J2K, _J2K_LOSSY = _wavelets("PS3.5 8.2.4")
_HTJ2K, _HTJ2K_LOSSY = _wavelets("PS3.5 8.2.14")
_JPEG_XL = Capability("PS3.5 8.2.15", (8, 16), (1, 16), signed=True, grey=_MONOCHROME, colour=("RGB",))
_RECOMPRESSED = Capability(
    "PS3.5 8.2.15",
    (8,),
    (8, 8),
    signed=False,
    grey=_MONOCHROME,
    colour=_COLOUR,
    # Table 8.2.15-1 lists neither MONOCHROME1 nor YBR_FULL here; a JPEG with one of them keeps it.
    limits="made of JPEG Baseline frames alone, which it gives back bit for bit; of no other pixels",
)
_JPEG_XL_LOSSY = Capability("PS3.5 8.2.15", (8, 16), (8, 16), signed=False, grey=_MONOCHROME, colour=("RGB",))

# fmt: off
TABLE: tuple[Syntax, ...] = (
    Syntax(EXPLICIT_LE, "ExplicitVRLittleEndian", "ExplicitLE", "uncompressed",
           lossless=True, native=True, decoded=True, encoded=True),
    Syntax(IMPLICIT_LE, "ImplicitVRLittleEndian", "ImplicitLE", "uncompressed",
           lossless=True, native=True, decoded=True, encoded=True),
    Syntax(EXPLICIT_BE, "ExplicitVRBigEndian", "ExplicitBE", "uncompressed",
           lossless=True, native=True, decoded=True, encoded=True),
    Syntax(DEFLATED_LE, "DeflatedExplicitVRLittleEndian", "Deflated", "deflated",
           lossless=True, native=True, decoded=True, encoded=True),
    Syntax("1.2.840.10008.1.2.8.1", "DeflatedImageFrameCompression", "DeflatedFrame", "deflated",
           lossless=True, decoded=True, encoded=True, decoder="zlib", encoder=_LIBDEFLATE,
           capability=_DEFLATED_FRAME),
    Syntax("1.2.840.10008.1.2.5", "RLELossless", "RLE", "rle",
           lossless=True, decoded=True, encoded=True, decoder=_PACKBITS, encoder=_PACKBITS, capability=_RLE),
    Syntax(_JPEG + "50", "JPEGBaseline8Bit", "JPEG", "jpeg",
           decoded=True, encoded=True, decoder=_STRICT_TURBO, encoder=_TURBO, capability=_BASELINE),
    Syntax(_JPEG + "51", "JPEGExtended12Bit", "JPEG12", "jpeg",
           decoded=True, encoded=True, decoder=_TURBO, encoder=_TURBO, capability=_EXTENDED),
    Syntax(_JPEG + "57", "JPEGLossless", "JPEGLossless", "jpeg-lossless",
           lossless=True, decoded=True, encoded=True, decoder=_TURBO, encoder=_TURBO,
           capability=_JPEG_LOSSLESS),
    Syntax(_JPEG + "70", "JPEGLosslessSV1", "JPEGLosslessSV1", "jpeg-lossless",
           lossless=True, decoded=True, encoded=True, decoder=_TURBO, encoder=_TURBO,
           capability=_JPEG_LOSSLESS),
    Syntax(_JPEG + "80", "JPEGLSLossless", "JPEGLS", "jpeg-ls",
           lossless=True, decoded=True, encoded=True, decoder=_CHARLS, encoder=_CHARLS_ENCODER,
           capability=_JPEG_LS),
    Syntax(_JPEG + "81", "JPEGLSNearLossless", "JPEGLSNear", "jpeg-ls",
           decoded=True, encoded=True, decoder=_CHARLS, encoder=_CHARLS_ENCODER, capability=_JPEG_LS_NEAR),
    Syntax(_JPEG + "90", "JPEG2000Lossless", "J2K", "jpeg2000",
           lossless=True, decoded=True, encoded=True, decoder=_OPENJPEG, encoder=_OPENJPEG, capability=_J2K),
    Syntax(_JPEG + "91", "JPEG2000", "J2KLossy", "jpeg2000",
           decoded=True, encoded=True, decoder=_OPENJPEG, encoder=_OPENJPEG, capability=_J2K_LOSSY),
    Syntax(_JPEG + "92", "JPEG2000MCLossless", "J2KPart2", "jpeg2000", lossless=True),
    Syntax(_JPEG + "93", "JPEG2000MC", "J2KPart2Lossy", "jpeg2000"),
    Syntax(_JPEG + "201", "HTJ2KLossless", "HTJ2K", "htj2k",
           lossless=True, decoded=True, encoded=True, decoder=_OPENJPEG, encoder=_OPENJPH, capability=_HTJ2K),
    Syntax(_JPEG + "202", "HTJ2KLosslessRPCL", "HTJ2KRPCL", "htj2k",
           lossless=True, decoded=True, encoded=True, decoder=_OPENJPEG, encoder=_OPENJPH, capability=_HTJ2K),
    Syntax(_JPEG + "203", "HTJ2K", "HTJ2KLossy", "htj2k",
           decoded=True, encoded=True, decoder=_OPENJPEG, encoder=_OPENJPH, capability=_HTJ2K_LOSSY),
    Syntax(_JPEG + "110", "JPEGXLLossless", "JPEGXL", "jpeg-xl",
           lossless=True, decoded=True, encoded=True, decoder=_JXL, encoder=_JXL, capability=_JPEG_XL),
    Syntax(JPEG_IN_XL, "JPEGXLJPEGRecompression", "JPEGXLRecompressed", "jpeg-xl",
           decoded=True, encoded=True, decoder=_JXL, encoder=_JXL, capability=_RECOMPRESSED),
    Syntax(_JPEG + "112", "JPEGXL", "JPEGXLLossy", "jpeg-xl",
           decoded=True, encoded=True, decoder=_JXL, encoder=_JXL, capability=_JPEG_XL_LOSSY),
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

# The planner's order of the lossless syntaxes that a peer accepts, best first: fast and small first.
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


def is_recompression(source_uid: str, target_uid: str) -> bool:
    """Whether this is JPEG to its JPEG XL form or back, bit for bit (PS3.5 8.2.15)."""
    return {source_uid, target_uid} == {_JPEG + "50", JPEG_IN_XL}


def resolve(names: Iterable[str]) -> tuple[str, ...]:
    """The UIDs of `names` (groups, keywords or UIDs), in order, each once.

    Raises:
        Misconfigured: a name is unknown; the message suggests the nearest.
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
    """The short name for people; for a UID that is not in the table, the UID, which may be anything."""
    syntax = BY_UID.get(uid)
    return syntax.label if syntax else shown_value(uid)


def keyword(uid: str) -> str:
    """The keyword of PS3.6; for a UID that is not in the table, the UID, which may be anything."""
    syntax = BY_UID.get(uid)
    return syntax.keyword if syntax else shown_value(uid)


def _hint(name: str) -> str:
    matches = difflib.get_close_matches(name, [*GROUPS, *_BY_KEYWORD], n=1, cutoff=0.5)
    groups = ", ".join(GROUPS)
    return (
        f"did you mean {matches[0]!r}? " if matches else ""
    ) + f"it takes a UID, a PS3.6 keyword or one of {groups}"
