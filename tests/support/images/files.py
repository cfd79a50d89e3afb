"""Images to send, and the independent decoders that say what their pixels are."""

import subprocess
from pathlib import Path

import data_store
import pydicom.data
from pydicom import dcmread
from pydicom.uid import generate_uid

from tests.support.running.services import program

_SHIPPED = Path(pydicom.data.__file__).parent / "test_files"
_PYDICOM_DATA = Path(data_store.__file__).parent / "data"


def shipped(name: str) -> Path:
    """A file that pydicom or pydicom-data ships; never downloaded."""
    for folder in (_SHIPPED, _PYDICOM_DATA):
        if (folder / name).exists():
            return folder / name
    raise FileNotFoundError(name)


def fresh_copies(name: str, count: int, folder: Path, **elements: str) -> list[Path]:
    """Copies of a shipped file, each a new SOP instance; `elements` are set in the data set by keyword."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = dcmread(shipped(name))
    copies = []
    for number in range(count):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        copies.append(folder / f"{Path(name).stem}-{number}.dcm")
        dataset.save_as(copies[-1], enforce_file_format=True)
    return copies


def uid_of(path: Path) -> str:
    return str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID)


def syntax_of(path: Path) -> str:
    return str(dcmread(path, specific_tags=["SOPInstanceUID"]).file_meta.TransferSyntaxUID)


def native_pixels(path: Path) -> bytes:
    """Pixel Data of a file in a native syntax: no decoder has a part in it."""
    dataset = dcmread(path)
    assert not dataset.file_meta.TransferSyntaxUID.is_encapsulated, path
    length = (
        dataset.Rows * dataset.Columns * dataset.SamplesPerPixel
        * int(dataset.get("NumberOfFrames") or 1) * dataset.BitsAllocated // 8
    )  # fmt: skip
    return bytes(dataset.PixelData[:length])


def gdcm_pixels(path: Path, work: Path) -> bytes:
    """The pixels of a file as GDCM decodes them."""
    target = work / f"{path.stem}.gdcm.dcm"
    subprocess.run([program("gdcmconv"), "--raw", str(path), str(target)], check=True, capture_output=True)
    return native_pixels(target)
