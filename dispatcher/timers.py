"""Timers: a heap of times."""

import heapq
import math
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Timers(Generic[T]):
    """Items and their times, in seconds since the epoch."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0  # timers of one time are due in the order in which they were set

    def at(self, when: float, what: T) -> None:
        """Set a timer."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, what))

    @property
    def next(self) -> float:
        """The time of the earliest timer; infinite where there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Iterator[T]:
        """Remove and yield what is due."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]
