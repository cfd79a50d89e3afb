"""Sample images for the demo: files in pydicom's wheel, and some encoded here.

Each comes with the frames that must arrive at the workstation: those of its uncompressed original if there is
one, else decoded here by pydicom, OpenJPEG (pylibjpeg), libjpeg-turbo and CharLS, without the workers' code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom.data
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.processing import convert_color_space
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    generate_uid,
)

# Not get_testdata_file, which downloads files that are missing.
_FOLDER = Path(pydicom.data.__file__).parent / "test_files"
_EXACT = 0
_ROUNDED = 1  # between correct decoders of lossy JPEG or JPEG 2000
_UPSAMPLED = 6  # the same, where chroma was subsampled
_NATIVE = (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)

Frames = NDArray[np.generic]
Encoder = Callable[[Frames], bytes]


@dataclass(frozen=True)
class Sample:
    """One image to send, and the frames that must arrive."""

    name: str
    dataset: Dataset  # with File Meta Information and new UIDs
    frames: Frames  # frames x rows x columns (x 3, RGB)
    tolerance: int  # largest difference of a sample value

    @property
    def uid(self) -> str:
        """SOP Instance UID."""
        return str(self.dataset.SOPInstanceUID)

    @property
    def syntax(self) -> str:
        """UID of the transfer syntax in which it is sent."""
        return str(self.dataset.file_meta.TransferSyntaxUID)

    def difference(self, delivered: Dataset) -> str:
        """What is wrong with the delivered pixels, in words; empty where they are equal."""
        found = frames_of(delivered)
        if found.shape != self.frames.shape:
            return f"shape {found.shape} instead of {self.frames.shape}"
        furthest = int(np.abs(found.astype(np.int64) - self.frames.astype(np.int64)).max())
        return f"differs by up to {furthest}" if furthest > self.tolerance else ""


@dataclass(frozen=True)
class _Shipped:
    """A file in pydicom's wheel, and the uncompressed file it was made from, if that is there too."""

    name: str
    original: str | None = None
    tolerance: int = _EXACT


@dataclass(frozen=True)
class _Made:
    """An uncompressed file in pydicom's wheel, to be encoded here."""

    name: str
    syntax: UID
    encode: Encoder


def _as_unsigned(frame: Frames) -> Frames:
    # The encoders take only unsigned samples; the bits stay the same.
    return np.ascontiguousarray(frame).view(f"u{frame.dtype.itemsize}")


def _htj2k(frame: Frames) -> bytes:
    return bytes(imagecodecs.htj2k_encode(frame, reversible=True))


def _jpeg_lossless(predictor: int) -> Encoder:
    return lambda frame: bytes(
        imagecodecs.jpeg8_encode(_as_unsigned(frame), lossless=True, predictor=predictor)
    )


def _jpeg_ls(frame: Frames) -> bytes:
    return bytes(imagecodecs.jpegls_encode(_as_unsigned(frame)))


