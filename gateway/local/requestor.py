"""pynetdicom's requestor, with two races of its version 3.0.4 fixed, each of which loses an answer."""

from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_RJ

from dicomferry.dicom.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_get_msg = DIMSEServiceProvider.get_msg


def fix_lost_responses() -> None:
    """Keep pynetdicom 3.0.4's reactor thread from taking the response for which the requestor waits.

    The reactor reports that it is paused a moment before it is. It may then take the response to a request
    sent in that moment, which it drops, and the requestor waits until its timeout. A busy machine showed this
    once in a few thousand C-STOREs.
    """

    def get_msg(provider: DIMSEServiceProvider, block: bool = False) -> Any:
        paused = not provider.assoc._reactor_checkpoint.is_set()  # noqa: SLF001  there is no public name
        return (None, None) if paused and not block else _get_msg(provider, block)

    DIMSEServiceProvider.get_msg = get_msg  # type: ignore[method-assign, assignment]


def associate(entity: AE, host: str, port: int, called: str) -> Association:
    """Request an association with the AE `called`; `is_rejected` is true after every A-ASSOCIATE-RJ.

    pynetdicom checks the connection before it waits for the answer. A rejection closes the connection; if it
    has arrived by then, pynetdicom does not read it and reports an abort.
    """
    fix_lost_responses()
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    rejections = []

    def note_rejection(event: evt.Event) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    association = entity.associate(
        host, port, ae_title=called, evt_handlers=[(evt.EVT_PDU_RECV, note_rejection)]
    )
    association.is_rejected = bool(rejections)
    return association
