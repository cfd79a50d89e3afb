"""The law by which docs/scaling.md says what limits: held to what it claims, at figures easy to check."""

from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.report.scaling import (
    WORKERS,
    Capacities,
    Costs,
    Part,
    layout,
    markdown,
    parts,
    rate_on_shared_cores,
    throughput,
)

COSTS = Costs(
    ms={"worker": 20.0, "dispatcher": 4.0, "redis": 0.5, "ingest": 2.0, "forwarder": 2.5},
    written=1e6, received=0.5e6, sent=1e6, syncs=6,
)  # fmt: skip
CAPACITIES = Capacities(disk=1e9, syncs=1200, link=10e9, association=200, workers_ahead=16)
WORKER = 50.0  # objects a second
CARRIES = {
    "dispatcher": 250, "redis": 2000, "ingest": 500, "forwarder": 400, "disk": 1000, "syncs": 200,
    "link": 1250, "file server": 10e9 / 8 / 1.5e6, "association": 200, "lane": 800,
}  # fmt: skip
FOUND = parts(COSTS, CAPACITIES)
OWN = [part for part in FOUND if part.scales_by != "peer"]


@pytest.mark.parametrize("name", CARRIES)
def test_a_part_carries_what_its_measured_cost_allows(name):
    (part,) = (part for part in FOUND if part.name.lower() == name)
    assert part.carries == pytest.approx(CARRIES[name])


def test_what_limits_first_stands_first():
    assert all(one.carries <= two.carries for one, two in pairwise(FOUND))


def test_an_association_that_was_not_measured_is_left_out():
    assert "association" not in {part.name for part in parts(COSTS, replace(CAPACITIES, association=None))}


@pytest.mark.parametrize(
    ("workers", "carried", "limit"),
    [(1, 50, WORKERS), (2, 100, WORKERS), (4, 200, WORKERS), (5, 200, "syncs"), (1000, 200, "syncs")],
)
def test_objects_go_as_fast_as_the_slowest_part(workers, carried, limit):
    point = throughput(workers, WORKER, FOUND)
    assert (point.offered, point.carried, point.limit) == (50 * workers, carried, limit)
    assert point.used[limit] == 1
    assert point.used["dispatcher"] == pytest.approx(carried / 250)
    assert point.used[WORKERS] == pytest.approx(carried / (50 * workers))


@pytest.mark.parametrize("part", OWN, ids=lambda part: part.name)
def test_a_part_limits_from_one_worker_more_than_it_is_enough_for(part):
    enough = part.enough_for(WORKER)
    assert throughput(enough, WORKER, [part]).limit == WORKERS
    assert throughput(enough + 1, WORKER, [part]).limit == part.name


def test_destinations_are_asked_for_and_do_not_limit_the_rest():
    peer = Part("peer", "", 1, "", "peer")
    assert throughput(10, WORKER, [*FOUND, peer]) == throughput(10, WORKER, FOUND)
    assert layout(500, [*FOUND, peer]).peers == 500


@pytest.mark.parametrize("offered", [1, 50, 200, 201, 5000, 50_000])
def test_what_is_said_to_carry_everything_does_and_with_less_it_would_not(offered):
    found = layout(offered, FOUND)
    for part in FOUND:
        number = {"spool": found.spools, "peer": found.peers}.get(
            part.scales_by, found.spools * found.processes.get(part.name, 0)
        )
        assert offered <= number * part.carries
    assert offered > (found.spools - 1) * min(part.carries for part in FOUND if part.scales_by == "spool")
    assert offered > (found.peers - 1) * min(part.carries for part in FOUND if part.scales_by == "peer")
    for part in FOUND:
        if part.scales_by == "process":
            assert offered / found.spools > (found.processes[part.name] - 1) * part.carries


@pytest.mark.parametrize(("cores", "workers", "rate"), [(2, 1, 50), (2, 2, 62.5), (4, 2, 100), (4, 8, 125)])
def test_workers_share_the_cores_with_everything_else(cores, workers, rate):
    assert rate_on_shared_cores(cores, 32.0, workers, WORKER) == rate


def test_every_row_of_the_tables_has_a_cell_for_each_column():
    tables = markdown("J2K CT", WORKER, FOUND, [1, 10, 1000]).split("\n\n")
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert len(tables[0].splitlines()) == 2 + 1 + len(FOUND)
    assert "| 1,000 | 50,000 | 200 | syncs |" in tables[1]
