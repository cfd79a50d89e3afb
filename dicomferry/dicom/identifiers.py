"""UIDs: their syntax, those of this implementation, and two of the standard."""

import re

IMPLEMENTATION_CLASS_UID = "2.25.122372030005293684069474262568868384579"  # PS3.7 D.3.3.2
IMPLEMENTATION_VERSION_NAME = "DICOMFERRY_020"  # 16 characters at most
PRIVATE_INFORMATION_CREATOR = "2.25.201218555577947838435253381613665102100"  # (0002,0100), PS3.10 7.1
VERIFICATION = "1.2.840.10008.1.1"  # the SOP class of C-ECHO (PS3.4 A.4)
HEALTH = "HEALTH"  # AE title that our health check calls with where any may call, or none can from here
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # DICOM's own (PS3.7 A.2.1)

_LONGEST_UID = 64  # characters
_UID = re.compile(r"[0-9](?:[0-9.]{0,62}[0-9])?")


def text_of(value: bytes) -> str:
    """An AE title or a UID as others read it: without padding, and without what follows a NUL."""
    return value.strip(b"\0 ").partition(b"\0")[0].rstrip(b" ").decode("ascii", "replace")


def uid_fault(text: str) -> str:
    """What makes `text` no UID (PS3.5 9.1), in words that do not quote it; empty if it is one."""
    if not re.fullmatch("[0-9.]+", text):
        return "has other characters than digits and dots"
    if len(text) > _LONGEST_UID:
        return f"has more than {_LONGEST_UID} characters"
    components = text.split(".")
    if "" in components:
        return "has an empty component"
    if any(len(part) > 1 and part.startswith("0") for part in components):
        return "has a component with a leading zero"
    return ""


def masked_uid(text: str) -> str:
    """`text` as it may be shown and logged: a UID, or what is meant as one and may hold anything."""
    return re.sub("[^0-9.]", "?", text)


def is_uid(text: str) -> bool:
    """Whether `text` is a UID (PS3.5 9.1); leading zeros and empty components are tolerated."""
    return _UID.fullmatch(text) is not None
