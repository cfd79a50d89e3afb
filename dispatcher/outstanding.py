"""The batches in Celery, and the instances of each that have no result yet."""

from collections.abc import Iterator
from dataclasses import dataclass

from dicomferry.messages.batches import Batch, TranscodeBatch


@dataclass(slots=True, eq=False)
class Job:
    """One batch; `instances` are those without a result yet."""

    batch: Batch
    instances: set[str]
    started: bool = False


class Outstanding:
    """All batches from their publication to their end."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._transcodes: set[str] = set()
        self._unstarted: set[str] = set()  # of the transcodes

    def __contains__(self, batch: str) -> bool:
        return batch in self._jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._jobs)

    def get(self, batch: str) -> Job | None:
        """The batch of that id, or None where it has ended."""
        return self._jobs.get(batch)

    def add(self, batch: Batch, instances: tuple[str, ...]) -> None:
        """Add a batch that is about to be published."""
        self._jobs[batch.id] = Job(batch, set(instances))
        if isinstance(batch, TranscodeBatch):
            self._transcodes.add(batch.id)
            self._unstarted.add(batch.id)

    def started(self, batch: str) -> None:
        """Note that a worker runs the batch."""
        if job := self._jobs.get(batch):
            job.started = True
            self._unstarted.discard(batch)

    def left(self, batch: str) -> int:
        """How many of its instances have no result yet."""
        job = self._jobs.get(batch)
        return len(job.instances) if job else 0

    def account_for(self, batch: str, instance: str) -> None:
        """Note that the instance has its result."""
        if job := self._jobs.get(batch):
            job.instances.discard(instance)

    def end(self, batch: str) -> Job | None:
        """Remove a batch that nobody runs any more."""
        self._transcodes.discard(batch)
        self._unstarted.discard(batch)
        return self._jobs.pop(batch, None)

    @property
    def is_one_rendition(self) -> bool:
        """Whether nothing is under way but one rendition."""
        batches = [job.batch for job in self._jobs.values()]
        return len(batches) == 1 and isinstance(batches[0], TranscodeBatch) and len(batches[0].instances) == 1

    @property
    def transcodes(self) -> int:
        """Transcode batches."""
        return len(self._transcodes)

    @property
    def transcodes_unstarted(self) -> int:
        """Transcode batches that no worker has started."""
        return len(self._unstarted)

    @property
    def transcodes_running(self) -> int:
        """Transcode batches that a worker has started."""
        return len(self._transcodes) - len(self._unstarted)
