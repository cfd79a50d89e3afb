"""The queue manager's commands to the service, and the events that only the service makes."""

from dataclasses import dataclass

from dicomferry.dicom.syntaxes import label
from dicomferry.messages.batches import Batch
from dicomferry.spool.instance import Instance, State


@dataclass(frozen=True, slots=True)
class Publish:
    """Make the batch's lease, then hand the batch to Celery; `label` is what Flower shows."""

    batch: Batch
    label: str
    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MarkDead:
    """Mark a delivery dead on the spool."""

    instance: str
    sop_instance_uid: str
    destination: str
    reason: str
    status: int | None
    attempts: int


@dataclass(frozen=True, slots=True)
class CountAttempt:
    """Count a failed attempt of a delivery on the spool."""

    instance: str
    destination: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Every delivery is delivered: remove the instance."""

    instance: str


@dataclass(frozen=True, slots=True)
class Reread:
    """Read these instances from the spool again; each gives a `Found` or a `NotFound`."""

    instances: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """Write a line of history, of an instance or, where that is empty, of a lane.

    `at` is in seconds since the epoch, None for now; the UIDs of study and series are of "received" alone.
    """

    instance: str
    sop_instance_uid: str
    what: str
    destination: str
    words: str
    at: float | None = None
    study: str | None = None
    series: str | None = None


def received(instance: Instance) -> Note:
    """The first line of an instance's history."""
    words = (
        f"{label(instance.transfer_syntax_uid)}, {instance.size} bytes, digest {instance.digest}, "
        f"{instance.modality or 'no modality'}, from {instance.calling_ae_title} ({instance.peer}) to "
        f"{instance.called_ae_title}, {instance.route}"
    )
    return Note(
        instance.id,
        instance.sop_instance_uid,
        "received",
        "",
        "; ".join((words, *instance.notes)),
        instance.received_at,
        study=instance.study_instance_uid,
        series=instance.series_instance_uid,
    )


@dataclass(frozen=True, slots=True)
class DropRenditions:
    """The instance stays a while and its renditions need not: remove them."""

    instance: str


Command = Publish | MarkDead | CountAttempt | Retire | DropRenditions | Reread | Note


@dataclass(frozen=True, slots=True)
class Found:
    """The service has read this instance from the spool."""

    state: State


@dataclass(frozen=True, slots=True)
class NotFound:
    """The spool does not have this instance, or no longer."""

    instance: str


@dataclass(frozen=True, slots=True)
class Lost:
    """A batch will not run (again): its lease was taken back. `died`: it had been running."""

    batch: str
    died: bool
