"""The frames of one image on several cores: helper processes do some of them before their turn comes.

A helper is a fork of the process that owns the rendition, made for this image alone. It reads and computes;
only the owner writes. Whatever it does not deliver, since it was killed or called away, ran out of its memory
or time, or met an error, the owner does itself when its turn comes. So order, bytes, errors and states are
those of one process. Relies on Linux: without it there are no helpers.
"""

import ctypes
import gc
import mmap
import os
import pickle
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Generic, NoReturn, TypeVar

from dicomferry.spool.seats import Loan, Seats
from workers import limits

R = TypeVar("R")
S = TypeVar("S")
Result = tuple[R, S | None]

_WORTH = 0.1  # seconds of work that must be left: to fork takes some milliseconds
_LOOK_EVERY = 0.1  # seconds between two looks for a free seat
_REST = 1.0  # seconds without helpers after a batch has called one away: there may be more such batches
_QUEUE = 2  # frames of a helper: one under way, one waiting
_AHEAD = 3  # frames that the owner itself does before their turn
_FRAMES, _MORE = 10, 64 << 20  # what a helper may allocate: frames in native form, and bytes besides
_RESULT = 3  # frames in native form that fit into the room for one result
_ALIGN = 64
_PR_SET_PDEATHSIG = 1


@dataclass
class _Helper:
    """A helper as its owner sees it: frames go out and results come back over `link`, pixels in `room`."""

    pid: int
    link: socket.socket
    room: memoryview  # shared; of `_QUEUE` results
    places: dict[int, int] = field(default_factory=dict)  # of `room`, by frame; also of results not yet used

    def give(self, number: int) -> None:
        """Have a frame done."""
        place = next(place for place in range(_QUEUE) if place not in self.places.values())
        self.places[number] = place
        with suppress(OSError):  # it has died: `Crew` will see that
            self.link.send(struct.pack("<QB", number, place))

    def place(self, number: int) -> memoryview:
        """The room for a frame's result."""
        size = len(self.room) // _QUEUE
        return self.room[self.places[number] * size :][:size]

    def end(self) -> int:
        """End it if it still runs, and return its exit code."""
        self.link.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@dataclass(frozen=True)
class Work(Generic[R, S]):
    """The frames of an image: `read` makes one, `finish` does what may follow elsewhere.

    Both are pure. They use the file `descriptor`; `size` is the bytes of a frame in native form.
    """

    count: int
    size: int
    read: Callable[[int], R]
    finish: Callable[[R], S | None] | None
    descriptor: int

    def whole(self, number: int) -> Result[R, S]:
        """Read and finish a frame; what fails in the second step is left to whoever uses the first."""
        made = self.read(number)
        with suppress(Exception):
            return made, self.finish(made) if self.finish is not None else None
        return made, None


