"""What a batch's outcome is in a few words, and when it did nothing."""

from collections import Counter

import pytest

from forwarder.reports import BatchResult


@pytest.mark.parametrize(
    ("result", "words", "did_nothing"),
    [
        (BatchResult(delivered=3), "3 delivered", False),
        (BatchResult(), "0 delivered", False),  # retired meanwhile
        (BatchResult(before=2), "0 delivered, 2 delivered before", False),
        (BatchResult(refused=Counter({"0xC001": 3})), "0 delivered, 3 refused: 0xC001", True),
        (
            BatchResult(delivered=1, refused=Counter({"0xC001": 1, "0xA900": 1})),
            "1 delivered, 2 refused: 0xA900, 0xC001",
            False,
        ),
        (BatchResult(ended_by="unreachable: connection refused"), "unreachable: connection refused", True),
        (
            BatchResult(delivered=2, ended_by="unreachable: no answer (timeout)"),
            "2 delivered, then unreachable: no answer (timeout)",
            False,
        ),
        (
            BatchResult(before=1, ended_by="unreachable: x"),
            "0 delivered, 1 delivered before, then unreachable: x",
            True,
        ),
        (BatchResult(accepted="answers; accepts 3 of 1"), "answers; accepts 3 of 1", False),
    ],
)
def test_the_outcome_of_a_batch(result: BatchResult, words: str, did_nothing: bool) -> None:
    assert (result.words, result.did_nothing) == (words, did_nothing)
