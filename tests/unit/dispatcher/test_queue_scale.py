"""The queue manager under far more than it will see: nobody starves, and what is under way stays bounded."""

import pytest

from dispatcher.delivering import MAX_DELIVER_OBJECTS
from dispatcher.lanes import LOOKAHEAD
from dispatcher.rendering import MAX_TRANSCODE_INSTANCES, UNSTARTED
from tests.support.stages.hospital import Hospital, Report

pytestmark = pytest.mark.alone

WORKERS, LANES, OFF = 50, 200, 60


@pytest.fixture(scope="module")
def report() -> Report:
    return Hospital(40_000, LANES, OFF, workers=WORKERS).run()


def test_every_lane_that_answers_is_emptied_though_others_never_do(report):
    assert report.delivered == 40_000 * (LANES - OFF) // LANES


def test_no_lane_starves_while_it_has_something_left(report):
    # If all lanes took turns one object at a time it would be lanes / workers of a rendition's time; a turn
    # is a batch.
    assert report.virtual_gap < report.virtual / 10


def test_work_in_celery_is_bounded_by_workers_and_lanes_not_by_what_is_pending(report):
    assert report.most_unstarted <= WORKERS + UNSTARTED
    assert report.most_outstanding <= 2 * WORKERS + UNSTARTED + LANES


def test_renditions_run_ahead_of_a_lane_only_so_far(report):
    assert report.most_ahead <= LOOKAHEAD + MAX_TRANSCODE_INSTANCES + MAX_DELIVER_OBJECTS


def test_the_time_for_an_event_does_not_grow_with_what_is_pending(report):
    few = Hospital(4_000, LANES, OFF, workers=WORKERS).run()
    assert report.microseconds_an_event < 3 * few.microseconds_an_event
