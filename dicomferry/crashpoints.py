"""Named points, before and after each durable step, at which a test kills a process as a power cut would.

Nothing happens at a point unless DICOMFERRY_CRASH_POINTS names a folder. A process that reaches a point then
removes the file of that name from the folder; if it was there, it kills itself: once for each file.
"""

import os
import signal

VARIABLE = "DICOMFERRY_CRASH_POINTS"

POINTS = (
    # Ingest receives.
    "reception.written",  # the whole data set is with the kernel
    "reception.recorded",  # and the record in its place
    "reception.file-synced",
    "reception.renamed",  # the instance exists, perhaps not for long
    "reception.shard-synced",  # from here on it exists
    "reception.announced",  # the event is sent, the answer is not
    "reception.answered",
    # The dispatcher decides.
    "event.taken",  # from Redis, and not handled yet
    "publication.leased",  # the lease exists, nothing is published
    "publication.published",
    "history.written",
    "retirement.begun",  # everything is delivered, the instance still exists
    "retirement.departed",  # it has left its place, and its history is written
    "retirement.joined",  # it has joined its markers, and exists no longer
    "retirement.renamed",  # they are in the trash
    "burial.begun",
    "burial.marked",
    # A worker transcodes.
    "transcoding.leased",
    "transcoding.written",  # the rendition, under its temporary name
    "transcoding.renamed",
    "transcoding.told",
    "transcoding.finished",  # the lease is gone, the event has not left
    # The forwarder delivers.
    "delivery.leased",
    "delivery.associated",
    "delivery.sent",  # every byte, nothing is answered yet
    "delivery.answered",  # no marker is written yet
    "delivery.departed",  # the instance has left its place, perhaps not for good
    "replacement.written",  # a marker, under its temporary name
    "replacement.renamed",
    "delivery.marked",
    "delivery.told",
    "delivery.finished",  # the lease is gone, the event has not left
)

_folder = os.environ.get(VARIABLE)


def reach(point: str) -> None:
    """Kill this process with SIGKILL if a test has armed `point`."""
    if _folder is not None:
        _crash_if_armed(_folder, point)


def _crash_if_armed(folder: str, point: str) -> None:
    if point not in POINTS:
        raise AssertionError(f"{point} is no crash point")
    try:
        os.unlink(os.path.join(folder, point))  # noqa: PTH108, PTH118  cheaper than pathlib
    except OSError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
