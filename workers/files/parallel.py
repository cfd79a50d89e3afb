"""Many files at once, each in a child process that may die of it.

A codec that takes its process along breaks the whole pool. What was under way then is tried again, one file
at a time, until the guilty one is known and has failed alone.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import forkserver

from dicomferry.spool import durable
from workers import limits
from workers.files.folder import Job, Kind, Order, Outcome, convert

# So many files wait in the pool for each process: enough to keep it busy, few to try again if it breaks.
_AHEAD = 2
_KILLED = "the codec killed its process: it crashed, took too long, or too much memory"

Convert = Callable[[Job, Order], Outcome]
_UnderWay = dict[Future[Outcome], Job]


def prepare() -> None:
    """Begin to load the codecs in the server that the children are forked from, while the rest is prepared.

    Forked from it they have no threads of ours, and each has the codecs at once.
    """
    # A name in the current folder must not shadow one of ours.
    os.environ["PYTHONSAFEPATH"] = "1"
    forkserver.set_forkserver_preload(["workers.transcode"])
    forkserver.ensure_running()


def run(jobs: Sequence[Job], wanted: Order, processes: int, convert: Convert = convert) -> Iterator[Outcome]:
    """Do all jobs in so many processes; outcomes come as they are known, exactly one for each job.

    `convert` is what a child does, by default `folder.convert`.
    """
    # The largest first, so that none is left to a single core at the end.
    waiting = deque(sorted(jobs, key=lambda job: -job.size))
    # What stands there later is ours, if only of a child that died before it could say so.
    vacant = {job.target for job in jobs if not job.target.exists()}
    while waiting:
        suspects = yield from _until_broken(waiting, wanted, convert, processes, _AHEAD * processes)
        for suspect in suspects:
            again = replace(wanted, overwrite=wanted.overwrite or suspect.target in vacant)
            for guilty in (yield from _until_broken(deque([suspect]), again, convert, 1, 1)):
                yield Outcome(guilty, Kind.FAILED, _KILLED)


def _until_broken(
    waiting: deque[Job], wanted: Order, convert: Convert, processes: int, ahead: int
) -> Generator[Outcome, None, list[Job]]:
    """Do what waits, `ahead` jobs at a time; returns those that were under way when a process died."""
    under_way: _UnderWay = {}
    lost: list[Job] = []
    with _pool(min(processes, len(waiting)), under_way, wanted.ceilings.memory_mb) as pool:
        whole = True
        while under_way or (waiting and whole):
            while waiting and whole and len(under_way) < ahead:
                try:
                    under_way[pool.submit(convert, waiting[0], wanted)] = waiting[0]
                    waiting.popleft()
                except BrokenProcessPool:
                    whole = False
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                job = under_way[future]
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    whole = False
                    _sweep(job)
                    lost.append(under_way.pop(future))
                else:
                    del under_way[future]
                    yield outcome
    return lost


@contextmanager
def _pool(processes: int, under_way: _UnderWay, memory_mb: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes are gone afterwards; what they were doing is ended if an exception leaves it."""
    prepare()
    context = multiprocessing.get_context("forkserver")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_become_child, initargs=(memory_mb,)
    )
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        # Waited for: a pool whose thread is still ending makes the interpreter complain at exit.
        pool.shutdown(cancel_futures=True)
        for job in under_way.values():
            _sweep(job)
        raise
    pool.shutdown()


def _become_child(memory_mb: int) -> None:
    limits.confine(memory_mb)
    # Control-C goes to every process of the terminal; the parent ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The pool's processes hold each other's pipes open, so that none would notice that the parent was killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _sweep(job: Job) -> None:
    """Remove what a killed child left of its output."""
    for left in durable.leftover_temporaries(job.target):
        left.unlink(missing_ok=True)
