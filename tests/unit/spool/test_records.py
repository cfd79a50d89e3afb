"""The record of a rendition in its own File Meta Information."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from dicomferry.dicom.part10 import dataset_offset, file_header, read_meta
from dicomferry.dicom.syntaxes import EXPLICIT_LE
from dicomferry.spool import records

DATA_SET = b"\x08\x00\x60\x00CS\x02\x00MR"


def with_record(path: Path, record: dict[str, Any] | None) -> Path:
    head = file_header("1.2.3", "1.2.3.4", EXPLICIT_LE, records.ROOM)
    file = BytesIO(head + DATA_SET)
    if record is not None:
        records.fill(file, len(head), record)
    path.write_bytes(file.getvalue())
    return path


def test_a_record_comes_back_as_it_was_and_the_data_set_stays(tmp_path: Path) -> None:
    record = {"schema": 1, "notes": "YBR_RCT became RGB", "psnr": None, "max_error": 3}
    path = with_record(tmp_path / "a.dcm", record)
    assert records.read(path) == record
    assert path.read_bytes()[dataset_offset(path) :] == DATA_SET
    assert read_meta(path).sop_instance_uid == "1.2.3.4"


def test_others_read_a_file_with_a_record_as_they_do_any_other(tmp_path: Path) -> None:
    found = dcmread(with_record(tmp_path / "a.dcm", {"schema": 1}))
    assert found.Modality == "MR"
    assert found.file_meta.TransferSyntaxUID == EXPLICIT_LE
    assert found.file_meta.PrivateInformationCreatorUID.is_valid
    assert len(found.file_meta.PrivateInformation) == len(records.ROOM)


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f6a2", '"'])
def test_notes_that_are_too_long_are_cut_and_nothing_else(tmp_path: Path, letter: str) -> None:
    record = {"schema": 1, "notes": letter * 3000, "verified": "verified: pixels equal"}
    path = with_record(tmp_path / "a.dcm", record)
    found = records.read(path)
    assert found is not None
    notes = found.pop("notes")
    assert found == {"schema": 1, "verified": "verified: pixels equal"}
    assert notes.endswith(" ...")
    assert set(notes.removesuffix(" ...")) <= {letter}
    assert path.read_bytes()[dataset_offset(path) :] == DATA_SET


def test_what_can_never_fit_leaves_the_data_set_alone_all_the_same(tmp_path: Path) -> None:
    path = with_record(tmp_path / "a.dcm", {"verified": "x" * 3000})
    assert records.read(path) is None
    assert path.read_bytes()[dataset_offset(path) :] == DATA_SET


def test_files_without_a_record_have_none(tmp_path: Path) -> None:
    assert records.read(with_record(tmp_path / "empty.dcm", None)) is None
    plain = tmp_path / "plain.dcm"
    plain.write_bytes(file_header("1.2.3", "1.2.3.4", EXPLICIT_LE) + DATA_SET)
    assert records.read(plain) is None
    plain.write_bytes(b"no DICOM")
    assert records.read(plain) is None
    with pytest.raises(FileNotFoundError):
        records.read(tmp_path / "gone.dcm")
