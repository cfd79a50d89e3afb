"""UIDs: their syntax, those of this implementation, and two of the standard."""

import re

IMPLEMENTATION_CLASS_UID = "2.25.122372030005293684069474262568868384579"  # PS3.7 D.3.3.2
IMPLEMENTATION_VERSION_NAME = "DICOMFERRY_020"  # 16 characters at most
PRIVATE_INFORMATION_CREATOR = "2.25.201218555577947838435253381613665102100"  # (0002,0100), PS3.10 7.1
VERIFICATION = "1.2.840.10008.1.1"  # the SOP class of C-ECHO (PS3.4 A.4)
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # DICOM's own (PS3.7 A.2.1)

_UID = re.compile(r"[0-9](?:[0-9.]{0,62}[0-9])?")


def is_uid(text: str) -> bool:
    """Whether `text` is a UID (PS3.5 9.1); leading zeros in a component are tolerated."""
    return _UID.fullmatch(text) is not None
