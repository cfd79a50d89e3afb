"""Health checks: whether a part works, asked from outside as its peers would ask it.

A process that exists may hang, so no check looks at processes: ingest must answer a C-ECHO, Celery's workers
a ping, the dispatcher must have written its status, Flower must serve.
"""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from dicomferry.dicom.identifiers import HEALTH
from dicomferry.errors import Transient
from dicomferry.messages.broker import celery_app
from dicomferry.settings import CalledAE, Settings
from dicomferry.spool.spool import Spool

_TIMEOUT = 5.0  # seconds that a part has to answer
_STALE = 15.0  # seconds; the dispatcher writes its status every second


class Unhealthy(Transient):
    """A part does not work, or not yet; the message says what was asked and what came back."""


def check(part: str, settings: Settings, timeout: float = _TIMEOUT) -> None:
    """Check one part (a key of `CHECKS`) on this machine or in this container.

    It has `timeout` seconds to answer.

    Raises:
        Unhealthy: it does not work, or did not answer in time.
        Misconfigured: no broker is set.
    """
    CHECKS[part](settings, timeout)


def check_ingest(settings: Settings, timeout: float = _TIMEOUT) -> None:
    """Ingest answers a C-ECHO, or rejects the association, which also shows that it works."""
    from pynetdicom import AE  # noqa: PLC0415  half a second that the other checks need not spend
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # noqa: PLC0415

    from gateway.local.requestor import associate  # noqa: PLC0415

    host, port = _connect_host(settings.ingest.host), settings.ingest.port
    called, calling = _permitted(settings.ae, host)
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout
    entity.connection_timeout = timeout
    entity.add_requested_context(Verification)
    association = associate(entity, host, port, called.title)
    if association.is_rejected:
        return
    if not association.is_established:
        raise Unhealthy(f"ingest at {host}:{port} does not answer an association request")
    status = None
    with suppress(RuntimeError):  # the association has ended meanwhile
        status = association.send_c_echo()
        association.release()
    if getattr(status, "Status", None) != 0x0000:
        raise Unhealthy(f"ingest at {host}:{port} does not answer a C-ECHO")


def check_dispatcher(settings: Settings, timeout: float = _TIMEOUT) -> None:
    """The dispatcher has read the spool, its status is fresh, and Redis answers it."""
    del timeout  # a file is read
    status = Spool(settings.spool).status()
    if status is None:
        raise Unhealthy("the dispatcher has not said anything yet")
    age = time.time() - status["at"]
    if age > _STALE:
        raise Unhealthy(f"the dispatcher has said nothing for {age:.0f} s")
    if not status["redis"]:
        raise Unhealthy("Redis does not answer the dispatcher")


def check_worker(settings: Settings, timeout: float = _TIMEOUT) -> None:
    """The transcoding worker on this host answers a ping."""
    _check_celery("worker", settings, timeout)


def check_forwarder(settings: Settings, timeout: float = _TIMEOUT) -> None:
    """The forwarder on this host answers a ping."""
    _check_celery("forwarder", settings, timeout)


def check_flower(settings: Settings, timeout: float = _TIMEOUT) -> None:
    """Flower serves its health page, which needs no password."""
    url = f"http://{_bracketed(_connect_host(settings.flower.host))}:{settings.flower.port}/healthcheck"
    # Ignore proxies of the environment: this is our own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise Unhealthy(f"Flower at {url} does not serve: {error}") from error


CHECKS: dict[str, Callable[[Settings, float], None]] = {
    "ingest": check_ingest,
    "dispatcher": check_dispatcher,
    "worker": check_worker,
    "forwarder": check_forwarder,
    "flower": check_flower,
}


def _check_celery(part: str, settings: Settings, timeout: float) -> None:
    # Nodes are named part@host-random: several of a part may run on a host, one answer is enough.
    pattern = f"{part}@{socket.gethostname()}-*"
    app = celery_app(settings)
    # Do not wait for Redis to come back: the next check will see it.
    app.conf.broker_transport_options |= {"max_retries": 0}
    try:
        answers = app.control.inspect(timeout=timeout, limit=1, pattern=pattern, matcher="glob").ping()
    except (OperationalError, RedisError, OSError) as error:
        raise Unhealthy(f"Redis does not answer: {error}") from error
    finally:
        app.close()
    if not answers:
        raise Unhealthy(f"no {pattern} answers a ping")


def _permitted(entities: list[CalledAE], host: str) -> tuple[CalledAE, str]:
    """An AE of ours and a title that may call it from `host`; where nobody may, ingest expects `HEALTH`."""
    for ae in entities:
        if ae.callers is None:
            return ae, HEALTH
        for caller in ae.callers:
            if caller.host in {None, host}:
                return ae, caller.title
    return entities[0], HEALTH


def _connect_host(host: str) -> str:
    """The address at which this machine reaches its own server that listens at `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
