"""Ingest in several processes: one that starts children, replaces those that end, and ends them all.

Each child accepts connections at the socket that it inherits, and serves them as a single process would.
Their parent has no threads, so that it may fork at any time, and takes no part in associations. However it is
killed, its children die with it.
"""

import ctypes
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from dicomferry.errors import FerryError
from ingest.dimse.listener import Listener
from ingest.places import Places

log = logging.getLogger(__name__)

ENDS = {signal.SIGINT, signal.SIGTERM}  # these end ingest in order
_HEED_SECONDS = 0.5  # seconds between a child's looks for places that other processes have taken
_AT_ONCE = 1  # so many children that end early are replaced at once; then it takes, in seconds:
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0
_HEALTHY = 10.0  # seconds after which a child has not ended early
_STOP_SECONDS = 15.0  # seconds for children to end; their own graces are shorter together
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


@dataclass(slots=True)
class _Child:
    """One of the processes, or the place for it."""

    number: int
    pid: int = 0  # 0: it is to be started, at:
    due: float = 0.0
    began: float = 0.0
    early_ends: int = 0  # in a row


class Children:
    """Runs as many processes as `places` are made for; each is within `receiving` until it is told to end."""

    def __init__(self, places: Places, receiving: Callable[[], AbstractContextManager[Listener]]) -> None:
        self._places, self._receiving = places, receiving
        self._children = [_Child(number) for number in range(places.processes)]
        # Its end tells the children to end: only this process has the other side.
        self._told, self._tell = os.pipe()

    def run(self) -> None:
        """Keep them running until SIGINT or SIGTERM, which the caller has blocked; then end them."""
        # Who started us may ignore it, which is inherited: then there would be nothing to wait for.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        try:
            number = None
            while number not in ENDS:
                self._start_what_is_due()
                number = self._wait(min((c.due for c in self._children if not c.pid), default=None))
                self._bury_the_dead()
        finally:
            self._stop()

    def _wait(self, until: float | None) -> int | None:
        """The signal that came until then (monotonic time); None if none did."""
        if until is None:
            return signal.sigwait({signal.SIGCHLD, *ENDS})
        found = signal.sigtimedwait({signal.SIGCHLD, *ENDS}, max(0.0, until - time.monotonic()))
        return None if found is None else found.si_signo

    def _start_what_is_due(self) -> None:
        for child in self._children:
            if not child.pid and time.monotonic() >= child.due:
                self._places.enter(child.number)
                child.began, parent = time.monotonic(), os.getpid()
                try:
                    child.pid = os.fork()
                except OSError as error:
                    self._ended(child, f"could not be started: {error.strerror}")
                    continue
                if not child.pid:
                    self._be_child(parent)

    def _be_child(self, parent: int) -> None:
        """Serve; never returns. The signals stay blocked: its parent gets them, and tells it."""
        code = 1
        try:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.close(self._tell)
            if os.getppid() == parent:
                self._serve()
                code = 0
        except FerryError as error:
            log.error("%s", error)  # noqa: TRY400  it has no stack to show
        except BaseException:
            log.exception("Fault")
        finally:
            # Without what Python does at an exit, which is the parent's to do.
            os._exit(code)

    def _serve(self) -> None:
        told = select.poll()
        told.register(self._told, select.POLLIN)
        with self._receiving() as listener:
            try:
                while not told.poll(1000 * _HEED_SECONDS):
                    listener.scp.heed()
            except BaseException:
                log.exception("Fault")
                os._exit(1)  # an end in order would shut down the socket of all

    def _bury_the_dead(self) -> None:
        for child in self._children:
            if child.pid and (how := _end_of(child.pid)):
                self._ended(child, how)

    def _ended(self, child: _Child, how: str) -> None:
        self._places.bury(child.number)
        child.pid, now = 0, time.monotonic()
        child.early_ends = child.early_ends + 1 if now - child.began < _HEALTHY else 1
        doublings = child.early_ends - 1 - _AT_ONCE
        pause = 0.0 if doublings < 0 else min(_FIRST_PAUSE * 2 ** min(doublings, 16), _LONGEST_PAUSE)
        child.due = now + pause
        log.error(
            "ProcessEnded %d of %d %s, and its associations with it; starting another %s",
            child.number + 1, len(self._children), how, f"in {pause:g} s" if pause else "at once",
        )  # fmt: skip

    def _stop(self) -> None:
        os.close(self._tell)
        os.close(self._told)
        deadline = time.monotonic() + _STOP_SECONDS
        left = {child.pid for child in self._children if child.pid}
        while left and (seconds := deadline - time.monotonic()) > 0:
            left = {pid for pid in left if not _end_of(pid)}
            if left:
                signal.sigtimedwait({signal.SIGCHLD}, seconds)
        for pid in left:
            log.warning("ProcessKilled pid=%d: it went on for %g s", pid, _STOP_SECONDS)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _end_of(pid: int) -> str:
    """How a child has ended, in words; empty while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        return ""
    code = os.waitstatus_to_exitcode(status)
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
