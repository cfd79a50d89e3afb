"""What a destination's answers mean, row by row."""

import pytest

from forwarder.outcome import Disposition, no_context, of_echo, of_rejection, of_status

DELIVERED, UNABLE = Disposition.DELIVERED, Disposition.UNABLE
REFUSED, DOUBTFUL = Disposition.REFUSED, Disposition.DOUBTFUL


@pytest.mark.parametrize(
    ("status", "disposition", "words"),
    [
        (0x0000, DELIVERED, "delivered"),
        (0x0111, DELIVERED, "had it already"),
        (0xB000, DELIVERED, "coerced"),
        (0xB006, DELIVERED, "discarded"),
        (0xB007, DELIVERED, "does not match SOP class"),
        (0xB123, DELIVERED, "with a warning"),
        (0x0107, DELIVERED, "attribute list error"),
        (0x0116, DELIVERED, "attribute value out of range"),
        (0xA700, UNABLE, "out of resources"),
        (0xA702, UNABLE, "out of resources"),
        (0xA7FF, UNABLE, "out of resources"),
        (0x0213, UNABLE, "resource limitation"),
        (0x0124, UNABLE, "not authorised"),
        (0xA800, REFUSED, "SOP class not supported"),
        (0xA900, REFUSED, "does not match SOP class"),
        (0xA9FF, REFUSED, "does not match SOP class"),
        (0xC000, REFUSED, "cannot understand"),
        (0xCFFF, REFUSED, "cannot understand"),
        (0x0122, REFUSED, "SOP class not supported"),
        (0x0117, REFUSED, "invalid SOP instance"),
        (0x0118, REFUSED, "no such SOP class"),
        (0x0119, REFUSED, "class-instance conflict"),
        (0x0106, REFUSED, "invalid attribute value"),
        (0x0120, REFUSED, "missing attribute"),
        (0x0110, DOUBTFUL, "processing failure"),
        (0x0210, DOUBTFUL, "duplicate invocation"),
        (0xFE00, DOUBTFUL, "cancelled"),
        (0xFF00, DOUBTFUL, "does not name"),
        (0xA600, DOUBTFUL, "does not name"),
        (0x1234, DOUBTFUL, "does not name"),
    ],
)
def test_each_status_has_a_disposition_and_words(status: int, disposition: Disposition, words: str) -> None:
    outcome = of_status(status)
    assert outcome.disposition is disposition
    assert words in outcome.words


def test_every_status_there_can_be_has_an_outcome_that_names_it() -> None:
    for status in range(1, 0x10000):
        assert f"0x{status:04X}" in of_status(status).words


def test_an_echo_is_a_success_or_has_a_reason() -> None:
    assert of_echo(0x0000) is None
    assert "not authorised" in str(of_echo(0x0124))


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        (1, 1, "no reason given"),
        (1, 2, "application context name not supported"),
        (1, 3, "calling AE title not recognised"),
        (1, 7, "called AE title not recognised"),
        (2, 2, "protocol version not supported"),
        (3, 1, "temporary congestion"),
        (3, 2, "local limit exceeded"),
        (3, 7, "source 3, reason 7"),
    ],
)
def test_a_rejection_is_told_apart_from_the_others(source: int, reason: int, words: str) -> None:
    assert words in of_rejection(source, reason)


def test_no_presentation_context_is_final_for_this_form() -> None:
    outcome = no_context("CT Image Storage", "J2K")
    assert outcome.disposition is REFUSED
    assert "CT Image Storage as J2K" in outcome.words
