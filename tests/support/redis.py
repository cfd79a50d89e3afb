"""A Redis of one test's own: a unix socket in a short folder, nothing on disk."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from tests.support.processes import wait_until
from tests.support.services import program


@contextmanager
def private_redis() -> Iterator[str]:
    """The address, in Celery's spelling, of a Redis that ends with the context."""
    with tempfile.TemporaryDirectory(prefix="rds") as folder:  # Short: a socket's path has 107 bytes.
        path = Path(folder) / "s"
        command = [
            program("redis-server"), "--port", "0", "--unixsocket", str(path), "--save", "",
            "--appendonly", "no", "--maxmemory-policy", "noeviction", "--dir", folder,
        ]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: _answers(path), "Redis to answer")
            yield f"redis+socket://{path}?virtual_host=0"
        finally:
            server.kill()
            server.wait()


def _answers(path: Path) -> bool:
    try:
        return bool(Redis(unix_socket_path=str(path)).ping())
    except RedisError:
        return False
