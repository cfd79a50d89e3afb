"""Makes the Celery application and the Redis client of every part from the settings.

Celery is configured to lose as little as possible: see docs/architecture.md, "What Celery is trusted with".
"""

import logging
import re
import secrets
import socket
from typing import Any
from urllib.parse import unquote

from celery import Celery, Task, signals
from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES
from redis import Redis

from dicomferry.errors import Misconfigured, NothingDoneError, Transient
from dicomferry.settings import Settings


def broker_url(settings: Settings) -> str:
    """The broker's address.

    Raises:
        Misconfigured: none is set; only `up` starts its own.
    """
    if settings.broker is None:
        raise Misconfigured(
            'no broker: a part that runs alone needs broker = "redis://..." in the configuration or '
            "DICOMFERRY_BROKER; only `dicomferry up` and `demo` start a Redis of their own"
        )
    return settings.broker


TRANSPORT_ALIASES |= dict.fromkeys(("redis", "rediss"), "dicomferry.messages.transport:Transport")


class _Connection(Connection):
    """kombu's connection without a password in `info`, which a worker returns when Flower asks for it.

    Celery itself removes the password, except that of a unix socket, which kombu holds in the host name.
    """

    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = super().info()  # type: ignore[no-untyped-call]
        info["hostname"] = without_password(info["hostname"] or "")
        return info


class _AMQP(AMQP):  # type: ignore[misc]
    Connection = _Connection


class _Task(Task):  # type: ignore[misc]
    """Returns its outcome in a few words, which Flower shows; NothingDoneError makes it a failed one."""

    Request = "dicomferry.messages.requests:Request"
    throws = (NothingDoneError,)


class _Celery(Celery):  # type: ignore[misc]
    amqp_cls = _AMQP
    task_cls = _Task


def celery_app(settings: Settings) -> Celery:
    """A Celery application without tasks; the stages register theirs."""
    app = _Celery("dicomferry", broker=broker_url(settings), set_as_current=False)
    app.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=False,  # it would retry for ever; the lease shows what was lost
        task_ignore_result=True,
        worker_consumer="dicomferry.messages.consumer:Consumer",
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


def consume(app: Celery, part: str, queue: str, *, pool: str, concurrency: int) -> None:
    """Run a Celery worker on `queue` until it is told to stop; its node's name begins with `part`.

    Raises:
        Transient: it ended by itself. Celery logs what it calls an unrecoverable error and then ends like one
            that was told to. A killed Redis can be such an error, if a message was held.
    """
    told = []

    def keep_logging(**_: Any) -> None:
        """Do nothing: the command line has set up logging, and a receiver keeps Celery from doing it."""

    def note(**_: Any) -> None:
        told.append(True)

    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)  # "received": it begins at once
    signals.setup_logging.connect(keep_logging, weak=False)
    signals.worker_shutting_down.connect(note, weak=False)
    worker = app.Worker(
        pool=pool,
        concurrency=concurrency,
        queues=[queue],
        hostname=f"{part}@{socket.gethostname()}-{secrets.token_hex(3)}",
        quiet=True,
        without_mingle=True,
        without_gossip=True,
    )
    worker.start()
    if worker.exitcode and not told:
        raise Transient(
            "Celery ended by an error that it does not recover from (see above); nothing is lost: start again"
        )


def redis_client(settings: Settings) -> Redis:
    """A client with short timeouts, so that an absent Redis costs its caller little time."""
    return client_for(broker_url(settings))


def client_for(url: str) -> Redis:
    """A client for a broker's address in Celery's form.

    redis-py writes a unix socket as ``unix://:password@/path?db=0``, Celery
    ``redis+socket://:password@/path?virtual_host=0``.
    """
    url = re.sub(r"^redis\+socket://", "unix://", url).replace("virtual_host=", "db=")
    client: Redis = Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2, health_check_interval=25)
    return client


def without_password(url: str) -> str:
    """The address, safe to show."""
    return unquote(re.sub(r"://[^@/]*@", "://***@", url))
