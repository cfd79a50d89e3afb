"""What the queue manager asks the service to do, and what only the service tells it."""

from dataclasses import dataclass

from dicomferry.messages.batches import Batch
from dicomferry.spool.instance import State


@dataclass(frozen=True, slots=True)
class Publish:
    """Make the batch's lease, then hand the batch to Celery; `label` is what Flower shows."""

    batch: Batch
    label: str
    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bury:
    """Write a dead marker."""

    instance: str
    destination: str
    reason: str
    status: int | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Retire:
    """Every delivery is delivered: remove the instance."""

    instance: str


@dataclass(frozen=True, slots=True)
class Reread:
    """Look at the spool and tell what it says of these: a `Known` or a `Vanished` each."""

    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """Write a line of history; `at` in seconds since the epoch, None for now."""

    instance: str
    sop_instance_uid: str
    what: str
    destination: str
    words: str
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    """Every delivery is delivered, but the instance is to stay a while: its renditions need not."""

    instance: str


Command = Publish | Bury | Retire | Keep | Reread | Note


@dataclass(frozen=True, slots=True)
class Known:
    """The service has read this instance from the spool."""

    state: State


@dataclass(frozen=True, slots=True)
class Vanished:
    """The spool has no such instance (any more)."""

    instance: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A batch will not be run (again): its lease was taken back. `died` says that it had been running."""

    batch: str
    died: bool
