"""Whether a data set without pixel data should have some: a file that was cut between two elements.

A cut data set is well formed. Only what the standard wants behind the cut can tell.
"""

from collections.abc import Collection

from workers.dataset import attributes

SOP_CLASS, SOP_INSTANCE, STUDY, SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
FLOATS = frozenset((0x7FE00008, 0x7FE00009))  # Float and Double Float Pixel Data
_GROUP_8 = 0x00080000  # where instances begin; a DICOMDIR begins before
_PATIENT = frozenset((0x00100010, 0x00100020))
_ELSEWHERE = 0x00287FE0  # Pixel Data Provider URL (PS3.3 C.7.6.3)


def what_is_missing(tags: Collection[int], sop_class_uid: str) -> str | None:
    """What shows that a data set of the elements `tags`, without Pixel Data, was cut; None: nothing does.

    Every instance says its SOP Class; what does, and is of a patient or an image, names its study and series
    too (PS3.3 C.12.1, C.7.2.1, C.7.3.1), and what describes pixels has some (PS3.3 C.7.6.3). An image whose
    file ends between the two cannot be told from one whose pixels were taken away on purpose.
    """
    # Not at the top: pydicom takes long to load, and what has pixels needs none of it.
    from pydicom.uid import UID  # noqa: PLC0415

    present = frozenset(tags)
    named = {SOP_INSTANCE, STUDY, SERIES} <= present
    owned = bool(present & _PATIENT) or UID(sop_class_uid).name.endswith("Image Storage")
    nameless = _GROUP_8 <= max(present, default=_GROUP_8) < SOP_CLASS
    if nameless or (SOP_CLASS in present and owned and not named):
        return "the data set ends before it names its instance, study and series: it is truncated"
    if present & attributes.OF_PIXELS and not present & FLOATS and _ELSEWHERE not in present:
        return "the attributes of an image are there, its pixel data are not: it is truncated"
    return None
