"""How child processes ended over an instance: in the log, and as the reason for a failed one."""

import logging
import re
from contextlib import suppress
from pathlib import Path

from dicomferry.messages.batches import TranscodeBatch
from dicomferry.spool import durable
from dicomferry.spool.spool import Spool

log = logging.getLogger(__name__)

# The signals as billiard spells them.
_WORDS = {
    "SIGALRM": "it was still at work when its time was over",
    "SIGSEGV": "the codec crashed (SIGSEGV)",
    "SIGBUS": "the codec crashed (SIGBUS)",
    "SIGFPE": "the codec crashed (SIGFPE)",
    "SIGILL": "the codec crashed (SIGILL)",
    "SIGABRT": "the codec gave up (SIGABRT), often for want of memory",
    "SIGKILL": "it was killed from outside (SIGKILL), often for want of memory",
}


def record(spool: Spool, batch: TranscodeBatch, error: BaseException) -> None:
    """Log how the child that ran `batch` ended, and keep it for the reason of a failed instance."""
    found = re.search(r"\((SIG[A-Z0-9]+)\)", str(error))
    name = found[1] if found else "no signal"
    words = _WORDS.get(name, f"it ended ({name})")
    log.error("ChildLost batch=%s n=%d: %s", batch.id, len(batch.instances), words)
    for instance in batch.instances:
        # Partial files would fill the disk. If another worker is writing one by now, its batch is repeated.
        remove_leftovers(spool, batch, instance)
    if batch.alone:
        path = _path(spool, batch, batch.instances[0])
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(words)


def remove_leftovers(spool: Spool, batch: TranscodeBatch, instance: str) -> None:
    """Remove what was left of the instance's rendition when a child ended."""
    for left in durable.leftover_temporaries(spool.rendition(batch.boot, instance, batch.spec.key)):
        left.unlink(missing_ok=True)


def last(spool: Spool, batch: TranscodeBatch, instance: str) -> str:
    """How the last one ended, as a further part of a reason; empty where it is not known."""
    try:
        return f"; the last time {_path(spool, batch, instance).read_text()}"
    except OSError:
        return ""


def _path(spool: Spool, batch: TranscodeBatch, instance: str) -> Path:
    return spool.rendition(batch.boot, instance, batch.spec.key).with_suffix(".ended")
