"""Logging: one line per event, on standard error, with ids and UIDs only (never patient data)."""

import logging
import sys
import warnings
from typing import Any

from dicomferry.text import shown


class _OneLine(logging.Formatter):
    """Nothing that is logged makes a line that looks like one of ours, or reaches a terminal as a command."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = shown(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return "\n".join(f"  {shown(line)}" for line in super().formatException(ei).splitlines())


def configure(part: str, level: str = "INFO") -> None:
    """Send this process's log to standard error, each line with the name of its part."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(_OneLine(f"%(asctime)s %(levelname)s {part} %(message)s"))
    # Our format shows neither thread, process nor source line: do not look them up (Logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(level)
    # pynetdicom logs AE titles and association dumps at INFO and, worse, data sets at DEBUG.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    # pydicom quotes values of data sets in its warnings and its log, and sets that log's level on import.
    pydicom = logging.getLogger("pydicom")
    pydicom.addHandler(logging.NullHandler())
    pydicom.propagate = False
    warnings.simplefilter("ignore", UserWarning)
