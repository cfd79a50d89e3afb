"""Flower, the web page that shows the batches, run in this process: broker and password are no arguments.

Flower 2.2 serves `/metrics` and `/healthcheck` without a password: names of workers and tasks, and counts, no
patient data.
"""

import ipaddress
import logging
import os
import secrets
import signal
import socket
from types import FrameType

from flower.app import Flower as FlowerApplication
from flower.options import options
from flower.urls import settings as web_settings
from flower.views import BaseHandler

from dicomferry.errors import Misconfigured
from dicomferry.messages.batches import DELIVER_QUEUE, TRANSCODE_QUEUE
from dicomferry.messages.broker import celery_app
from dicomferry.settings import Flower, Settings

log = logging.getLogger(__name__)

_TASKS_KEPT = 20_000
_PURGE_AFTER = 600  # seconds; a worker has a new name at each start, so old names would accumulate


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        Misconfigured: the port is taken, the address is not this machine's, or there is no broker.
    """
    credentials = _credentials(settings.flower)
    # Without this variable Flower refuses its API to every request without a password; we rely on that.
    os.environ.pop("FLOWER_UNAUTHENTICATED_API", None)
    options.address = settings.flower.host
    options.port = settings.flower.port
    options.basic_auth = [credentials] if credentials else []
    # The dispatcher alone decides what is done, from the spool; nothing may be changed here.
    options.read_only = True
    options.tasks_columns = "name,args,state,result,exception,received,runtime,worker"
    # Else it asks for those of the workers whose page somebody has opened, or for Celery's default queue.
    BaseHandler.get_active_queue_names = lambda _: [DELIVER_QUEUE, TRANSCODE_QUEUE]
    options.max_tasks = _TASKS_KEPT
    options.purge_offline_workers = _PURGE_AFTER
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    application = FlowerApplication(capp=celery_app(settings), options=options, **web_settings)
    try:
        application.start_http_server()
    except OSError as error:
        raise Misconfigured(
            f"flower: cannot listen at {settings.flower.host}:{settings.flower.port}: {error.strerror}; "
            "choose another [flower] port"
        ) from error

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        application.io_loop.add_callback_from_signal(application.stop)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    log.info(
        "FlowerServes url=%s auth=%s", url(settings.flower), "basic" if credentials else "none (loopback)"
    )
    application.start()


def url(flower: Flower) -> str:
    """The URL for a browser on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(flower.host, flower.host)  # noqa: S104  compared, not bound
    return f"http://[{host}]:{flower.port}/" if ":" in host else f"http://{host}:{flower.port}/"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {str(address[4][0]) for address in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def _credentials(flower: Flower) -> str | None:
    if flower.password is not None and flower.password.get_secret_value():
        return f"{flower.user}:{flower.password.get_secret_value()}"
    if is_loopback(flower.host):
        return None
    password = secrets.token_urlsafe(12)
    log.warning(
        "FlowerPassword user=%s password=%s (made up for this run; set [flower] password or "
        "DICOMFERRY_FLOWER__PASSWORD to choose one)",
        flower.user,
        password,
    )
    return f"{flower.user}:{password}"
