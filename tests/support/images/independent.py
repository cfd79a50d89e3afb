"""Encoders and decoders that are none of ours: DCMTK, GDCM, FFmpeg's own JPEG 2000 decoder.

`ENCODERS` makes a source in each transfer syntax from a native file, `cells` reads what an engine made.

    syntax             made for us by          read back by
    native, deflated   pydicom, DCMTK dcmconv  numpy, after dcmconv for Big Endian and Deflated
    RLE                DCMTK dcmcrle           DCMTK dcmdrle
    JPEG (all)         DCMTK dcmcjpeg          DCMTK dcmdjpeg
    JPEG-LS            DCMTK dcmcjpls          DCMTK dcmdjpls
    JPEG 2000          OpenJPEG                FFmpeg's own decoder (PyAV), up to 16 bits
    HTJ2K              OpenJPH (imagecodecs)   the same; what it misreads, noise, by OpenJPH, where the
                                               engine decodes by OpenJPEG, and lossy by OpenJPEG
    JPEG XL            libjxl (imagecodecs)    none in Debian but libjxl itself: held against the truth
    JPEG XL .111       libjxl (imagecodecs)    libjxl gives the JPEG back, which DCMTK's own is compared with
    Deflated frame     zlib                    zlib
"""

import re
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import imagecodecs
import numpy as np
import openjpeg
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames

from dicomferry.dicom.syntaxes import BY_UID, DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE
from tests.support.images.synthetic import encapsulated
from tests.support.running.services import program

RLE = "1.2.840.10008.1.2.5"
DEFLATED_FRAME = "1.2.840.10008.1.2.8.1"
JPEG = "1.2.840.10008.1.2.4."
J2K = (JPEG + "90", JPEG + "91")
HTJ2K = (JPEG + "201", JPEG + "202", JPEG + "203")
JPEG_XL = (JPEG + "110", JPEG + "112")
RECOMPRESSED = JPEG + "111"

_MADE_BY_TOOL: dict[str, tuple[str, ...]] = {
    EXPLICIT_BE: ("dcmconv", "+tb"),
    DEFLATED_LE: ("dcmconv", "+td"),
    IMPLICIT_LE: ("dcmconv", "+ti"),
    EXPLICIT_LE: ("dcmconv", "+te"),
    RLE: ("dcmcrle",),
    JPEG + "50": ("dcmcjpeg", "+eb", "+un"),
    JPEG + "51": ("dcmcjpeg", "+ee", "+un"),
    JPEG + "57": ("dcmcjpeg", "+el"),
    JPEG + "70": ("dcmcjpeg", "+e1"),
    JPEG + "80": ("dcmcjpls", "+el"),
    JPEG + "81": ("dcmcjpls", "+en", "+md", "2", "+un"),
}
_READ_BY_TOOL = {"rle": "dcmdrle", "jpeg": "dcmdjpeg", "jpeg-lossless": "dcmdjpeg", "jpeg-ls": "dcmdjpls"}


class NoDecoder(Exception):  # noqa: N818  it is a fact, not a fault
    """Nothing independent reads this."""


def run(*command: str) -> None:
    """Run a tool, whose last words are in the error."""
    done = subprocess.run([program(command[0]), *command[1:]], capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-500:].decode('latin-1')}")


def encode(native: Path, target: Path, uid: str) -> Path:
    """Make of a native Explicit VR Little Endian file one in the syntax `uid`, by somebody else's encoder.

    Raises:
        RuntimeError: that encoder cannot.
    """
    if tool := _MADE_BY_TOOL.get(uid):
        run(*tool, str(native), str(target))
        return target
    if uid == RECOMPRESSED:
        made = dcmread(encode(native, target.with_suffix(".jpeg"), JPEG + "50"))
        frames = [imagecodecs.jpegxl_encode_jpeg(jpeg, usecontainer=True) for jpeg in codestreams(made)]
        return encapsulated(target, made, uid, [bytes(f) for f in frames])
    made = dcmread(native)
    frames = [_FRAME_ENCODERS[uid](frame, made) for frame in native_cells(made)]
    if not BY_UID[uid].lossless:
        made.LossyImageCompression = "01"
    if made.SamplesPerPixel == 3:
        made.PlanarConfiguration = 0
        if uid in (*J2K, *HTJ2K) and made.PhotometricInterpretation == "RGB":
            made.PhotometricInterpretation = "YBR_ICT" if uid in (J2K[1], HTJ2K[2]) else "YBR_RCT"
    return encapsulated(target, made, uid, frames)


def _is_rgb(made: Dataset) -> bool:
    """Whether the codestream shall transform its components (PS3.5 8.2.4)."""
    return str(made.PhotometricInterpretation) == "RGB"


