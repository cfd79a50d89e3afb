"""What is to be looked at later: a heap of times."""

import heapq
import math
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Timers(Generic[T]):
    """Things and the times, in seconds since the epoch, when they are due."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._count = 0  # those of one time are due in the order of their setting

    def at(self, when: float, what: T) -> None:
        """Set a timer."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, what))

    @property
    def next(self) -> float:
        """When something is due; infinite where nothing is."""
        return self._heap[0][0] if self._heap else math.inf

    def due(self, now: float) -> Iterator[T]:
        """Take what is due."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]
