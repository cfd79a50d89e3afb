"""How Celery's worker tells Flower what it does: some events together, not each at once.

Each message to Flower costs the worker, Redis and Flower a part of a millisecond, in which an object's next
step would wait for the processor. Celery imports this in workers alone, by the name that `broker` gives it.
"""

from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer

TELL_WITHIN = 0.25  # seconds


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """The consumer of a worker with an event loop."""

    _is_waiting = False  # events wait to be told, and a timer runs

    def on_send_event_buffered(self) -> None:
        """Have them told in a moment; any thread may have sent one."""
        if not self._is_waiting:
            self._is_waiting = True
            self.hub.call_soon(self.hub.call_later, TELL_WITHIN, self._tell)

    def register_with_event_loop(self, hub: Any) -> None:
        """Begin a loop, of which there is one for each connection; the timer may have ended with the last."""
        super().register_with_event_loop(hub)
        self._is_waiting = False

    def shutdown(self) -> None:
        """Tell the rest first."""
        self._tell()
        super().shutdown()

    def _tell(self) -> None:
        self._is_waiting = False  # before: what comes meanwhile may be left out
        self._flush_events()
