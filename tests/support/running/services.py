"""The programs that tests talk to: skipped at a desk where they are missing, a failure in CI."""

import os
import shutil
from typing import NoReturn

import pytest

# Debian's folders first: in an activated venv pynetdicom's storescp, echoscu... shadow DCMTK's.
_FOLDERS = ("/usr/local/bin", "/usr/bin", "/usr/sbin")


def program(name: str) -> str:
    """The path of a Debian program that the test needs, say `storescp` (DCMTK's) or `Orthanc`."""
    found = shutil.which(name, path=os.pathsep.join(_FOLDERS))
    return found or missing(f"no {name} here: sh scripts/test.sh installs it")


def missing(reason: str) -> NoReturn:
    """Give up a test for want of a service: in CI that is a failure, at a desk it is skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason} (and CI=true)")
    pytest.skip(reason)
