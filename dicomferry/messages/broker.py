"""The Celery application and the Redis client that every part makes from the settings.

The settings of Celery are those that lose least: see docs/architecture.md, "What Celery is trusted with".
"""

import re
from typing import Any
from urllib.parse import unquote

from celery import Celery
from celery.app.amqp import AMQP
from kombu.connection import Connection
from redis import Redis

from dicomferry.errors import Misconfigured
from dicomferry.settings import Settings


def broker_url(settings: Settings) -> str:
    """The broker's address.

    Raises:
        Misconfigured: none is set, and this is no `up`, which brings its own.
    """
    if settings.broker is None:
        raise Misconfigured(
            'no broker: a part that runs alone needs broker = "redis://..." in the configuration or '
            "DICOMFERRY_BROKER; only `dicomferry up` and `demo` start a Redis of their own"
        )
    return settings.broker


class _Connection(Connection):
    """kombu's, except that a worker that is asked for its broker, as Flower asks, tells no password.

    Celery leaves the password out of the answer, but that of a unix socket stands in what kombu takes for
    the host's name.
    """

    def info(self) -> dict[str, Any]:
        told: dict[str, Any] = super().info()  # type: ignore[no-untyped-call]
        told["hostname"] = without_password(told["hostname"] or "")
        return told


class _AMQP(AMQP):  # type: ignore[misc]
    Connection = _Connection


class _Celery(Celery):  # type: ignore[misc]
    amqp_cls = _AMQP


def celery_app(settings: Settings) -> Celery:
    """A Celery application without tasks; the stages register theirs."""
    app = _Celery("dicomferry", broker=broker_url(settings), set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # it has no counter; the lease says what was lost
        task_ignore_result=True,
        task_send_sent_event=True,
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=True,
        worker_soft_shutdown_timeout=4.0,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": 3600,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 25,
        },
        task_serializer="json",
        accept_content=["json"],
        task_create_missing_queues=True,
    )
    return app


def redis_client(settings: Settings) -> Redis:
    """A client with short timeouts: an absent Redis must cost its caller little."""
    return client_for(broker_url(settings))


def client_for(url: str) -> Redis:
    """A client for a broker's address in Celery's spelling.

    redis-py spells a unix socket ``unix://:password@/path?db=0``, Celery
    ``redis+socket://:password@/path?virtual_host=0``.
    """
    url = re.sub(r"^redis\+socket://", "unix://", url).replace("virtual_host=", "db=")
    client: Redis = Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2, health_check_interval=25)
    return client


def without_password(url: str) -> str:
    """The address as it may be shown."""
    return unquote(re.sub(r"://[^@/]*@", "://***@", url))
