"""What every test relies on."""

import pytest

from dicomferry.dicom.requestor import fix_lost_responses
from forwarder.dimse import scu

# Many tests send with pynetdicom, which would now and then lose a response.
fix_lost_responses()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release is waited for until it is answered, however long the machine stalls."""
    monkeypatch.setattr(scu, "_RELEASE_SECONDS", 30.0)
