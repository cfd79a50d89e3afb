"""The frame of a DICOM file (PS3.10 section 7.1): preamble, prefix, File Meta Information."""

import struct
from pathlib import Path

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom import PYNETDICOM_IMPLEMENTATION_UID, PYNETDICOM_IMPLEMENTATION_VERSION

from dicomferry.errors import Permanent

PREFIX_LENGTH = 132


def frame(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> bytes:
    """The bytes that come before the data set in a file: preamble, ``DICM`` and File Meta Information.

    They depend on the arguments alone, so that a rendition's bytes depend only on its input.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = PYNETDICOM_IMPLEMENTATION_UID
    meta.ImplementationVersionName = PYNETDICOM_IMPLEMENTATION_VERSION
    buffer = DicomBytesIO()
    buffer.write(b"\x00" * 128 + b"DICM")
    write_file_meta_info(buffer, meta, enforce_standard=True)
    return buffer.getvalue()


def dataset_offset(path: Path) -> int:
    """Where the data set starts in the file at `path`, from (0002,0000) File Meta Information Group Length.

    Raises:
        Permanent: `path` is no DICOM file.
    """
    with path.open("rb") as file:
        head = file.read(PREFIX_LENGTH + 12)
    if len(head) < PREFIX_LENGTH + 12 or head[128:132] != b"DICM" or head[132:136] != b"\x02\x00\x00\x00":
        raise Permanent(f"{path.name} is no DICOM file: no DICM prefix and group length (PS3.10 7.1)")
    return PREFIX_LENGTH + 12 + int(struct.unpack_from("<I", head, 140)[0])
