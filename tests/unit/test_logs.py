"""What a log never shows, whoever writes to it."""

import subprocess
import sys

QUOTES = """
from dicomferry.logs import configure
configure("worker")
from pydicom.dataset import Dataset
Dataset().PatientBirthDate = "SECRET"
import logging, warnings
import pydicom.pixels.decoders.base as decoders
decoders.LOGGER.error("SECRET")
warnings.warn("Invalid value for VR DA: 'SECRET'", UserWarning, stacklevel=1)
"""


def test_pydicom_quotes_no_value_of_a_data_set():
    done = subprocess.run([sys.executable, "-c", QUOTES], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


HOSTILE = r"""
import logging
from dicomferry.logs import configure
configure("ingest")
log = logging.getLogger("x")
log.warning("Refused %s", "X\n2026-01-01 00:00:00,000 INFO ingest Received\x1b[2J\u202e\x9b")
try:
    raise ValueError("X\n2026-01-01 00:00:00,000 INFO ingest Received\r2026 forged\x1b[2J")
except ValueError:
    log.exception("Fault")
"""


def test_no_value_makes_a_line_of_its_own_or_commands_the_terminal():
    done = subprocess.run([sys.executable, "-c", HOSTILE], capture_output=True, text=True, check=True)
    lines = done.stderr.split("\n")[:-1]
    assert all(line.isprintable() for line in lines)
    ours = [line for line in lines if not line.startswith("  ")]  # of a traceback each line is indented
    assert [line.split()[4] for line in ours] == ["Refused", "Fault"]
