"""The frame of a DICOM file says who wrote it."""

import sys
from io import BytesIO
from subprocess import run

from pydicom import dcmread

from dicomferry.dicom.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomferry.dicom.part10 import file_header
from dicomferry.dicom.syntaxes import EXPLICIT_LE


def test_file_and_association_name_the_same_implementation():
    meta = dcmread(BytesIO(file_header("1.2.840.10008.5.1.4.1.1.2", "1.2.3", EXPLICIT_LE))).file_meta
    assert meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert meta.ImplementationVersionName == IMPLEMENTATION_VERSION_NAME


def test_whoever_transcodes_loads_neither_pydicom_nor_pynetdicom():
    seen = (
        "import sys, workers.transcode as t\n"
        "t.file_header('1.2', '1.3', '1.2.840.10008.1.2'); print(*sys.modules)"
    )
    loaded = run([sys.executable, "-c", seen], capture_output=True, text=True, check=True).stdout.split()
    assert "imagecodecs" in loaded
    assert not {"pydicom", "pynetdicom", "celery"} & set(loaded)
