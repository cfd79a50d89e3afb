"""What several rooms rely on."""

from collections.abc import Iterator

import pytest

from tests.support.running.redis import private_redis


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """A Redis that the tests of a module share."""
    with private_redis() as url:
        yield url
