"""Who is admitted is decided by the settings alone."""

from pathlib import Path

import pytest

from ingest.admission import Admitted, Rejected, admit, plain_address
from tests.support.ingesting import settings_for

NOBODY_THERE = Path("/nonexistent")
DESTINATIONS = [
    {"name": name, "title": "WS", "host": "127.0.0.1", "port": 104} for name in ("reading-room", "archive")
]


def rejection(decision: Admitted | Rejected) -> tuple[int, int, int]:
    assert isinstance(decision, Rejected), decision
    return decision.result, decision.source, decision.reason


def test_an_ae_title_that_is_not_ours_is_answered_called_ae_title_not_recognised() -> None:
    decision = admit(settings_for(NOBODY_THERE), "PACS", "OTHER", "10.0.0.1", associations=1)
    assert rejection(decision) == (1, 1, 7)


@pytest.mark.parametrize(
    ("calling", "address", "admitted"),
    [
        ("PACS", "10.0.0.1", True),
        ("PACS", "::ffff:10.0.0.1", True),
        ("PACS", "10.0.0.2", False),
        ("ANYWHERE", "10.0.0.2", True),
        ("pacs", "10.0.0.1", False),
        ("OTHER", "10.0.0.1", False),
    ],
)
def test_only_named_callers_are_admitted_and_only_from_their_host(
    calling: str, address: str, admitted: bool
) -> None:
    callers = [{"title": "PACS", "host": "10.0.0.1"}, {"title": "ANYWHERE"}]
    settings = settings_for(NOBODY_THERE, ae=[{"title": "FERRY", "callers": callers}])
    decision = admit(settings, calling, "FERRY", address, associations=1)
    if admitted:
        assert isinstance(decision, Admitted)
    else:
        assert rejection(decision) == (1, 1, 3)


def test_an_empty_list_of_callers_admits_nobody() -> None:
    settings = settings_for(NOBODY_THERE, ae=[{"title": "FERRY", "callers": []}])
    assert rejection(admit(settings, "PACS", "FERRY", "10.0.0.1", associations=1)) == (1, 1, 3)


def test_one_association_more_than_allowed_is_a_transient_local_limit() -> None:
    settings = settings_for(NOBODY_THERE, ingest={"max_associations": 2})
    assert isinstance(admit(settings, "PACS", "FERRY", "10.0.0.1", associations=2), Admitted)
    assert rejection(admit(settings, "PACS", "FERRY", "10.0.0.1", associations=3)) == (2, 3, 2)


def test_all_routes_that_take_the_association_are_followed_each_destination_once() -> None:
    settings = settings_for(
        NOBODY_THERE,
        destination=DESTINATIONS,
        route=[
            {"calling": "CT*", "to": ["reading-room"]},
            {"host": "10.9.*", "to": ["archive"]},
            {"to": ["archive", "reading-room"]},
        ],
    )
    decision = admit(settings, "CT1", "FERRY", "10.0.0.1", associations=1)
    assert isinstance(decision, Admitted)
    assert decision.destinations == ("reading-room", "archive")
    assert "route 1" in decision.route
    assert "route 2" not in decision.route
    assert "route 3" in decision.route


def test_an_association_that_no_route_takes_is_admitted_without_destinations() -> None:
    settings = settings_for(NOBODY_THERE, route=[{"calling": "CT1", "to": ["ws1"]}])
    decision = admit(settings, "MR1", "FERRY", "10.0.0.1", associations=1)
    assert isinstance(decision, Admitted)
    assert decision.destinations == ()


@pytest.mark.parametrize(
    ("address", "plain"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1"), ("10.0.0.1", "10.0.0.1")],
)
def test_addresses_are_written_as_in_settings(address: str, plain: str) -> None:
    assert plain_address(address) == plain


def test_a_spool_without_room_is_a_transient_local_limit_and_told_only_to_those_who_may_call() -> None:
    settings = settings_for(NOBODY_THERE, ae=[{"title": "FERRY", "callers": [{"title": "PACS"}]}])

    def answer(calling: str, called: str) -> tuple[int, int, int]:
        return rejection(
            admit(settings, calling, called, "10.0.0.1", associations=1, shortage="spool has 3 MB")
        )

    assert answer("PACS", "FERRY") == (2, 3, 2)
    assert answer("OTHER", "FERRY") == (1, 1, 3)
    assert answer("PACS", "OTHER") == (1, 1, 7)
