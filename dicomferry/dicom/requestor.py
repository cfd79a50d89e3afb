"""pynetdicom's requestor, with what its 3.0.4 loses between its threads on a busy machine put right."""

from typing import Any

from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.pdu import A_ASSOCIATE_RJ

from dicomferry.dicom.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME

_take = DIMSEServiceProvider.get_msg


def keep_responses() -> None:
    """Keep pynetdicom 3.0.4's reactor from taking the response that its own requestor waits for.

    It says that it is paused a moment before it is: a request sent in that moment is answered, the reactor
    drops the answer as nothing that it serves, and the requestor waits until its timeout. On a busy machine
    that was seen once in a few thousand C-STOREs.
    """

    def get_msg(provider: DIMSEServiceProvider, block: bool = False) -> Any:
        paused = not provider.assoc._reactor_checkpoint.is_set()  # noqa: SLF001  there is no other door
        return (None, None) if paused and not block else _take(provider, block)

    DIMSEServiceProvider.get_msg = get_msg  # type: ignore[method-assign, assignment]


def associate(entity: AE, host: str, port: int, called: str) -> Association:
    """Ask for an association with the AE `called`; its `is_rejected` tells of every A-ASSOCIATE-RJ.

    Before pynetdicom waits for the answer it looks whether the connection stands. A rejection ends the
    connection: where it has come by then, nobody looks at it, and the association counts as aborted.
    """
    keep_responses()
    entity.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    rejections = []

    def note(event: evt.Event) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            rejections.append(event.pdu)

    association = entity.associate(host, port, ae_title=called, evt_handlers=[(evt.EVT_PDU_RECV, note)])
    association.is_rejected = bool(rejections)
    return association