_SAMPLES: tuple[_Shipped | _Made, ...] = (
    _Shipped("693_J2KI.dcm", tolerance=_ROUNDED),
    _Shipped("JPEG2000.dcm", tolerance=_ROUNDED),
    _Shipped("MR_small_jp2klossless.dcm", "MR_small.dcm"),
    _Shipped("examples_jpeg2k.dcm"),
    _Made("CT_small.dcm", HTJ2KLossless, _htj2k),
    _Made("MR_small.dcm", HTJ2KLossless, _htj2k),
    _Shipped("SC_rgb_jpeg_dcmtk.dcm", tolerance=_ROUNDED),
    _Shipped("SC_rgb_dcmtk_+eb+cr.dcm", tolerance=_ROUNDED),
    _Shipped("SC_rgb_dcmtk_+eb+cy+np.dcm", tolerance=_UPSAMPLED),
    _Shipped("SC_rgb_small_odd_jpeg.dcm", tolerance=_UPSAMPLED),
    _Shipped("examples_ybr_color.dcm", tolerance=_UPSAMPLED),
    _Shipped("JPGExtended.dcm", tolerance=_ROUNDED),
    _Shipped("SC_rgb_jpeg_gdcm.dcm"),
    _Made("CT_small.dcm", JPEGLosslessSV1, _jpeg_lossless(1)),
    _Made("MR_small.dcm", JPEGLossless, _jpeg_lossless(6)),
    _Shipped("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
    _Made("CT_small.dcm", JPEGLSLossless, _jpeg_ls),
    _Shipped("JPEGLSNearLossless_16.dcm"),
    _Shipped("SC_rgb_jls_lossy_sample.dcm"),
    _Shipped("MR_small_RLE.dcm", "MR_small.dcm"),
    _Shipped("SC_rgb_rle_2frame.dcm"),
    _Shipped("SC_rgb_rle_16bit.dcm"),
    _Shipped("image_dfl.dcm"),
    _Shipped("CT_small.dcm"),
)


def make() -> list[Sample]:
    """All samples, as one new study of a fictitious patient."""
    study = generate_uid()
    return [
        _shipped(sample, study) if isinstance(sample, _Shipped) else _made(sample, study)
        for sample in _SAMPLES
    ]


def frames_of(dataset: Dataset) -> Frames:
    """All frames of an image, decoded; colour as RGB."""
    syntax = dataset.file_meta.TransferSyntaxUID
    decode = _DECODERS.get(syntax)
    if decode is None:
        frames = pixel_array(dataset, raw=True)
        colour = str(dataset.PhotometricInterpretation)
        # OpenJPEG has already undone the colour transforms of JPEG 2000.
        if syntax in _NATIVE and colour.startswith("YBR_FULL"):
            frames = convert_color_space(frames, colour, "RGB", per_frame=True)
    else:
        number = int(dataset.get("NumberOfFrames", 1))
        streams = generate_frames(dataset.PixelData, number_of_frames=number)
        frames = np.stack([decode(stream, dataset) for stream in streams])
    one = 3 if dataset.SamplesPerPixel > 1 else 2
    return frames[np.newaxis] if frames.ndim == one else frames


def _jpeg(stream: bytes, dataset: Dataset) -> Frames:
    if dataset.SamplesPerPixel == 1:
        frame = imagecodecs.jpeg8_decode(stream)
    else:
        stored = "YCBCR" if dataset.PhotometricInterpretation.startswith("YBR") else "RGB"
        frame = imagecodecs.jpeg8_decode(stream, colorspace=stored, outcolorspace="RGB")
    return _as_described(frame, dataset)


def _jpeg_ls_decoded(stream: bytes, dataset: Dataset) -> Frames:
    return _as_described(imagecodecs.jpegls_decode(stream), dataset)


def _as_described(frame: Frames, dataset: Dataset) -> Frames:
    kind = "i" if dataset.PixelRepresentation else "u"
    return frame.view(f"{kind}{frame.dtype.itemsize}")


_DECODERS: dict[UID, Callable[[bytes, Dataset], Frames]] = {
    JPEGBaseline8Bit: _jpeg,
    JPEGExtended12Bit: _jpeg,
    JPEGLossless: _jpeg,
    JPEGLosslessSV1: _jpeg,
    JPEGLSLossless: _jpeg_ls_decoded,
    JPEGLSNearLossless: _jpeg_ls_decoded,
}


def _shipped(sample: _Shipped, study: str) -> Sample:
    dataset = dcmread(_FOLDER / sample.name)
    frames = frames_of(dcmread(_FOLDER / sample.original) if sample.original else dataset)
    return Sample(sample.name, _with_new_uids(dataset, study), frames, sample.tolerance)


def _made(sample: _Made, study: str) -> Sample:
    dataset = dcmread(_FOLDER / sample.name)
    frames = frames_of(dataset)
    dataset.PixelData = encapsulate([sample.encode(frame) for frame in frames])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = sample.syntax
    return Sample(f"{sample.name} encoded here", _with_new_uids(dataset, study), frames, _EXACT)


def _with_new_uids(dataset: Dataset, study: str) -> Dataset:
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.StudyInstanceUID = study
    dataset.PatientName = "Sample^Demo"
    dataset.PatientID = "DEMO"
    return dataset
