"""What `status` says of the way in: the last arrival, and callers that were rejected lately. Pure."""

from dataclasses import dataclass, field
from typing import Any

from dicomferry.messages.events import CallerRejected

_MAX_CALLERS = 5  # callers that are remembered
_LATELY = 86_400.0  # seconds


@dataclass(slots=True)
class Arrivals:
    """Remembers the last arrival and the latest rejections."""

    last_received_at: float | None = None  # seconds since the epoch
    _rejected: dict[tuple[str, str, str], tuple[float, str]] = field(default_factory=dict)

    def received(self, at: float) -> None:
        """An instance came at that time, seconds since the epoch."""
        self.last_received_at = max(at, self.last_received_at or at)

    def rejected(self, event: CallerRejected, now: float) -> None:
        """A caller was rejected now; of the same caller the last rejection is kept."""
        key = event.calling, event.called, event.host
        self._rejected.pop(key, None)
        self._rejected[key] = now, event.why
        if len(self._rejected) > _MAX_CALLERS:
            del self._rejected[next(iter(self._rejected))]

    def snapshot(self, now: float) -> dict[str, Any]:
        """Both as plain values; rejections of the last day, the latest first."""
        return {
            "last_received_at": self.last_received_at,
            "rejected": [
                {"calling": calling, "called": called, "host": host, "at": at, "why": why}
                for (calling, called, host), (at, why) in reversed(self._rejected.items())
                if now - at < _LATELY
            ],
        }