def _j2k(frame: np.ndarray, made: Dataset, **options: Any) -> bytes:
    colour = made.SamplesPerPixel == 3
    return bytes(
        openjpeg.utils.encode_array(
            np.ascontiguousarray(frame),
            bits_stored=int(made.HighBit) + 1,
            photometric_interpretation=1 if colour else 0,
            use_mct=_is_rgb(made),
            **options,
        )
    )


def _j2k_lossy(frame: np.ndarray, made: Dataset) -> bytes:
    return _j2k(frame, made, compression_ratios=[4.0])


def _htj2k(frame: np.ndarray, made: Dataset) -> bytes:
    return bytes(imagecodecs.htj2k_encode(frame, tlm=True, rgb=_is_rgb(made)))


def _htj2k_lossy(frame: np.ndarray, made: Dataset) -> bytes:
    return bytes(imagecodecs.htj2k_encode(frame, 0.002, tlm=True, reversible=False, rgb=_is_rgb(made)))


def _jpeg_xl(frame: np.ndarray, made: Dataset) -> bytes:
    return bytes(
        imagecodecs.jpegxl_encode(frame, lossless=True, bitspersample=int(made.BitsStored), numthreads=1)
    )


def _jpeg_xl_lossy(frame: np.ndarray, _made: Dataset) -> bytes:
    return bytes(imagecodecs.jpegxl_encode(frame, distance=0.5, numthreads=1))


