"""What the tests of the dispatcher rely on."""

import pytest

from tests.support.running.redis import private_redis
from tests.support.stages.bench import Bench


@pytest.fixture
def bench(tmp_path):
    with private_redis() as url:
        bench = Bench(tmp_path / "spool", url)
        try:
            yield bench
        finally:
            bench.stop()
