"""Keeps the parts running: starts them, restarts what dies, forwards what they say, stops them all.

Each part leads a process group, so that what it has forked (Celery's pool) goes with it; where this process
is itself killed, the warden does it. honcho never restarts, circus restarts after one fixed delay.
"""

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gateway.local.warden import GATE, Warden

log = logging.getLogger(__name__)

Ended = Callable[[str, int], None]
_TOGETHER = 0.1  # seconds: lines of so long are copied in one go
_saying = threading.Lock()
_LAST_WORDS = 1.0  # seconds that those who copy lines have in the end
_GONE = 5.0  # seconds that what was killed has to be gone: a write that hangs cannot be
_LONGEST_LINE = 1 << 16  # bytes; what comes in one piece longer than this is cut into lines


@dataclass(frozen=True, slots=True)
class Part:
    """A program to keep running."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a password


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds."""

    first: float = 0.5  # before the first restart; doubles with each
    longest: float = 30.0  # between restarts
    healthy: float = 60.0  # a part that ran this long starts again at `first`
    grace: float = 29.0  # from SIGTERM to SIGKILL: the forwarder may have a large object on its way


class Supervisor:
    """Runs parts until it is closed; then, or where it is killed, `folders` are removed, `locks` released.

    `ended` learns the name and exit code (negative: the signal) of every part that ended by itself.
    """

    def __init__(
        self, patience: Patience, ended: Ended, folders: Sequence[Path], locks: Sequence[int]
    ) -> None:
        self._patience, self._ended = patience, ended
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._forwarders: set[threading.Thread] = set()
        self._warden = Warden(folders, locks)

    def start(self, part: Part) -> None:
        """Start `part` and keep it running."""
        self._keepers[part.name] = asyncio.create_task(self._keep(part))

    async def stop(self, *names: str) -> None:
        """Stop the parts named, all at once; those that do not go within the grace are killed."""
        keepers = [self._keepers.pop(name) for name in names if name in self._keepers]
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)

    async def close(self) -> None:
        """Stop what still runs, and the warden."""
        await self.stop(*self._keepers)
        deadline = time.monotonic() + _LAST_WORDS
        for forwarder in self._forwarders:
            await asyncio.to_thread(forwarder.join, max(0.0, deadline - time.monotonic()))
        await asyncio.to_thread(self._warden.close)

    async def _keep(self, part: Part) -> None:
        delay = self._patience.first
        while True:
            started = time.monotonic()
            code = await self._run(part)
            self._ended(part.name, code)
            if time.monotonic() - started >= self._patience.healthy:
                delay = self._patience.first
            log.error("PartEnded part=%s code=%d; restarting in %g s", part.name, code, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._patience.longest)

    async def _run(self, part: Part) -> int:
        # Pipes of ours: with asyncio's own, wait() lasts until all that inherited them have ended.
        (reading, writing), (waiting, gate) = os.pipe(), os.pipe()
        try:
            child = await asyncio.create_subprocess_exec(
                *GATE,
                *part.command,
                stdin=waiting,
                stdout=writing,
                stderr=writing,
                env={**os.environ, **part.environment},
                start_new_session=True,
            )
        except BaseException as error:
            os.close(reading)
            os.close(gate)
            if not isinstance(error, OSError):
                raise
            log.error("PartNotStarted part=%s: %s", part.name, error)  # noqa: TRY400  no news in the stack
            return 1
        finally:
            os.close(writing)
            os.close(waiting)
        self._warden.admit(child.pid, gate)
        self._forwarders = {forwarder for forwarder in self._forwarders if forwarder.is_alive()}
        forwarder = threading.Thread(target=_forward, args=(part.name, reading), daemon=True)
        self._forwarders.add(forwarder)
        forwarder.start()
        overdue = False
        try:
            return await child.wait()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                child.terminate()
            try:
                await asyncio.wait_for(child.wait(), self._patience.grace)
            except TimeoutError:
                overdue = True
            raise
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            # It may have gone by itself in the instant in which its time was over.
            if await child.wait() == -signal.SIGKILL and overdue:
                log.warning("PartKilled part=%s: it went on for %g s", part.name, self._patience.grace)
            await _gone(child.pid)
            self._warden.forget(child.pid)


async def _gone(group: int) -> None:
    """Wait until no process of a group that was killed is left: another part must not meet it."""
    deadline = time.monotonic() + _GONE
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            # The first process of a container inherits those whose parent has gone.
            with suppress(ChildProcessError):
                os.waitpid(-group, os.WNOHANG)  # noqa: ASYNC222  it does not wait
            os.killpg(group, 0)
            await asyncio.sleep(0.01)


def _forward(name: str, descriptor: int) -> None:
    """Copy lines to our standard error, each with the part's name in front.

    In a thread, which sleeps while more lines gather: an event loop wakes for each.
    """
    with os.fdopen(descriptor, "rb", 0) as pipe:
        rest = b""
        while piece := pipe.read(_LONGEST_LINE):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            _say(name, lines)
            if len(piece) < _LONGEST_LINE:
                time.sleep(_TOGETHER)
        _say(name, [rest] if rest else [])


def _say(name: str, lines: list[bytes]) -> None:
    with suppress(OSError), _saying:  # Whoever read our standard error has gone; the parts go on.
        told = [f"{name:<10} | {line.decode(errors='replace').rstrip()}\n" for line in lines]
        sys.stderr.write("".join(told))
        sys.stderr.flush()
