"""Which renditions are on the spool, which are being made, and the deliveries that wait for them."""

from dicomferry.spool.instance import RenditionSpec
from dispatcher.lanes import Delivery, Place


class Renditions:
    """All renditions; a key is a `RenditionSpec.key`."""

    def __init__(self) -> None:
        self._made: dict[str, dict[str, int]] = {}  # by instance: keys, each with its bytes
        self._waiters: dict[tuple[str, str], list[Delivery]] = {}  # of those being made

    def size(self, instance: str, spec: RenditionSpec) -> int:
        """Bytes of the rendition on the spool; 0 where there is none, or nobody has told."""
        return self._made.get(instance, {}).get(spec.key, 0)

    def exists(self, instance: str, spec: RenditionSpec) -> bool:
        """Whether the rendition is on the spool."""
        made = self._made.get(instance)
        return made is not None and spec.key in made

    def begin(self, spec: RenditionSpec, delivery: Delivery) -> None:
        """Note that the rendition is requested for this delivery."""
        self._waiters[delivery.entry.id, spec.key] = [delivery]

    def join(self, spec: RenditionSpec, delivery: Delivery) -> bool:
        """Let one more delivery wait for the rendition; False where nobody makes it."""
        waiters = self._waiters.get((delivery.entry.id, spec.key))
        if not waiters:
            return False
        delivery.batch = waiters[0].batch
        waiters.append(delivery)
        return True

    def made(self, instance: str, key: str, size: int) -> None:
        """Note that the rendition is on the spool."""
        self._made.setdefault(instance, {})[key] = size

    def end(self, instance: str, key: str) -> list[Delivery]:
        """Note that nobody makes it any more; returns the deliveries that still wait for it."""
        waiting = self.waiting(instance, key)
        self._waiters.pop((instance, key), None)
        return waiting

    def waiting(self, instance: str, key: str) -> list[Delivery]:
        """The deliveries that wait for it while it is being made."""
        return [d for d in self._waiters.get((instance, key), ()) if d.place is Place.RENDERING]

    def forget(self, instance: str) -> bool:
        """Drop what was known of an instance's renditions: they may be gone; returns whether any was."""
        return self._made.pop(instance, None) is not None
