"""What every test relies on, and how tests share a machine.

Files of tests run side by side, twice as many as there are cores, since most tests wait more than they work.
A test that measures is marked `alone`: while it runs, no other test does.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, zip_longest

import pytest

from forwarder.dimse import scu
from gateway.local.requestor import fix_lost_responses
from tests.support.running.turns import Turns

# A shell that starts us in the background has us ignore Ctrl-C, and so would every program that we start.
with suppress(ValueError):  # not in the main thread
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Many tests send with pynetdicom, which would now and then lose a response.
fix_lost_responses()

# The slowest first, so that none is left to run by itself at the end.
_WAITING = ("tests/faults", "tests/e2e")
_WORKING = ("tests/transcoding", "tests/contract", "tests/unit")
_turns = Turns(os.environ.get("PYTEST_XDIST_TESTRUNUID"))

# The slowest first, so that none is left to run by itself at the end.
_WAITING = ("tests/faults", "tests/e2e")
_WORKING = ("tests/transcoding", "tests/contract", "tests/unit")
_turns = Turns(os.environ.get("PYTEST_XDIST_TESTRUNUID"))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release is waited for until it is answered, however long the machine stalls."""
    monkeypatch.setattr(scu, "_RELEASE_SECONDS", 30.0)


def pytest_xdist_auto_num_workers() -> int:
    return 2 * len(os.sched_getaffinity(0))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    waiting, working = (
        [files[name] for folder in folders for name in files if name.startswith(folder)]
        for folders in (_WAITING, _WORKING)
    )
    # In turns, so that there is always a test that uses the processor while others wait.
    turns = chain.from_iterable(zip_longest(waiting, working, fillvalue=[]))
    items[:] = sorted(chain.from_iterable(turns), key=_is_alone)


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around pytest-timeout: nobody's time runs while it waits
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with _turns.alone() if _is_alone(item) else _turns.together():
        return (yield)


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None
