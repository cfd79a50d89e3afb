"""Every part on one machine, under the supervisor, with a private Redis where none is named."""

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
_MISUSED = 2  # the exit code of a part that was Misconfigured
_ASK_AGAIN = 0.2  # seconds between questions whether a part answers
_ANSWER_WITHIN = 1.0  # seconds; a ping that no one hears is not repeated before
_COMPLAIN_EVERY = 10.0  # seconds between the lines that say what is missing
_DYING = 3.0  # seconds that the remains of a killed `up` have to go


def run(settings: Settings, config: Path, *, park: bool = False) -> None:
    """Run all parts until SIGINT or SIGTERM; once they answer, print where they are, and then ``ready``.

    `park` makes what is pending for destinations that there are no more dead.

    Raises:
        Misconfigured: another `up` works on this spool, a port is taken, or a part refuses to start.
    """
    with _lock(settings.spool) as lock:
        for section, host, port in (
            ("ingest", settings.ingest.host, settings.ingest.port),
            ("flower", settings.flower.host, settings.flower.port),
        ):
            _must_be_free(section, host, port)
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
        """Start, say ready, wait for a signal, stop."""
        self._refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        folders = [self._private.folder] if self._private else []
        supervisor = Supervisor(Patience(), self._ended, folders, [lock])
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
            # Redis last: the others still have something to say to it.
            await supervisor.stop(*PARTS)
            await supervisor.close()
        if self._refused.done():
            raise Misconfigured(f"{self._refused.result()} refuses to start; its reason stands above")

    def _ended(self, part: str, code: int) -> None:
        if code == _MISUSED and not self._ready and not self._refused.done():
            self._refused.set_result(part)

    async def _start(self, supervisor: Supervisor) -> None:
        if self._private:
            supervisor.start(Part(_REDIS, self._private.command))
        await _all_answer({_REDIS: self._ping})
        # The new dispatcher is to be waited for; what an earlier one has said is no sign of it.
        Spool(self._settings.spool).forget_status()
        for part in PARTS:
            command = (sys.executable, "-P", "-m", "gateway.cli", part, "--config", str(self._config))
            options = self._options.get(part, ())
            supervisor.start(Part(part, command + options, {"DICOMFERRY_BROKER": self._broker}))
        await _all_answer({part: self._question(part) for part in PARTS})
        self._ready = True
        ingest = self._settings.ingest
        titles = ", ".join(ae.title for ae in self._settings.ae)
        # In one piece: what the parts say comes between two.
        sys.stdout.write(
            f"SCP at {ingest.host}:{ingest.port} as {titles}; Flower at {flower.url(self._settings.flower)}\n"
            "ready\n"
        )
        sys.stdout.flush()

    def _question(self, part: str) -> Callable[[], None]:
        return lambda: check(part, self._settings, _ANSWER_WITHIN)

    def _ping(self) -> None:
        try:
            client_for(self._broker).ping()
        except RedisError as error:
            raise FerryError(f"{without_password(self._broker)} does not answer: {error}") from error


async def _all_answer(questions: dict[str, Callable[[], None]]) -> None:
    """Ask each until it no longer raises FerryError; say from time to time what is missing."""
    loop = asyncio.get_running_loop()
    missing = dict.fromkeys(questions, "not asked yet")
    over = threading.Event()
    answered = {name: loop.create_future() for name in questions}

    def ask(name: str) -> None:
        while not over.is_set():
            try:
                questions[name]()
            except FerryError as error:
                missing[name] = str(error)
                over.wait(_ASK_AGAIN)
            else:
                with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                    loop.call_soon_threadsafe(answered[name].set_result, None)
                return

    for name in questions:
        # Not the loop's own threads: these would be waited for at the end, however long an answer takes.
        threading.Thread(target=ask, args=(name,), daemon=True).start()
    try:
        waiting = set(answered.values())
        while waiting:
            _, waiting = await asyncio.wait(waiting, timeout=_COMPLAIN_EVERY)
            for name, answer in answered.items():
                if answer in waiting:
                    log.info("Waiting part=%s: %s", name, missing[name])
    finally:
        over.set()


@contextlib.contextmanager
def _lock(spool: Path) -> Iterator[int]:
    """Hold the spool for this `up`; the warden holds it too, until what a killed `up` left is gone."""
    try:
        spool.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(spool / "up.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise Misconfigured(f"spool {spool}: cannot be used: {error.strerror}") from error
    deadline = time.monotonic() + _DYING
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


def _must_be_free(section: str, host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as sock:
            # As servers do: what an earlier one left in TIME_WAIT is no obstacle.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as error:
        advice = (
            f"another program listens there; stop it, or choose another [{section}] port"
            if error.errno == errno.EADDRINUSE
            else f"{error.strerror}; [{section}] needs an address of this machine and a port that it may use"
        )
        raise Misconfigured(f"{section}: cannot listen at {host}:{port}: {advice}") from error
