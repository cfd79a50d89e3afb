"""Keeps the parts running: starts them, restarts them, copies their output, stops them all.

Each part leads a process group, so that its children (Celery's pool) end with it. If this process itself is
killed, the warden ends them. honcho never restarts, circus restarts after one fixed delay.
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

from dicomferry.text import shown
from gateway.local.warden import WAIT_FOR_GO, Warden

log = logging.getLogger(__name__)

OnEnd = Callable[[str, int], None]
_COPY_INTERVAL = 0.1  # seconds: lines of this time are copied at once
_output_lock = threading.Lock()
_COPY_TIMEOUT = 1.0  # seconds for the rest of the output to be copied at the end
_KILL_TIMEOUT = 5.0  # seconds to wait for killed processes; one in a write that hangs does not end
_LONGEST_LINE = 1 << 16  # bytes; a longer line is cut


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
    """Runs parts until it is closed or killed; `folders` are then removed and `locks` released.

    It calls `on_end` with the name and exit code (negative: the signal) of every part that ends by itself.
    """

    def __init__(
        self, patience: Patience, on_end: OnEnd, folders: Sequence[Path], locks: Sequence[int]
    ) -> None:
        self._patience, self._on_end = patience, on_end
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._copiers: set[threading.Thread] = set()
        self._warden = Warden(folders, locks)

    def start(self, part: Part) -> None:
        """Start `part` and keep it running."""
        self._tasks[part.name] = asyncio.create_task(self._keep_running(part))

    async def stop(self, *names: str) -> None:
        """Stop the named parts, all at once; those that do not end within the grace are killed."""
        tasks = [self._tasks.pop(name) for name in names if name in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop all parts, then the warden."""
        await self.stop(*self._tasks)
        deadline = time.monotonic() + _COPY_TIMEOUT
        for copier in self._copiers:
            await asyncio.to_thread(copier.join, max(0.0, deadline - time.monotonic()))
        await asyncio.to_thread(self._warden.close)

    async def _keep_running(self, part: Part) -> None:
        delay = self._patience.first
        while True:
            started = time.monotonic()
            code = await self._run(part)
            self._on_end(part.name, code)
            if time.monotonic() - started >= self._patience.healthy:
                delay = self._patience.first
            log.error("PartEnded part=%s code=%d; restarting in %g s", part.name, code, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, self._patience.longest)

    async def _run(self, part: Part) -> int:
        # Our own pipes: with asyncio's, wait() lasts until every process that inherited them has ended.
        (reading, writing), (waiting, go) = os.pipe(), os.pipe()
        try:
            child = await asyncio.create_subprocess_exec(
                *WAIT_FOR_GO,
                *part.command,
                stdin=waiting,
                stdout=writing,
                stderr=writing,
                env={**os.environ, **part.environment},
                start_new_session=True,
            )
        except BaseException as error:
            os.close(reading)
            os.close(go)
            if not isinstance(error, OSError):
                raise
            log.error("PartNotStarted part=%s: %s", part.name, error)  # noqa: TRY400  the stack adds nothing
            return 1
        finally:
            os.close(writing)
            os.close(waiting)
        self._warden.register(child.pid, go)
        self._copiers = {copier for copier in self._copiers if copier.is_alive()}
        copier = threading.Thread(target=_copy_output, args=(part.name, reading), daemon=True)
        self._copiers.add(copier)
        copier.start()
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
            # It may have ended by itself just as its time was over.
            if await child.wait() == -signal.SIGKILL and overdue:
                log.warning("PartKilled part=%s: it went on for %g s", part.name, self._patience.grace)
            await _wait_until_gone(child.pid)
            self._warden.forget(child.pid)


async def _wait_until_gone(group: int) -> None:
    """Wait until no process of a killed group is left, so that a restarted part does not meet one."""
    deadline = time.monotonic() + _KILL_TIMEOUT
    with suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            # In a container we may be process 1, which inherits the children of processes that ended.
            with suppress(ChildProcessError):
                os.waitpid(-group, os.WNOHANG)  # noqa: ASYNC222  it does not wait
            os.killpg(group, 0)
            await asyncio.sleep(0.01)


def _copy_output(name: str, descriptor: int) -> None:
    """Copy lines to our standard error, each with the part's name in front.

    Runs in a thread, which can sleep while lines gather; an event loop would wake for each.
    """
    with os.fdopen(descriptor, "rb", 0) as pipe:
        rest = b""
        while piece := pipe.read(_LONGEST_LINE):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            _write_lines(name, lines)
            if len(piece) < _LONGEST_LINE:
                time.sleep(_COPY_INTERVAL)
        _write_lines(name, [rest] if rest else [])


def _shown(line: bytes) -> str:
    # Libraries in C write there too, and may quote what they were given.
    return shown(line.decode(errors="replace").rstrip().expandtabs(), 2 * _LONGEST_LINE)


def _write_lines(name: str, lines: list[bytes]) -> None:
    with suppress(OSError), _output_lock:  # without a reader of our standard error the parts go on
        prefixed = [f"{name:<10} | {_shown(line)}\n" for line in lines]
        sys.stderr.write("".join(prefixed))
        sys.stderr.flush()
