"""Which renditions stand on the spool, which are being made, and who waits for them."""

from dicomferry.spool.instance import RenditionSpec
from dispatcher.lanes import Delivery, Place


class Renditions:
    """The queue manager's memory of renditions; a key is a `RenditionSpec.key`."""

    def __init__(self) -> None:
        self._made: dict[str, set[str]] = {}  # by instance: keys
        self._waiters: dict[tuple[str, str], list[Delivery]] = {}  # of those being made

    def stands(self, instance: str, spec: RenditionSpec) -> bool:
        """Whether it can be sent."""
        made = self._made.get(instance)
        return made is not None and spec.key in made

    def begin(self, spec: RenditionSpec, delivery: Delivery) -> None:
        """It is asked for, for this delivery."""
        self._waiters[delivery.entry.id, spec.key] = [delivery]

    def join(self, spec: RenditionSpec, delivery: Delivery) -> bool:
        """Let one more delivery wait for it; False where nobody makes it."""
        waiters = self._waiters.get((delivery.entry.id, spec.key))
        if not waiters:
            return False
        delivery.batch = waiters[0].batch
        waiters.append(delivery)
        return True

    def made(self, instance: str, key: str) -> None:
        """It stands on the spool."""
        self._made.setdefault(instance, set()).add(key)

    def end(self, instance: str, key: str) -> list[Delivery]:
        """Nobody makes it any more; those who still wait for it."""
        return [d for d in self._waiters.pop((instance, key), ()) if d.place is Place.RENDERING]

    def forget(self, instance: str) -> None:
        """What was said to stand may be gone."""
        self._made.pop(instance, None)