class Crew(Generic[R, S]):
    """Does the frames of an image in order, with helpers on `seats` that are free while they are free.

    The owner and its helpers together allocate at most `memory_mb`.
    """

    def __init__(self, work: Work[R, S], seats: Seats | None, memory_mb: int) -> None:
        self._work, self._seats, self._memory = work, seats, memory_mb << 20
        self._helpers: list[_Helper] = []
        self._given = 0  # frames before this one are done, or under way
        self._done: dict[int, Result[R, S] | None] = {}  # before their turn; None: the owner is to do it
        self._ahead: set[int] = set()  # those of them that the owner has done
        self._pace = 0.0  # seconds that the owner took for its last frame
        self._look_at = 0.0  # monotonic time of the next look for a free seat

    def frame(self, number: int) -> Result[R, S]:
        """The next frame; its second part is None if the caller is to finish it.

        A result is valid until the next one is asked for.
        """
        for helper in self._helpers:
            helper.places.pop(number - 1, None)
        if number == self._given:
            self._given += 1
            self._done[number] = None
        while True:
            self._collect()
            self._tend()
            if number in self._done:
                break
            limits.begin_step(self._work.size)
            if self._given < self._work.count and len(self._ahead) < _AHEAD:
                self._do_ahead()
            else:
                self._wait()
            limits.begin_step(self._work.size)
        self._ahead.discard(number)
        done = self._done.pop(number)
        return (self._read(number), None) if done is None else done

    def end(self) -> None:
        """End all helpers."""
        while self._helpers:
            self._helpers.pop().end()

    def finished(self, seconds: float) -> None:
        """The caller took that long to finish a frame itself."""
        self._pace += seconds

    def _read(self, number: int) -> R:
        began = time.monotonic()
        made = self._work.read(number)
        self._pace = time.monotonic() - began
        return made

    def _do_ahead(self) -> None:
        number = self._given
        self._given += 1
        self._ahead.add(number)
        try:
            self._done[number] = self._work.whole(number)
        except Exception:  # noqa: BLE001  it is met again in its turn
            self._done[number] = None

    def _wait(self) -> None:
        waiting = select.poll()
        for helper in self._helpers:
            waiting.register(helper.link, select.POLLIN)
        waiting.poll()

    def _collect(self) -> None:
        """Take what helpers have done, and take leave of those that have ended."""
        for helper in list(self._helpers):
            try:
                while message := helper.link.recv(1 << 12, socket.MSG_DONTWAIT):
                    number, *lengths = struct.unpack(f"<{len(message) // 8}Q", message)
                    self._done[number] = _unpacked(helper.place(number), lengths) if lengths else None
                    if not lengths:
                        del helper.places[number]
            except BlockingIOError:
                continue
            except OSError:
                pass
            self._lose(helper)

    def _lose(self, helper: _Helper) -> None:
        self._helpers.remove(helper)
        called_away = helper.end() == 0
        # If a frame has killed it, it may do so again: then this process dies of it, as it would alone.
        self._look_at = time.monotonic() + _REST if called_away else float("inf")
        for number in helper.places:
            self._done.setdefault(number, None)

    def _tend(self) -> None:
        """Hire helpers if there are free seats and enough work, and give them frames."""
        left = self._work.count - self._given
        now = time.monotonic()
        if self._seats is not None and now >= self._look_at and left > 1 and left * self._pace > _WORTH:
            self._look_at = now + _LOOK_EVERY
            self._hire(self._seats)
        for most in range(1, _QUEUE + 1):
            for helper in self._helpers:
                left = self._work.count - self._given
                # At the end nothing waits for a helper that another could do meanwhile.
                if left and len(helper.places) < most and (most == 1 or left > len(self._helpers) + 1):
                    helper.give(self._given)
                    self._given += 1

    def _hire(self, seats: Seats) -> None:
        allowance, room = self._shares()
        while len(self._helpers) < min(room, self._work.count - self._given - 1):
            loan = seats.borrow()
            if loan is None:
                return
            try:
                self._helpers.append(_fork(self._work, loan, allowance))
            except OSError:
                self._look_at = float("inf")
                return
            finally:
                os.close(loan.descriptor)  # the helper has it

    def _shares(self) -> tuple[int, int]:
        """The limit of a helper's memory, and how many helpers there may be."""
        soft, _ = resource.getrlimit(resource.RLIMIT_DATA)
        whole = self._memory if soft == resource.RLIM_INFINITY else min(soft, self._memory)
        try:
            mine = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        except (OSError, ValueError, IndexError):
            return 0, 0
        grant = _FRAMES * self._work.size + _MORE
        each = grant + _QUEUE * _room(self._work.size)
        return mine + grant, (whole - mine - grant) // each


def _room(size: int) -> int:
    """Bytes of the room for a result."""
    return _RESULT * size + (1 << 20)


def _fork(work: Work[R, S], loan: Loan, memory: int) -> _Helper:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        room = memoryview(mmap.mmap(-1, _QUEUE * _room(work.size)))
        owner = os.getpid()
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid:
        theirs.close()
        return _Helper(pid, ours, room)
    try:
        _begin(owner, memory, {theirs.fileno(), loan.descriptor, work.descriptor})
        _serve(work, loan, _Helper(0, theirs, room))
    except BaseException:  # noqa: BLE001  nothing of the owner's may run in this process
        os._exit(1)


def _begin(owner: int, memory: int, kept: set[int]) -> None:
    """Make a helper of this process: it dies with its owner, and has nothing of it but the files `kept`."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != owner:
        os._exit(1)
    # Locks and connections belong to the owner alone, and end with it.
    bounds = [2, *sorted(kept), os.sysconf("SC_OPEN_MAX")]
    for low, high in pairwise(bounds):
        os.closerange(low + 1, high)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
    gc.disable()  # it would copy pages that are shared


def _serve(work: Work[R, S], loan: Loan, helper: _Helper) -> NoReturn:
    """Do frames until the owner closes the link, or a batch wants the seat."""
    while message := helper.link.recv(16):
        if loan.wanted():
            break
        number, helper.places[0] = struct.unpack("<QB", message)
        limits.begin_step(work.size)
        lengths: Sequence[int] = ()
        with suppress(Exception):
            lengths = _packed(work.whole(number), helper.place(0))
        limits.end_step()
        helper.link.send(struct.pack(f"<{1 + len(lengths)}Q", number, *lengths))
    os._exit(0)


def _packed(result: object, room: memoryview) -> Sequence[int]:
    """Put a result into `room`, and return the lengths of its parts.

    Raises:
        ValueError: it does not fit.
    """
    buffers: list[pickle.PickleBuffer] = []
    first = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
    lengths, at = [], 0
    parts = [memoryview(first), *(buffer.raw() for buffer in buffers)]
    for part in parts:
        room[at : at + len(part)] = part
        lengths.append(len(part))
        at += len(part) + -len(part) % _ALIGN
    return lengths


def _unpacked(room: memoryview, lengths: Sequence[int]) -> Result[R, S]:
    """The result in `room`, without a copy; it comes from a fork of this very process."""
    parts, at = [], 0
    for length in lengths:
        parts.append(room[at : at + length])
        at += length + -length % _ALIGN
    result: Result[R, S] = pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301  see above
    return result