def deflate(content: bytes) -> bytes:
    """Raw deflate (RFC 1951), padded to even length."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = packer.compress(content) + packer.flush()
    return packed + b"\0" * (len(packed) % 2)


def _deflated_frame(frame: np.ndarray, made: Dataset) -> bytes:
    del made
    return deflate(frame.tobytes())


_FRAME_ENCODERS: dict[str, Callable[[np.ndarray, Dataset], bytes]] = {
    J2K[0]: _j2k,
    J2K[1]: _j2k_lossy,
    **dict.fromkeys(HTJ2K[:2], _htj2k),
    HTJ2K[2]: _htj2k_lossy,
    JPEG_XL[0]: _jpeg_xl,
    JPEG_XL[1]: _jpeg_xl_lossy,
    DEFLATED_FRAME: _deflated_frame,
}


def codestreams(made: Dataset) -> list[bytes]:
    """The frames of encapsulated pixel data."""
    tables = None
    if "ExtendedOffsetTable" in made:
        tables = (made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths)
    frames = int(made.get("NumberOfFrames") or 1)
    return list(generate_frames(made.PixelData, number_of_frames=frames, extended_offsets=tables))


def native_cells(made: Dataset) -> np.ndarray:
    """The cells of a native data set in Little Endian: frames x rows x columns (x 3), colour by pixel."""
    frames, rows, columns = int(made.get("NumberOfFrames") or 1), int(made.Rows), int(made.Columns)
    for keyword, kind in (("FloatPixelData", "<f4"), ("DoubleFloatPixelData", "<f8")):
        if keyword in made:
            return np.frombuffer(made[keyword].value, kind).reshape(frames, rows, columns)
    content, allocated, samples = made.PixelData, int(made.BitsAllocated), int(made.SamplesPerPixel)
    count = frames * rows * columns * samples
    if allocated == 1:
        bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
        return bits[:count].reshape(frames, rows, columns)
    kind = f"<{'i' if made.PixelRepresentation else 'u'}{allocated // 8}"
    if made.PhotometricInterpretation == "YBR_FULL_422" and len(content) < count:
        pairs = np.frombuffer(content, kind, count * 2 // 3).reshape(frames, rows, columns // 2, 4)
        whole = np.empty((frames, rows, columns, 3), kind)
        whole[..., 0] = pairs[..., :2].reshape(frames, rows, columns)
        whole[..., 1:] = np.repeat(pairs[..., 2:], 2, axis=2)
        return whole
    cells = np.frombuffer(content, kind, count)
    if samples == 1:
        return cells.reshape(frames, rows, columns)
    if made.get("PlanarConfiguration"):
        return cells.reshape(frames, samples, rows, columns).transpose(0, 2, 3, 1)
    return cells.reshape(frames, rows, columns, samples)


def cells(path: Path, work: Path, *, noise: bool = False) -> tuple[np.ndarray, str]:
    """The cells of `path` by a decoder that the engine has no part in, and their photometric interpretation.

    `noise` says that the values may use their range to the full, which FFmpeg misreads in HTJ2K.

    Raises:
        NoDecoder: nothing independent reads it.
    """
    uid = str(dcmread(path, specific_tags=["SOPInstanceUID"]).file_meta.TransferSyntaxUID)
    if uid in (EXPLICIT_LE, IMPLICIT_LE):
        made = dcmread(path)
        return native_cells(made), str(made.PhotometricInterpretation)
    native = work / f"{path.stem}.independent.dcm"
    if uid in (EXPLICIT_BE, DEFLATED_LE):
        run("dcmconv", "+te", str(path), str(native))
    elif uid == RECOMPRESSED:
        made = dcmread(path)
        jpegs = [bytes(imagecodecs.jpegxl_decode_jpeg(c)) for c in codestreams(made)]
        if made.SamplesPerPixel == 3:
            made.PhotometricInterpretation = "YBR_FULL_422"
        return cells(encapsulated(work / f"{path.stem}.jpeg.dcm", made, JPEG + "50", jpegs), work)
    elif tool := _READ_BY_TOOL.get(BY_UID[uid].group):
        never = ("+cn",) if tool == "dcmdjpeg" and BY_UID[uid].lossless else ()
        run(tool, *never, str(path), str(native))
    else:
        return _frames(path, uid, noise=noise)
    made = dcmread(native)
    return extended(native_cells(made), made), str(made.PhotometricInterpretation)


def extended(values: np.ndarray, made: Dataset) -> np.ndarray:
    """Signed values with the sign in every bit above them, which some decoders leave clear."""
    spare = int(made.BitsAllocated) - int(made.get("HighBit", made.BitsAllocated - 1)) - 1
    if not (made.get("PixelRepresentation") and spare and made.SamplesPerPixel == 1):
        return values
    return (values << spare) >> spare


def _frames(path: Path, uid: str, *, noise: bool) -> tuple[np.ndarray, str]:
    """The syntaxes whose frames are decoded one by one."""
    made = dcmread(path)
    photometric = str(made.PhotometricInterpretation)
    kind = f"<{'i' if made.PixelRepresentation else 'u'}{max(1, made.BitsAllocated // 8)}"
    shape = (int(made.Rows), int(made.Columns)) + ((3,) if made.SamplesPerPixel == 3 else ())
    frames: list[np.ndarray] = []
    for codestream in codestreams(made):
        if uid in J2K or (uid in HTJ2K and not noise):
            frames.append(_by_ffmpeg(codestream, made))
        elif uid == HTJ2K[2]:
            # Values over the end of their range come round on the other side in OpenJPH's wrapper.
            frames.append(openjpeg.utils.decode(codestream, 0))
        elif uid in HTJ2K:
            decoded = np.asarray(imagecodecs.htj2k_decode(codestream))
            # OpenJPH gives plane by plane what has no component transform.
            frames.append(
                decoded.transpose(1, 2, 0) if decoded.shape == (3, *shape[:2]) != shape else decoded
            )
        elif uid in JPEG_XL:
            frames.append(np.asarray(imagecodecs.jpegxl_decode(codestream, numthreads=1)))
        elif uid == DEFLATED_FRAME:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(codestream)
            if made.BitsAllocated == 1:
                bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
                frames.append(bits[: np.prod(shape)])
            else:
                frames.append(np.frombuffer(content, kind, int(np.prod(shape))))
        else:
            raise NoDecoder(uid)
    if photometric in ("YBR_RCT", "YBR_ICT", "XYB"):
        photometric = "RGB"  # the codestream's transform is undone by every decoder
    whole = [np.asarray(f).reshape(shape) for f in frames]
    return extended(np.stack(whole).astype(kind), made), photometric


def _by_ffmpeg(codestream: bytes, made: Dataset) -> np.ndarray:
    """FFmpeg's own decoder (`jpeg2000`; `libopenjpeg` would be the engine's)."""
    colour, stored = made.SamplesPerPixel == 3, int(made.BitsStored)
    precision, signed = (codestream[42] & 0x7F) + 1, bool(codestream[42] & 0x80)
    depth = next((d for d in (8, 16) if d >= precision), None)
    if depth is None:
        raise NoDecoder(f"FFmpeg has no pixel format for {precision} bits")
    layout = {8: "rgb24", 16: "rgb48le"} if colour else {8: "gray", 16: "gray16le"}
    context = av.CodecContext.create("jpeg2000", "r")
    context.thread_count = 1
    (frame,) = [*context.decode(av.Packet(codestream)), *context.decode(None)]
    values = frame.reformat(format=layout[depth]).to_ndarray().astype(np.int32)
    values >>= depth - precision  # it puts the samples into the high bits
    if signed:
        # It shifts the level of signed samples too (T.800 G.1.2 does so for unsigned ones alone).
        values -= 1 << precision - 1
    elif made.PixelRepresentation:
        values = (values << 32 - stored) >> 32 - stored
    return values


def dump(path: Path, *without: str) -> list[str]:
    """dcmdump's lines, but for the meta information, pixel data, lengths and the tags `without`."""
    shown = subprocess.run(
        [program("dcmdump"), "-q", "+L", str(path)], check=True, capture_output=True
    ).stdout
    left_out = "|".join((r"\(0002,", r"\(7fe0,", r"\(fffe,e0", r"#", r"$", *(re.escape(t) for t in without)))
    lines = [line.decode("latin-1") for line in shown.splitlines()]
    return [re.sub(r"\s*#.*", "", line) for line in lines if not re.match(left_out, line.strip())]
