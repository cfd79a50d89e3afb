"""Logging: one line a happening, on standard error, ids and UIDs only (never patient data)."""

import logging
import sys
import warnings


def configure(part: str, level: str = "INFO") -> None:
    """Send this process's log to standard error, each line with the name of its part."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {part} %(message)s"))
    # What no line of ours shows need not be found out for each: who, and where in the source (Logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(level)
    # pynetdicom logs AE titles and association dumps at INFO and, worse, data sets at DEBUG.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    # pydicom quotes values of data sets, in warnings and in its log, whose level it sets when it is loaded.
    pydicom = logging.getLogger("pydicom")
    pydicom.addHandler(logging.NullHandler())
    pydicom.propagate = False
    warnings.simplefilter("ignore", UserWarning)
