"""A Redis of one test's own: a unix socket in a short folder, nothing on disk."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis.exceptions import RedisError

from dicomferry.messages.broker import client_for
from gateway.local import private_redis as private_redis_of_up
from tests.support.running.processes import wait_until
from tests.support.running.services import program


@contextmanager
def private_redis() -> Iterator[str]:
    """The address, in Celery's spelling, of a Redis that ends with the context."""
    # Short: a socket's path has 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rds") as folder, redis_at(Path(folder) / "s") as url:
        yield url


@contextmanager
def redis_at(path: Path) -> Iterator[str]:
    """The same at a socket of the caller's."""
    command = [
        program("redis-server"), "--port", "0", "--unixsocket", str(path), "--save", "",
        "--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir", str(path.parent),
    ]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"redis+socket://{path}?virtual_host=0"
    try:
        wait_until(lambda: answers(url), "Redis to answer")
        yield url
    finally:
        server.kill()
        server.wait()


@contextmanager
def redis_of_up() -> Iterator[str]:
    """The address of the Redis that `up` would start; nothing else may be left in its folder."""
    redis = private_redis_of_up.prepare()
    server = subprocess.Popen(redis.command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(redis.url), "Redis")
        yield redis.url
    finally:
        server.kill()
        server.wait()
        (redis.folder / "redis.conf").unlink()
        (redis.folder / "redis.sock").unlink(missing_ok=True)
        redis.folder.rmdir()


def answers(url: str) -> bool:
    """Whether a Redis answers there: its socket exists before that."""
    try:
        return bool(client_for(url).ping())
    except RedisError:
        return False
