"""The transfer syntaxes (PS3.5 annex A, UIDs from PS3.6 annex A) and what dicomferry does with each.

The one table from which accepting, planning, refusals and documentation come. Names in settings are a
UID, a keyword of PS3.6, or a group (after Orthanc's flags).
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from dicomferry.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Holds:
    """What images a compressed syntax can hold as workers write it.

    `grey` and `colour` are the photometric interpretations of native cells of one and of three samples, as
    they are before an encoder transforms them; None takes any. `every_bit` says that the bytes of the cells
    are kept whatever they mean, so that High Bit and bits above Bits Stored do not matter; elsewhere High Bit
    is Bits Stored - 1. `wide` is the least of Bits Stored where more than 8 bits are allocated.
    """

    clause: str  # of PS3.5, which says so
    allocated: tuple[int, ...]
    stored: tuple[int, int]  # least and most
    signed: bool  # whether grey samples may be signed; colours never are
    grey: tuple[str, ...] | None
    colour: tuple[str, ...] | None = ()
    every_bit: bool = False
    shortest: int = 1  # rows and columns
    wide: int = 1
    limits: str = ""  # where our libraries stop short of the clause, and where we follow others beyond it


@dataclass(frozen=True, slots=True)
class Syntax:
    """One transfer syntax.

    `label` is what people see in Flower and tables. `lossless` says that encoding into it can never change
    a pixel value. `native` pixel data has no fragments. `decoded` and `encoded` say whether workers can read
    it and make it; what they can do neither with passes through unchanged or is parked. `decoder` and
    `encoder` are the libraries that do it, `holds` what images can be encoded.
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
    holds: Holds | None = None


IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
DEFLATED_LE = "1.2.840.10008.1.2.1.99"
EXPLICIT_BE = "1.2.840.10008.1.2.2"

_JPEG = "1.2.840.10008.1.2.4."
JPEG_IN_XL = _JPEG + "111"  # made of JPEG Baseline alone, never of pixels
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
_STRICT_TURBO = "libjpeg-turbo (simplejpeg, imagecodecs)"  # where its warnings can be errors
_CHARLS = "CharLS (imagecodecs)"
_CHARLS_ENCODER = "CharLS (pyjpegls)"
_JXL = "libjxl (imagecodecs)"
_LIBDEFLATE = "libdeflate (imagecodecs)"
_PACKBITS = "PackBits (imagecodecs)"

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_INDEXED = (*_MONOCHROME, "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL")

_RLE = Holds(
    "PS3.5 8.2.2",
    (8, 16, 32),
    (1, 32),
    signed=True,
    grey=None,
    colour=None,
    every_bit=True,
    limits="32 bits allocated as RT Dose has them, 1 bit allocated not",
)
_DEFLATED_FRAME = Holds(
    "PS3.5 8.2.16", (1, 8, 16, 32, 64), (1, 64), signed=True, grey=None, colour=None, every_bit=True
)
_BASELINE = Holds("PS3.5 8.2.1", (8,), (8, 8), signed=False, grey=_MONOCHROME, colour=_COLOUR)
_EXTENDED = Holds(
    "PS3.5 8.2.1", (16,), (12, 12), signed=False, grey=_MONOCHROME, limits="8 bits are for JPEG Baseline"
)
_JPEG_LOSSLESS = Holds("PS3.5 8.2.1", (8, 16), (2, 16), signed=True, grey=_INDEXED, colour=_COLOUR)
# pyjpegls gives CharLS twice the bytes of the image to write to: too few for the headers of a tiny one.
# The codestream's precision is Bits Stored's. Up to 8 of them in 16 allocated are within PS3.5 table 8.2.3-1,
# but decoders give bytes then where words are expected: DCMTK 3.6.7 refuses such a frame, GDCM 3.0 aborts.
_NARROW = "up to 8 bits stored in 16 allocated not, which DCMTK and GDCM cannot read"
_JPEG_LS = Holds(
    "PS3.5 8.2.3",
    (8, 16),
    (2, 16),
    signed=True,
    grey=_INDEXED,
    colour=_COLOUR,
    shortest=16,
    wide=9,
    limits=_NARROW,
)
_JPEG_LS_NEAR = replace(_JPEG_LS, grey=_MONOCHROME)


def _wavelets(clause: str) -> tuple[Holds, Holds]:
    """What JPEG 2000 or HTJ2K can hold, without and with loss."""
    limits = "the standard goes to 38 bits, the libraries are proved to 16"
    return (
        Holds(clause, (1, 8, 16), (1, 16), signed=True, grey=_INDEXED, colour=_COLOUR, limits=limits),
        Holds(
            clause,
            (8, 16),
            (8, 16),
            signed=True,
            grey=_MONOCHROME,
            colour=_COLOUR,
            shortest=32,  # five levels of decomposition
            limits=limits,
        ),
    )


