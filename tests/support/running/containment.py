"""Runs cases that may crash or hang, in children that take nothing with them.

A child runs one case after the other and says before each which it is, so that whatever kills it is known.
"""

import multiprocessing
import resource
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

_MEMORY = 6 << 30  # address space of a child, of which the libraries take half a GiB


@dataclass(frozen=True)
class Ended:
    """How a case ended: its own answer, or what became of its child."""

    answer: Any = None
    crashed: str = ""  # by which signal or exit code
    hung: bool = False


def run_all(
    cases: Sequence[Any], run: Callable[[Any], Any], *, deadline: float, children: int = 2
) -> list[Ended]:
    """`run(case)` for each, in children; a case has `deadline` seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([run.__module__])
    waiting = [range(first, len(cases), children) for first in range(children)]
    ended: dict[int, Ended] = {}
    lanes = [_Lane(context, cases, run, list(numbers)) for numbers in waiting if numbers]
    while any(lane.busy for lane in lanes):
        busy = [lane for lane in lanes if lane.busy]
        ready = wait([lane.pipe for lane in busy], timeout=1)
        for lane in busy:
            if lane.pipe in ready:
                lane.listen(ended)
            elif time.monotonic() - lane.since > deadline:
                lane.give_up(ended)
    return [ended[number] for number in range(len(cases))]


class _Lane:
    """One child after the other, for its share of the cases."""

    def __init__(
        self, context: Any, cases: Sequence[Any], run: Callable[[Any], Any], numbers: list[int]
    ) -> None:
        self._context, self._cases, self._run, self._numbers = context, cases, run, numbers
        self._start()

    def _start(self) -> None:
        self.busy = bool(self._numbers)
        if not self.busy:
            return
        self.pipe, theirs = self._context.Pipe()
        self.since = time.monotonic() + 30  # the child's start is not the case's time
        todo = [(number, self._cases[number]) for number in self._numbers]
        self._child = self._context.Process(target=_work, args=(theirs, self._run, todo), daemon=True)
        self._child.start()
        theirs.close()

    def listen(self, ended: dict[int, Ended]) -> None:
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self._child.join()
            code = self._child.exitcode
            if not self._numbers:
                self.busy = False
                return
            name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            ended[self._numbers.pop(0)] = Ended(crashed=name)
            self._start()
            return
        self.since = time.monotonic()
        ended[self._numbers.pop(0)] = Ended(answer)

    def give_up(self, ended: dict[int, Ended]) -> None:
        self._child.kill()
        self._child.join()
        ended[self._numbers.pop(0)] = Ended(hung=True)
        self._start()


def _work(pipe: Connection, run: Callable[[Any], Any], todo: list[tuple[int, Any]]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for _number, case in todo:
        pipe.send(run(case))
    pipe.close()
