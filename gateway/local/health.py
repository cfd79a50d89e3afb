"""Whether a part does its work, asked from outside as its peers would ask it.

A process that exists may still be stuck, so nothing here looks at processes: ingest must answer a C-ECHO,
Celery's workers a ping, the dispatcher must have written its status, Flower must serve.
"""

import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from dicomferry.errors import Transient
from dicomferry.messages.broker import celery_app
from dicomferry.settings import CalledAE, Settings
from dicomferry.spool.spool import Spool

_PATIENCE = 5.0  # seconds that a part has to answer
_STALE = 15.0  # seconds; the dispatcher writes its status every second


class Unwell(Transient):
    """A part does not do its work, or not yet; the message says what was asked and what came back."""


def check(part: str, settings: Settings, patience: float = _PATIENCE) -> None:
    """Ask one part (a key of `CHECKS`) of this machine, or of this container, for a sign of its work.

    It has `patience` seconds to answer.

    Raises:
        Unwell: it gave none.
        Misconfigured: no broker is set.
    """
    CHECKS[part](settings, patience)


def check_ingest(settings: Settings, patience: float = _PATIENCE) -> None:
    """Ingest answers a C-ECHO, or turns the caller away by name, which takes the same acceptor."""
    from pynetdicom import AE  # noqa: PLC0415  half a second that the other checks need not spend
    from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # noqa: PLC0415

    from dicomferry.dicom.requestor import associate  # noqa: PLC0415

    called = _most_open(settings.ae)
    calling = called.callers[0].title if called.callers else "HEALTH"
    entity = AE(calling)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = patience
    entity.connection_timeout = patience
    entity.add_requested_context(Verification)
    host, port = _reachable(settings.ingest.host), settings.ingest.port
    association = associate(entity, host, port, called.title)
    if association.is_rejected:
        return
    if not association.is_established:
        raise Unwell(f"ingest at {host}:{port} does not answer an association request")
    status = None
    with suppress(RuntimeError):  # the association has ended meanwhile
        status = association.send_c_echo()
        association.release()
    if getattr(status, "Status", None) != 0x0000:
        raise Unwell(f"ingest at {host}:{port} does not answer a C-ECHO")


def check_dispatcher(settings: Settings, patience: float = _PATIENCE) -> None:
    """The dispatcher has read the spool, its status there is fresh, and it hears from Redis."""
    del patience  # a file is read
    status = Spool(settings.spool).status()
    if status is None:
        raise Unwell("the dispatcher has not said anything yet")
    age = time.time() - status["at"]
    if age > _STALE:
        raise Unwell(f"the dispatcher has said nothing for {age:.0f} s")
    if not status["redis"]:
        raise Unwell("Redis does not answer the dispatcher")


def check_worker(settings: Settings, patience: float = _PATIENCE) -> None:
    """The transcoding worker on this host answers a ping."""
    _check_celery("worker", settings, patience)


def check_forwarder(settings: Settings, patience: float = _PATIENCE) -> None:
    """The forwarder on this host answers a ping."""
    _check_celery("forwarder", settings, patience)


def check_flower(settings: Settings, patience: float = _PATIENCE) -> None:
    """Flower serves; this page of its needs no password."""
    url = f"http://{_bracketed(_reachable(settings.flower.host))}:{settings.flower.port}/healthcheck"
    # No proxy of the environment stands between a machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=patience) as answer:
            answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise Unwell(f"Flower at {url} does not serve: {error}") from error


CHECKS: dict[str, Callable[[Settings, float], None]] = {
    "ingest": check_ingest,
    "dispatcher": check_dispatcher,
    "worker": check_worker,
    "forwarder": check_forwarder,
    "flower": check_flower,
}


def _check_celery(part: str, settings: Settings, patience: float) -> None:
    # Nodes are named part@host-random: several of one part may run on a host, one that answers will do.
    pattern = f"{part}@{socket.gethostname()}-*"
    app = celery_app(settings)
    # A check does not wait for Redis to come back: the next one will see it.
    app.conf.broker_transport_options |= {"max_retries": 0}
    try:
        answers = app.control.inspect(timeout=patience, limit=1, pattern=pattern, matcher="glob").ping()
    except (OperationalError, RedisError, OSError) as error:
        raise Unwell(f"Redis does not answer: {error}") from error
    finally:
        app.close()
    if not answers:
        raise Unwell(f"no {pattern} answers a ping")


def _most_open(entities: list[CalledAE]) -> CalledAE:
    return next((ae for ae in entities if ae.callers is None), entities[0])


def _reachable(host: str) -> str:
    """Where a server that listens at `host` is reached from its own machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
