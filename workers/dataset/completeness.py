"""Whether a data set without pixel data is a truncated one: its file was cut between two elements.

Such a data set is well formed. Only the elements that the standard wants after the cut show that it was cut.
"""

from collections.abc import Collection

from workers.dataset import attributes

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
FLOATS = frozenset((0x7FE00008, 0x7FE00009))  # Float and Double Float Pixel Data
_GROUP_8 = 0x00080000  # an instance begins with it; a DICOMDIR with group 4
_PATIENT = frozenset((0x00100010, 0x00100020))
# What an instance has in place of Pixel Data: spectra, which Rows and Columns describe too (PS3.3 C.8.14),
# the root of a report (C.17.3), waveforms (C.10.9), an encapsulated document (C.24.2), and Pixel Data
# Provider URL (C.7.6.3).
_IN_PLACE_OF_PIXELS = FLOATS | {0x56000020, 0x0040A040, 0x54000100, 0x00420011, 0x00287FE0}


def truncation(tags: Collection[int], sop_class_uid: str) -> str | None:
    """Why a data set of the elements `tags`, without Pixel Data, must be truncated; None if nothing shows it.

    Every instance names its SOP Class; if it is of a patient or an image, also its study and series (PS3.3
    C.12.1, C.7.2.1, C.7.3.1); if it describes pixels, it has some (PS3.3 C.7.6.3). An image cut between those
    elements looks like one whose pixels were removed on purpose.
    """
    # Not at the top: pydicom takes long to load, and a data set with pixels does not need it.
    from pydicom.uid import UID  # noqa: PLC0415

    present = frozenset(tags)
    named = {SOP_INSTANCE, STUDY, SERIES} <= present
    owned = bool(present & _PATIENT) or UID(sop_class_uid).name.endswith("Image Storage")
    nameless = _GROUP_8 <= max(present, default=_GROUP_8) < SOP_CLASS
    if nameless or (SOP_CLASS in present and owned and not named):
        return "the data set ends before it names its instance, study and series: it is truncated"
    if present & attributes.OF_PIXELS and not present & _IN_PLACE_OF_PIXELS:
        return "the attributes of an image are there, its pixel data are not: it is truncated"
    return None
