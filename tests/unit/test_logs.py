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
