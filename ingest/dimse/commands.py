"""Reads requests' command sets and writes those of responses (PS3.7 chapter 9)."""

from dataclasses import dataclass

from dicomferry.dicom import dimse
from dicomferry.dicom.identifiers import is_uid, text_of
from ingest.dimse.connection import Reason, Violation

_LONGEST_COMMENT = 64  # characters of Error Comment, VR LO


@dataclass(frozen=True, slots=True)
class Command:
    """A request's command set; UIDs as sent, empty where absent."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str
    sop_instance_uid: str


def decode(content: bytes) -> Command:
    """Read a command set.

    Raises:
        Violation: it is damaged, or lacks an element that every request has.
    """
    values, damage = dimse.decode(content)
    if damage:
        raise _damaged(damage)

    def number(element: int) -> int:
        if (value := dimse.number_in(values, element)) is None:
            raise _damaged(f"(0000,{element:04X}) is missing or no US")
        return value

    def uid(affected: int, requested: int) -> str:
        return text_of(values.get(affected, b"")) or text_of(values.get(requested, b""))

    field = number(dimse.COMMAND_FIELD)
    # C-CANCEL and responses have none of their own (PS3.7 9.3.2.3, 9.3.1.2).
    answers = field == dimse.C_CANCEL or field & dimse.RESPONSE
    return Command(
        field=field,
        message_id=number(dimse.MESSAGE_ID_RESPONDED_TO if answers else dimse.MESSAGE_ID),
        has_data_set=number(dimse.DATA_SET_TYPE) != dimse.NO_DATA_SET,
        sop_class_uid=uid(dimse.AFFECTED_SOP_CLASS_UID, dimse.REQUESTED_SOP_CLASS_UID),
        sop_instance_uid=uid(dimse.AFFECTED_SOP_INSTANCE_UID, dimse.REQUESTED_SOP_INSTANCE_UID),
    )


def response(command: Command, status: int, comment: str = "") -> bytes:
    """The command set that answers `command`; `comment` is cut to 64 characters (VR LO)."""
    error_comment = comment.encode("ascii", "replace").replace(b"\\", b"/")[:_LONGEST_COMMENT].strip()
    return dimse.command_set(
        _uid(dimse.AFFECTED_SOP_CLASS_UID, command.sop_class_uid),
        dimse.number(dimse.COMMAND_FIELD, command.field | dimse.RESPONSE),
        dimse.number(dimse.MESSAGE_ID_RESPONDED_TO, command.message_id),
        dimse.number(dimse.DATA_SET_TYPE, dimse.NO_DATA_SET),
        dimse.number(dimse.STATUS, status),
        dimse.text(dimse.ERROR_COMMENT, error_comment, b" ") if error_comment else b"",
        _uid(dimse.AFFECTED_SOP_INSTANCE_UID, command.sop_instance_uid),
    )


def _uid(element: int, uid: str) -> bytes:
    # Optional in a response, so an invalid UID is left out.
    return dimse.text(element, uid.encode("ascii")) if is_uid(uid) else b""


def _damaged(words: str) -> Violation:
    return Violation(Reason.INVALID_PARAMETER, f"command set: {words}")
