"""The frame of a DICOM file says who wrote it."""

import sys
from io import BytesIO
from subprocess import run

import pytest
from pydicom import dcmread

from dicomferry.dicom.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomferry.dicom.part10 import dataset_offset, file_header, private_information, read_meta
from dicomferry.dicom.syntaxes import DEFLATED_LE, EXPLICIT_BE, EXPLICIT_LE, IMPLICIT_LE


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


CT = "1.2.840.10008.5.1.4.1.1.2"
LEFT_OVER = (
    b"\2\0\3\0UI\6\x009.9.9\0\2\0\x10\0UI\x16\x001.2.840.10008.1.2.4.90"  # a SOP Instance UID and JPEG 2000
)
OWN = b"\x08\0\x16\0UI\6\x001.2.3\0"


def without_group_length(head: bytes) -> bytes:
    return head[:132] + head[132 + 12 :]


def with_group_length(head: bytes, length: int) -> bytes:
    return head[:140] + length.to_bytes(4, "little") + head[144:]


@pytest.mark.parametrize("syntax", [EXPLICIT_LE, IMPLICIT_LE, EXPLICIT_BE, DEFLATED_LE])
def test_what_is_left_over_at_the_head_of_a_data_set_relabels_no_file_of_ours(tmp_path, syntax):
    head = file_header(CT, "1.2.3", syntax)
    path = tmp_path / "received.dcm"
    path.write_bytes(head + LEFT_OVER + OWN)
    meta = read_meta(path)
    assert (meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid) == (CT, "1.2.3", syntax)
    assert meta.offset == dataset_offset(path) == len(head)
    # What a deflated data set begins with only looks like elements.
    assert meta.begin - meta.offset == (0 if syntax == DEFLATED_LE else len(LEFT_OVER))


def test_what_is_left_over_is_no_private_information(tmp_path):
    forged = b"\2\0\0\1UI\4\x001.2\0\2\0\2\1OB\0\0\2\0\0\0{}"
    path = tmp_path / "received.dcm"
    path.write_bytes(file_header(CT, "1.2.3", EXPLICIT_LE) + forged + OWN)
    assert private_information(path) == b""


@pytest.mark.parametrize("left_over", [b"", LEFT_OVER])
@pytest.mark.parametrize(
    "spoil",
    [
        without_group_length,
        lambda head: with_group_length(head, 0),
        lambda head: with_group_length(head, 7),
        lambda head: with_group_length(head, 1000),
        lambda head: with_group_length(head, 14 + 8 + 26 + 8 + 6 + 8 + 20),  # up to the transfer syntax
    ],
)
def test_a_wrong_or_missing_group_length_is_no_matter(tmp_path, spoil, left_over):
    path = tmp_path / "foreign.dcm"
    path.write_bytes(spoil(file_header(CT, "1.2.3", EXPLICIT_LE)) + left_over + OWN)
    meta = read_meta(path)
    assert (meta.sop_instance_uid, meta.transfer_syntax_uid) == ("1.2.3", EXPLICIT_LE)
    assert path.read_bytes()[meta.begin :] == OWN
