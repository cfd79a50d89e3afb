"""Every part on one machine, under the supervisor, with a private Redis where no broker is set."""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from dicomferry.errors import FerryError, Misconfigured
from dicomferry.messages.broker import client_for, without_password
from dicomferry.settings import Settings
from dicomferry.spool.spool import Spool
from gateway.local import flower, private_redis
from gateway.local.health import check
from gateway.local.supervisor import Part, Patience, Supervisor

log = logging.getLogger(__name__)

PARTS = ("ingest", "dispatcher", "worker", "forwarder", "flower")
_REDIS = "redis"
_MISUSED = 2  # exit code of a part that is Misconfigured
_POLL_INTERVAL = 0.2  # seconds between two checks of a part
_CHECK_TIMEOUT = 1.0  # seconds for a part to answer; a ping that is lost is repeated after it
_REPORT_INTERVAL = 10.0  # seconds between log lines that say which parts do not answer yet
_LOCK_TIMEOUT = 3.0  # seconds for the warden of a killed `up` to clean up


def run(settings: Settings, config: Path, *, park: bool = False) -> None:
    """Run all parts until SIGINT or SIGTERM; once they answer, print their addresses, then ``ready``.

    `park` makes pending deliveries dead whose destination is no longer configured.

    Raises:
        Misconfigured: another `up` uses this spool, a port is taken, or a part refuses to start.
    """
    with _lock(settings.spool) as lock:
        for section, host, port in (
            ("ingest", settings.ingest.host, settings.ingest.port),
            ("flower", settings.flower.host, settings.flower.port),
        ):
            _check_port_free(section, host, port)
        asyncio.run(_Up(settings, config, park=park).run(lock))


class _Up:
    """One running `up`."""

    def __init__(self, settings: Settings, config: Path, *, park: bool) -> None:
        self._private = private_redis.prepare() if settings.broker is None else None
        self._broker = self._private.url if self._private else str(settings.broker)
        self._settings = settings.model_copy(update={"broker": self._broker})
        self._config = config.absolute()
        self._options = {"dispatcher": ("--park",)} if park else {}
        self._ready = False

    async def run(self, lock: int) -> None:
        """Start the parts, print ready, wait for a signal, stop them."""
        self._refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        folders = [self._private.folder] if self._private else []
        supervisor = Supervisor(Patience(), self._on_end, folders, [lock])
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        stopped = asyncio.create_task(stop.wait())
        starting = asyncio.create_task(self._start(supervisor))
        ends: set[asyncio.Future[Any]] = {starting, stopped, self._refused}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopped
        finally:
            starting.cancel()
            log.info("Stopping")
            # Redis last: the other parts still send to it.
            await supervisor.stop(*PARTS)
            await supervisor.close()
        if self._refused.done():
            raise Misconfigured(f"{self._refused.result()} refuses to start; its reason stands above")

    def _on_end(self, part: str, code: int) -> None:
        if code == _MISUSED and not self._ready and not self._refused.done():
            self._refused.set_result(part)

    async def _start(self, supervisor: Supervisor) -> None:
        if self._private:
            supervisor.start(Part(_REDIS, self._private.command))
        await _wait_until_all_answer({_REDIS: self._ping_redis})
        # Else the status of an earlier dispatcher would count as an answer of the new one.
        Spool(self._settings.spool).forget_status()
        for part in PARTS:
            command = (sys.executable, "-P", "-m", "gateway.cli", part, "--config", str(self._config))
            options = self._options.get(part, ())
            supervisor.start(Part(part, command + options, {"DICOMFERRY_BROKER": self._broker}))
        await _wait_until_all_answer({part: self._health_check(part) for part in PARTS})
        self._ready = True
        ingest = self._settings.ingest
        titles = ", ".join(ae.title for ae in self._settings.ae)
        # In one write: the output of the parts would come between two.
        sys.stdout.write(
            f"SCP at {ingest.host}:{ingest.port} as {titles}; Flower at {flower.url(self._settings.flower)}\n"
            "ready\n"
        )
        sys.stdout.flush()

    def _health_check(self, part: str) -> Callable[[], None]:
        return lambda: check(part, self._settings, _CHECK_TIMEOUT)

    def _ping_redis(self) -> None:
        try:
            client_for(self._broker).ping()
        except RedisError as error:
            raise FerryError(f"{without_password(self._broker)} does not answer: {error}") from error


async def _wait_until_all_answer(checks: dict[str, Callable[[], None]]) -> None:
    """Repeat each check until it no longer raises FerryError; log from time to time which still do."""
    loop = asyncio.get_running_loop()
    errors = dict.fromkeys(checks, "not asked yet")
    stopped = threading.Event()
    answered = {name: loop.create_future() for name in checks}

    def poll(name: str) -> None:
        while not stopped.is_set():
            try:
                checks[name]()
            except FerryError as error:
                errors[name] = str(error)
                stopped.wait(_POLL_INTERVAL)
            else:
                with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                    loop.call_soon_threadsafe(answered[name].set_result, None)
                return

    for name in checks:
        # Not the loop's executor: the loop would wait at its end for a check, however long that takes.
        threading.Thread(target=poll, args=(name,), daemon=True).start()
    try:
        waiting = set(answered.values())
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=_REPORT_INTERVAL)
            for name, answer in answered.items():
                if answer in waiting:
                    log.info("Waiting part=%s: %s", name, errors[name])
    finally:
        stopped.set()


@contextlib.contextmanager
def _lock(spool: Path) -> Iterator[int]:
    """Lock the spool for this `up`. If it is killed, its warden keeps the lock until it has cleaned up."""
    try:
        spool.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(spool / "up.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise Misconfigured(f"spool {spool}: cannot be used: {error.strerror}") from error
    deadline = time.monotonic() + _LOCK_TIMEOUT
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Misconfigured(
                        f"another `dicomferry up` works on the spool {spool}; stop it, or give this one "
                        "another spool"
                    ) from None
                time.sleep(0.1)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_port_free(section: str, host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as sock:
            # As servers do: connections in TIME_WAIT are no obstacle.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        advice = (
            f"another program listens there; stop it, or choose another [{section}] port"
            if error.errno == errno.EADDRINUSE
            else f"{error.strerror}; [{section}] needs an address of this machine and a port that it may use"
        )
        raise Misconfigured(f"{section}: cannot listen at {host}:{port}: {advice}") from error
