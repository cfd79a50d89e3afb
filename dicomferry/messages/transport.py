"""kombu's Redis transport, without what costs every message much and gives us nothing.

kombu makes a new client object for every command, which takes more processor time than the command itself;
redis-py's clients may be shared by threads. And it writes each message that a worker holds into Redis, in two
transactions, to hand it out again an hour after the worker was killed: a lease tells that within seconds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.transport import redis, virtual
from redis import Redis


class _QoS(virtual.QoS):
    def restore_unacked(self) -> list[Any]:
        """Put what a worker holds back into its queue when it stops; what Redis does not take is lost."""
        super().restore_unacked()  # type: ignore[no-untyped-call]
        return []  # else kombu writes these into a file, which nobody reads


class _Channel(redis.Channel):
    ack_emulation = False
    _kept: Redis | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.QoS = _QoS  # type: ignore[assignment]  # kombu has just set its own

    @contextmanager
    def conn_or_acquire(self, client: Redis | None = None) -> Iterator[Redis]:
        kept = client or self._kept
        # A channel that has lost its connections gets another pool.
        if kept is None or (not client and kept.connection_pool is not self.pool):
            kept = self._kept = self._create_client()  # type: ignore[no-untyped-call]
        yield kept


class Transport(redis.Transport):
    """The transport of all our connections to the broker."""

    Channel = _Channel
