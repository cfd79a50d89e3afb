"""AE titles and UIDs as peers pad them, and what is wrong with a UID."""

import pytest

from dicomferry.dicom.identifiers import is_uid, masked_uid, text_of, uid_fault


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"FERRY           ", "FERRY"),
        (b"  FERRY", "FERRY"),
        (b"FERRY\0xyz       ", "FERRY"),
        (b"FERRY \0\xff\xfe\n", "FERRY"),
        (b"\0FERRY\0", "FERRY"),
        (b"MY FERRY", "MY FERRY"),
        (b"1.2.3\0", "1.2.3"),
        (bytes(16), ""),
        (b"", ""),
    ],
)
def test_a_nul_ends_a_text_and_padding_is_none_of_it(value, text):
    assert text_of(value) == text


@pytest.mark.parametrize("uid", ["1.2.3", "0.1", "1." + "2" * 62, "2.25.1223720300052936840"])
def test_a_uid_has_no_fault(uid):
    assert uid_fault(uid) == ""
    assert is_uid(uid)
    assert masked_uid(uid) == uid


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("1." + "2" * 63, "more than 64"),
        ("1.2.SMITH^J", "other characters"),
        ("1.2\n", "other characters"),
        ("", "other characters"),
        ("1..2", "empty component"),
        ("1.2.", "empty component"),
        ("1.02", "leading zero"),
    ],
)
def test_the_fault_of_what_is_no_uid_is_named_without_quoting_it(text, fault):
    assert fault in uid_fault(text)
    assert text not in uid_fault(text) or not text


def test_what_is_shown_of_it_holds_no_name():
    assert masked_uid("1.2.SMITH^J\x1b[2J") == "1.2.?????????2?"