_J2K, _J2K_LOSSY = _wavelets("PS3.5 8.2.4")
_HTJ2K, _HTJ2K_LOSSY = _wavelets("PS3.5 8.2.14")
_JPEG_XL = Holds("PS3.5 8.2.15", (8, 16), (1, 16), signed=True, grey=_MONOCHROME, colour=("RGB",))
_RECOMPRESSED = Holds(
    "PS3.5 8.2.15",
    (8,),
    (8, 8),
    signed=False,
    grey=_MONOCHROME,
    colour=_COLOUR,
    # Table 8.2.15-1 has neither MONOCHROME1 nor YBR_FULL here: a JPEG that says so keeps what it says.
    limits="made of JPEG Baseline frames alone, which it gives back bit for bit; of no other pixels",
)
_JPEG_XL_LOSSY = Holds("PS3.5 8.2.15", (8, 16), (8, 16), signed=False, grey=_MONOCHROME, colour=("RGB",))

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
           holds=_DEFLATED_FRAME),
    Syntax("1.2.840.10008.1.2.5", "RLELossless", "RLE", "rle",
           lossless=True, decoded=True, encoded=True, decoder=_PACKBITS, encoder=_PACKBITS, holds=_RLE),
    Syntax(_JPEG + "50", "JPEGBaseline8Bit", "JPEG", "jpeg",
           decoded=True, encoded=True, decoder=_STRICT_TURBO, encoder=_TURBO, holds=_BASELINE),
    Syntax(_JPEG + "51", "JPEGExtended12Bit", "JPEG12", "jpeg",
           decoded=True, encoded=True, decoder=_TURBO, encoder=_TURBO, holds=_EXTENDED),
    Syntax(_JPEG + "57", "JPEGLossless", "JPEGLossless", "jpeg-lossless",
           lossless=True, decoded=True, encoded=True, decoder=_TURBO, encoder=_TURBO, holds=_JPEG_LOSSLESS),
    Syntax(_JPEG + "70", "JPEGLosslessSV1", "JPEGLosslessSV1", "jpeg-lossless",
           lossless=True, decoded=True, encoded=True, decoder=_TURBO, encoder=_TURBO, holds=_JPEG_LOSSLESS),
    Syntax(_JPEG + "80", "JPEGLSLossless", "JPEGLS", "jpeg-ls",
           lossless=True, decoded=True, encoded=True, decoder=_CHARLS, encoder=_CHARLS_ENCODER,
           holds=_JPEG_LS),
    Syntax(_JPEG + "81", "JPEGLSNearLossless", "JPEGLSNear", "jpeg-ls",
           decoded=True, encoded=True, decoder=_CHARLS, encoder=_CHARLS_ENCODER, holds=_JPEG_LS_NEAR),
    Syntax(_JPEG + "90", "JPEG2000Lossless", "J2K", "jpeg2000",
           lossless=True, decoded=True, encoded=True, decoder=_OPENJPEG, encoder=_OPENJPEG, holds=_J2K),
    Syntax(_JPEG + "91", "JPEG2000", "J2KLossy", "jpeg2000",
           decoded=True, encoded=True, decoder=_OPENJPEG, encoder=_OPENJPEG, holds=_J2K_LOSSY),
    Syntax(_JPEG + "92", "JPEG2000MCLossless", "J2KPart2", "jpeg2000", lossless=True),
    Syntax(_JPEG + "93", "JPEG2000MC", "J2KPart2Lossy", "jpeg2000"),
    Syntax(_JPEG + "201", "HTJ2KLossless", "HTJ2K", "htj2k",
           lossless=True, decoded=True, encoded=True, decoder=_OPENJPEG, encoder=_OPENJPH, holds=_HTJ2K),
    Syntax(_JPEG + "202", "HTJ2KLosslessRPCL", "HTJ2KRPCL", "htj2k",
           lossless=True, decoded=True, encoded=True, decoder=_OPENJPEG, encoder=_OPENJPH, holds=_HTJ2K),
    Syntax(_JPEG + "203", "HTJ2K", "HTJ2KLossy", "htj2k",
           decoded=True, encoded=True, decoder=_OPENJPEG, encoder=_OPENJPH, holds=_HTJ2K_LOSSY),
    Syntax(_JPEG + "110", "JPEGXLLossless", "JPEGXL", "jpeg-xl",
           lossless=True, decoded=True, encoded=True, decoder=_JXL, encoder=_JXL, holds=_JPEG_XL),
    Syntax(JPEG_IN_XL, "JPEGXLJPEGRecompression", "JPEGXLRecompressed", "jpeg-xl",
           decoded=True, encoded=True, decoder=_JXL, encoder=_JXL, holds=_RECOMPRESSED),
    Syntax(_JPEG + "112", "JPEGXL", "JPEGXLLossy", "jpeg-xl",
           decoded=True, encoded=True, decoder=_JXL, encoder=_JXL, holds=_JPEG_XL_LOSSY),
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


def is_recompression(source_uid: str, target_uid: str) -> bool:
    """Whether a JPEG becomes its JPEG XL form or comes back from it, bit for bit (PS3.5 8.2.15)."""
    return {source_uid, target_uid} == {_JPEG + "50", JPEG_IN_XL}


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
