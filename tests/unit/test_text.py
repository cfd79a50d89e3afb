"""What peers and files say is shown in one line, without anything that a terminal or a log would obey."""

import pytest

from dicomferry.text import LONGEST_VALUE, shown, shown_lines, shown_value

UNFIT = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ("MONOCHROME2", "MONOCHROME2"),
        ("", ""),
        ("A[/b]", "A[/b]"),  # markup is text
        ("Größe 学", "Größe 学"),
        ("X\nFAKE log line", f"X{UNFIT}FAKE log line"),
        ("a\r\nb\tc", f"a{UNFIT * 2}b{UNFIT}c"),
        ("\x1b[31mred\x1b[0m", f"{UNFIT}[31mred{UNFIT}[0m"),  # C0
        ("\x9b31m \x85", f"{UNFIT}31m {UNFIT}"),  # C1
        ("\x7f\x00", UNFIT * 2),
        ("\u202egnp.exe\u2066\u200f", f"{UNFIT}gnp.exe{UNFIT * 2}"),  # bidirectional
        ("a\u2028b\u2029", f"a{UNFIT}b{UNFIT}"),
        ("a\u200bb\ufeff\u00ad", f"a{UNFIT}b{UNFIT * 2}"),  # unseen
        ("\udcff.dcm", f"{UNFIT}.dcm"),  # a file name that is no UTF-8
        ("\U000e0041", UNFIT),  # a tag character
    ],
)
def test_each_character_has_a_glyph_or_is_replaced(said: str, seen: str) -> None:
    assert shown(said) == shown_value(said) == seen


def test_a_value_that_is_too_long_is_cut_and_ends_so() -> None:
    assert shown_value("1" * LONGEST_VALUE) == "1" * LONGEST_VALUE
    cut = shown_value("1" * 100_000)
    assert len(cut) == LONGEST_VALUE
    assert cut.endswith("1...")


def test_the_lines_of_a_message_of_ours_stay_lines() -> None:
    assert shown_lines("a\x1b\nb") == f"a{UNFIT}\nb"
