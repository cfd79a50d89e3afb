"""Instances that stay on the spool though nothing of them is pending."""

from collections.abc import Iterator

from dispatcher.timers import Timers


class Held:
    """Instances, and their bytes in all."""

    def __init__(self) -> None:
        self.bytes = 0
        self._sizes: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, instance: object) -> bool:
        return instance in self._sizes

    def add(self, instance: str, size: int) -> None:
        """Add an instance, once."""
        self.remove(instance)
        self._sizes[instance] = size
        self.bytes += size

    def remove(self, instance: str) -> None:
        """Remove an instance, if it is there."""
        self.bytes -= self._sizes.pop(instance, 0)


class Kept(Held):
    """Delivered instances, each until its time is over."""

    def __init__(self) -> None:
        super().__init__()
        self._until: dict[str, float] = {}
        self._ends: Timers[str] = Timers()

    def keep(self, instance: str, size: int, until: float) -> None:
        """Add an instance, until then."""
        self.add(instance, size)
        self._until[instance] = until
        self._ends.at(until, instance)

    def remove(self, instance: str) -> None:
        """Remove an instance, if it is there."""
        super().remove(instance)
        self._until.pop(instance, None)

    def take_ended(self, now: float) -> Iterator[str]:
        """Remove the instances whose time is over."""
        for instance in self._ends.due(now):
            if self._until.get(instance, now + 1) <= now:
                self.remove(instance)
                yield instance
