"""The table of transfer syntaxes agrees with the registries of others and with itself."""

import pynetdicom  # noqa: F401  it adds the newest syntaxes to pydicom's table
import pytest
from pydicom.uid import UID

from dicomferry.dicom.syntaxes import (
    BEST_LOSSLESS,
    BY_UID,
    EXPLICIT_LE,
    GROUPS,
    IMPLICIT_LE,
    TABLE,
    keyword,
    label,
    resolve,
)
from dicomferry.errors import Misconfigured

# Retired, or no transfer syntax of a data set: nobody may propose them.
_LEFT_OUT = {"1.2.840.10008.1.20", "1.2.840.10008.1.2.6.1", "1.2.840.10008.1.2.6.2"}


def test_every_uid_and_keyword_is_that_of_ps3_6() -> None:
    for syntax in TABLE:
        uid = UID(syntax.uid)
        assert uid.is_transfer_syntax, syntax
        assert uid.keyword in (syntax.keyword, ""), syntax


def test_no_transfer_syntax_in_use_is_left_out() -> None:
    from pydicom import uid as registry

    known = {str(uid) for uid in registry.AllTransferSyntaxes} - _LEFT_OUT
    assert known - BY_UID.keys() == set()


def test_uids_keywords_and_labels_are_unique() -> None:
    for name in ("uid", "keyword", "label"):
        values = [getattr(syntax, name) for syntax in TABLE]
        assert len(values) == len(set(values))


def test_native_and_deflated_syntaxes_alone_have_no_fragments() -> None:
    native = {syntax.uid for syntax in TABLE if syntax.native}
    assert native == {uid for uid in BY_UID if not UID(uid).is_encapsulated}


def test_the_planners_preference_is_lossless_only() -> None:
    assert all(BY_UID[uid].lossless for uid in BEST_LOSSLESS)
    assert len(BEST_LOSSLESS) == len(set(BEST_LOSSLESS))
    assert BEST_LOSSLESS[-2:] == (EXPLICIT_LE, IMPLICIT_LE)


def test_groups_hold_every_syntax_once() -> None:
    members = [uid for group, uids in GROUPS.items() if group != "all" for uid in uids]
    assert sorted(members) == sorted(BY_UID)
    assert set(GROUPS["all"]) == BY_UID.keys()


def test_names_are_resolved_in_the_order_in_which_they_are_written_each_once() -> None:
    names = ["JPEGLSLossless", "uncompressed", IMPLICIT_LE, "1.2.840.10008.1.2.4.80"]
    assert resolve(names) == ("1.2.840.10008.1.2.4.80", *GROUPS["uncompressed"])


@pytest.mark.parametrize(
    ("name", "hint"),
    [("jpg2000", "'jpeg2000'"), ("JPEGLSLosless", "'JPEGLSLossless'"), ("Uncompressed", "'uncompressed'")],
)
def test_a_misspelt_name_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(Misconfigured, match=f"unknown transfer syntax '{name}'; did you mean {hint}"):
        resolve([name])


def test_a_name_like_no_other_is_answered_with_what_there_is() -> None:
    with pytest.raises(
        Misconfigured, match=r"it takes a UID, a PS3\.6 keyword or one of uncompressed, deflated"
    ):
        resolve(["qqqqqqqq"])


def test_an_unknown_uid_stands_for_itself() -> None:
    assert label("1.2.3") == keyword("1.2.3") == "1.2.3"
