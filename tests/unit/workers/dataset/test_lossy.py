"""A lossy rendition is another instance, and says how it came to be."""

from io import BytesIO

import pytest
from pydicom import dcmread
from pydicom.uid import UID

from dicomferry.errors import Unsuitable
from workers.codecs.encoders import Quality
from workers.dataset import attributes, lossy

J2K, JPEG, NEAR = (f"1.2.840.10008.1.2.4.{suffix}" for suffix in ("91", "50", "81"))
RATIO, METHOD, LOSSY, TYPE, DESCRIPTION = 0x00282112, 0x00282114, 0x00282110, 0x00080008, 0x00082111
INSTANCE = ("1.2.840.10008.5.1.4.1.1.2", "1.2.3")


def changed(values: dict[int, bytes], uid: str = J2K, ratio: float = 12.5) -> dict[int, bytes]:
    made = lossy.changes(values, uid, Quality(), ratio, INSTANCE)
    return {tag: value for tag, (_, value) in made.items()}


def test_a_repeat_has_the_same_uid_and_other_parameters_another() -> None:
    uid = lossy.derived_uid("1.2.3", J2K, Quality())
    assert uid == lossy.derived_uid("1.2.3", J2K, Quality())
    others = {
        lossy.derived_uid("1.2.4", J2K, Quality()),
        lossy.derived_uid("1.2.3", JPEG, Quality()),
        lossy.derived_uid("1.2.3", J2K, Quality(ratio=11.0)),
    }
    assert len(others | {uid}) == 4


def test_what_the_encoder_does_not_obey_makes_no_other_instance() -> None:
    assert lossy.derived_uid("1.2.3", J2K, Quality(near=3)) == lossy.derived_uid("1.2.3", J2K, Quality())


def test_the_uid_is_a_valid_one() -> None:
    for number in range(200):
        uid = UID(lossy.derived_uid(f"1.2.{number}", NEAR, Quality()))
        assert uid.is_valid
        assert uid.startswith("2.25.")


def test_an_image_without_history_gets_its_first() -> None:
    made = changed({TYPE: b"ORIGINAL\\PRIMARY\\AXIAL "})
    assert made[LOSSY] == b"01"
    assert made[RATIO] == b"12.5"
    assert made[METHOD] == b"ISO_15444_1 "
    assert made[TYPE] == b"DERIVED\\PRIMARY\\AXIAL"[:21] + b" "
    assert made[DESCRIPTION].startswith(b"J2KLossy ratio 10, ratio 12.5")


def test_history_is_continued_never_replaced() -> None:
    before = {
        TYPE: b"DERIVED\\SECONDARY ",
        LOSSY: b"01",
        RATIO: b"7.3\\2 ",
        METHOD: b"ISO_10918_1\\ISO_15444_1 ",
        DESCRIPTION: b"cropped ",
    }
    made = changed(before, JPEG, 4)
    assert made[RATIO] == b"7.3\\2\\4 "
    assert made[METHOD].strip() == b"ISO_10918_1\\ISO_15444_1\\ISO_10918_1"
    assert made[DESCRIPTION].startswith(b"cropped; JPEG quality 90")
    assert made[TYPE] == before[TYPE]


def test_a_method_that_was_never_told_stays_empty_so_that_the_rest_corresponds() -> None:
    made = changed({LOSSY: b"01", RATIO: b"7.3 "})
    assert made[RATIO].strip().split(b"\\") == [b"7.3", b"12.5"]
    assert made[METHOD].strip().split(b"\\") == [b"", b"ISO_15444_1"]


def test_a_full_description_is_not_cut_to_make_room() -> None:
    assert DESCRIPTION not in changed({DESCRIPTION: b"x" * 1020})


def test_a_history_that_was_not_read_whole_is_not_continued() -> None:
    with pytest.raises(Unsuitable, match="history"):
        changed({RATIO: b"1\\" * (attributes.LONGEST_READ // 2)})


def test_the_items_name_the_old_instance_and_what_was_done_to_it() -> None:
    items = lossy.appended(*INSTANCE)
    source = dcmread(BytesIO(items[0x00082112][8:]), force=True)
    assert source.ReferencedSOPInstanceUID == "1.2.3"
    assert source.ReferencedSOPClassUID == INSTANCE[0]
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121320"
    assert dcmread(BytesIO(items[0x00089215][8:]), force=True).CodeValue == "113040"
