"""Transcodes many files at once, in child processes that a codec may kill.

A process that dies breaks the whole pool. The files that were under way are then tried again one by one, and
the file that kills its process alone has failed.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

from dicomferry.spool import durable
from dicomferry.spool.seats import Seats
from workers import limits
from workers.files.folder import Job, Kind, Order, Outcome, convert

# Files in the pool per process: enough to keep it busy, few to repeat if it breaks.
_FILES_PER_PROCESS = 2
_KILLED = "the codec killed its process: it crashed, took too long, or too much memory"

Convert = Callable[[Job, Order], Outcome]
_UnderWay = dict[Future[Outcome], Job]


def prepare() -> None:
    """Start to load the codecs in the fork server, while the caller prepares the rest.

    Children that are forked from it have none of our threads and have the codecs loaded.
    """
    # Modules in the current folder must not shadow ours.
    os.environ["PYTHONSAFEPATH"] = "1"
    forkserver.set_forkserver_preload(["workers.transcode"])
    forkserver.ensure_running()


def run(jobs: Sequence[Job], order: Order, processes: int, convert: Convert = convert) -> Iterator[Outcome]:
    """Do all jobs in `processes` child processes; yield exactly one outcome per job, as they finish.

    A child calls `convert`. Where processes are idle, helpers do some frames of the files under way.
    """
    with tempfile.TemporaryDirectory(prefix="dicomferry-") as folder:
        yield from _run(jobs, replace(order, seats=Seats(Path(folder), processes)), processes, convert)


def _run(jobs: Sequence[Job], order: Order, processes: int, convert: Convert) -> Iterator[Outcome]:
    # The largest first, so that no large one runs alone at the end.
    waiting = deque(sorted(jobs, key=lambda job: -job.size))
    # A file that appears at one of these is ours, even if the child died before it reported it.
    vacant = {job.target for job in jobs if not job.target.exists()}
    while waiting:
        suspects = yield from _run_pool(waiting, order, convert, processes, _FILES_PER_PROCESS * processes)
        for suspect in suspects:
            again = replace(order, overwrite=order.overwrite or suspect.target in vacant)
            for guilty in (yield from _run_pool(deque([suspect]), again, convert, 1, 1)):
                yield Outcome(guilty, Kind.FAILED, _KILLED)


def _run_pool(
    waiting: deque[Job], order: Order, convert: Convert, processes: int, ahead: int
) -> Generator[Outcome, None, list[Job]]:
    """Do the `waiting` jobs, at most `ahead` at a time; return those under way when a process died."""
    under_way: _UnderWay = {}
    lost: list[Job] = []
    with _pool(min(processes, len(waiting)), under_way, order.ceilings.memory_mb) as pool:
        intact = True
        while under_way or (waiting and intact):
            while waiting and intact and len(under_way) < ahead:
                try:
                    under_way[pool.submit(convert, waiting[0], order)] = waiting[0]
                    waiting.popleft()
                except BrokenProcessPool:
                    intact = False
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                job = under_way[future]
                try:
                    outcome = future.result()
                except BrokenProcessPool:
                    intact = False
                    _remove_partial(job)
                    lost.append(under_way.pop(future))
                else:
                    del under_way[future]
                    yield outcome
    return lost


@contextmanager
def _pool(processes: int, under_way: _UnderWay, memory_mb: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes end with the block; an exception kills them and removes their partial output."""
    prepare()
    context = multiprocessing.get_context("forkserver")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_set_up_child, initargs=(memory_mb,)
    )
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        # Wait: if the pool's thread is still ending at exit, the interpreter complains.
        pool.shutdown(cancel_futures=True)
        for job in under_way.values():
            _remove_partial(job)
        raise
    pool.shutdown()


def _set_up_child(memory_mb: int) -> None:
    limits.limit_process(memory_mb)
    # Control-C signals every process of the terminal; the parent ends its children.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The pool's processes hold each other's pipes open, so they would not notice that the parent was killed.
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _remove_partial(job: Job) -> None:
    """Remove the partial output of a killed child."""
    for left in durable.leftover_temporaries(job.target):
        left.unlink(missing_ok=True)
