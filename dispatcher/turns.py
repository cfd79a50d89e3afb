"""A queue whose callers take turns, and the studies of each caller: none waits for all that another has.

Pure: no socket, clock, Celery or disk.
"""

from collections import deque
from collections.abc import KeysView
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Items by caller and study; the oldest of each study first."""

    def __init__(self) -> None:
        self._callers: dict[str, dict[str, deque[T]]] = {}  # the studies of each, the next one first

    @property
    def callers(self) -> KeysView[str]:
        """Calling AE titles that have an item."""
        return self._callers.keys()

    def add(self, caller: str, study: str, item: T) -> None:
        """Add an item at the end of its study."""
        self._callers.setdefault(caller, {}).setdefault(study, deque()).append(item)

    def first(self, caller: str) -> T | None:
        """The caller's next item."""
        return next((queue[0] for queue in self._callers.get(caller, {}).values()), None)

    def pop(self, caller: str) -> T:
        """Remove the caller's next item, which there must be."""
        studies = self._callers[caller]
        study, queue = next(iter(studies.items()))
        item = queue.popleft()
        if not queue:
            del studies[study]
        if not studies:
            del self._callers[caller]
        return item

    def end_turn(self, caller: str, study: str) -> None:
        """Let the caller's other studies go before this one."""
        studies = self._callers.get(caller, {})
        if study in studies:
            studies[study] = studies.pop(study)
