"""Who is admitted is decided by the settings alone."""

from pathlib import Path

import pytest

from ingest.admission import SILENT_LONG, Admitted, Rejected, Standing, admit, plain_address
from tests.support.stages.ingesting import settings_for

NOBODY_THERE = Path("/nonexistent")
DESTINATIONS = [
    {"name": name, "title": "WS", "host": "127.0.0.1", "port": 104} for name in ("reading-room", "archive")
]


def rejection(decision: Admitted | Rejected) -> tuple[int, int, int]:
    assert isinstance(decision, Rejected), decision
    return decision.result, decision.source, decision.reason


def other(host: str, silent: float = 0.0, *, named: bool = False) -> Standing:
    return Standing(host, named, silent)


def test_an_ae_title_that_is_not_ours_is_answered_called_ae_title_not_recognised() -> None:
    decision = admit(settings_for(NOBODY_THERE), "PACS", "OTHER", "10.0.0.1")
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
    decision = admit(settings, calling, "FERRY", address)
    if admitted:
        assert isinstance(decision, Admitted)
    else:
        assert rejection(decision) == (1, 1, 3)


def test_an_empty_list_of_callers_admits_nobody() -> None:
    settings = settings_for(NOBODY_THERE, ae=[{"title": "FERRY", "callers": []}])
    assert rejection(admit(settings, "PACS", "FERRY", "10.0.0.1")) == (1, 1, 3)


def test_one_association_more_than_allowed_is_a_transient_local_limit() -> None:
    settings = settings_for(NOBODY_THERE, ingest={"max_associations": 2})
    assert isinstance(admit(settings, "PACS", "FERRY", "10.0.0.1", standing=[other("a")]), Admitted)
    assert rejection(admit(settings, "PACS", "FERRY", "10.0.0.1", standing=[other("a")] * 2)) == (2, 3, 2)


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
    decision = admit(settings, "CT1", "FERRY", "10.0.0.1")
    assert isinstance(decision, Admitted)
    assert decision.destinations == ("reading-room", "archive")
    assert "route 1" in decision.route
    assert "route 2" not in decision.route
    assert "route 3" in decision.route


def test_an_association_that_no_route_takes_is_admitted_without_destinations() -> None:
    settings = settings_for(NOBODY_THERE, route=[{"calling": "CT1", "to": ["ws1"]}])
    decision = admit(settings, "MR1", "FERRY", "10.0.0.1")
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
        return rejection(admit(settings, calling, called, "10.0.0.1", shortage="spool has 3 MB"))

    assert answer("PACS", "FERRY") == (2, 3, 2)
    assert answer("OTHER", "FERRY") == (1, 1, 3)
    assert answer("PACS", "OTHER") == (1, 1, 7)


LONG, LONGER = SILENT_LONG, SILENT_LONG + 1
HOST, ELSE = "10.0.0.1", "10.0.0.2"
PER_HOST, ALL = "(ingest.max_associations_per_host)", "(ingest.max_associations)"


@pytest.mark.parametrize(
    ("calling", "standing", "ends"),
    [
        # There are four places, two for an address, and one is kept for named callers.
        ("ANY", [], ()),
        ("ANY", [other(HOST)], ()),
        ("ANY", [other(HOST), other(HOST)], PER_HOST),
        ("ANY", [other(HOST, LONG - 0.1), other(HOST)], PER_HOST),
        ("ANY", [other(HOST, LONG), other(HOST)], (0,)),
        ("ANY", [other(HOST, LONG), other(HOST, LONGER)], (1,)),
        ("ANY", [other(HOST), other(HOST), other(ELSE, LONGER)], PER_HOST),  # of its own alone
        ("ANY", [other(ELSE)] * 3, "1 more places are kept for those"),
        ("ANY", [other(ELSE), other(ELSE, LONG), other(ELSE, LONGER)], (2,)),
        ("ANY", [other(ELSE), other(ELSE), other(ELSE, named=True)], ()),
        (
            "ANY",
            [other(ELSE), other(ELSE), other(ELSE, LONGER, named=True), other("c")],
            "1 more places are kept for those",
        ),
        ("PACS", [other(ELSE)] * 3, ()),
        ("PACS", [other(ELSE)] * 4, ALL),
        ("PACS", [other(HOST, named=True)] * 2, PER_HOST),
        ("PACS", [other(ELSE), other(ELSE), other(ELSE, LONGER, named=True), other("c", LONG)], (3,)),
        ("PACS", [other(ELSE), other(ELSE), other(ELSE, LONGER, named=True), other("c")], (2,)),
        # One that goes may make place in several respects, or another has to go too.
        ("PACS", [other(HOST, LONG), other(HOST), other("b", LONGER), other("c")], (0,)),
        ("PACS", [other(HOST, LONG), other(HOST), other("b", LONGER), other("c"), other("d")], (0, 2)),
        ("PACS", [other(HOST, LONG), other(HOST), other("b"), other("c"), other("d")], ALL),
    ],
)
def test_who_gets_a_place_and_who_gives_way(
    calling: str, standing: list[Standing], ends: tuple[int, ...] | str
) -> None:
    settings = settings_for(
        NOBODY_THERE,
        ingest={"max_associations": 4, "max_associations_per_host": 2},
        ae=[{"title": "FERRY"}, {"title": "CLOSED", "callers": [{"title": "PACS", "host": HOST}]}],
    )
    decision = admit(settings, calling, "FERRY", HOST, standing=standing)
    if isinstance(ends, str):
        assert rejection(decision) == (2, 3, 2)
        assert isinstance(decision, Rejected)
        assert ends in decision.why
        assert "(ingest.max_associations" in decision.why
    else:
        assert isinstance(decision, Admitted), decision
        assert decision.instead_of == ends
        assert decision.named is (calling == "PACS")


def test_a_rejection_for_the_limit_of_an_address_names_it() -> None:
    settings = settings_for(NOBODY_THERE, ingest={"max_associations_per_host": 1})
    decision = admit(settings, "PACS", "FERRY", "::ffff:10.0.0.1", standing=[other(HOST)])
    assert isinstance(decision, Rejected)
    assert HOST in decision.why


def test_where_nobody_is_named_no_place_is_kept() -> None:
    settings = settings_for(NOBODY_THERE, ingest={"max_associations": 4})
    assert isinstance(admit(settings, "PACS", "FERRY", HOST, standing=[other(ELSE)] * 3), Admitted)


def test_a_full_spool_ends_nobodys_association_for_another() -> None:
    settings = settings_for(NOBODY_THERE, ingest={"max_associations": 1})
    decision = admit(settings, "PACS", "FERRY", HOST, standing=[other(ELSE, LONGER)], shortage="full")
    assert rejection(decision) == (2, 3, 2)
