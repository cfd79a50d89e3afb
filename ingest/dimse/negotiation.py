"""The PDUs that begin an association: A-ASSOCIATE-RQ, -AC and -RJ (PS3.8 9.3.2 to 9.3.4).

`dicomferry.dicom.negotiation` reads requests; pynetdicom encodes the answers.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ
from pynetdicom.pdu_items import (
    ApplicationContextItem,
    PresentationContextItemAC,
    TransferSyntaxSubItem,
    UserInformationItem,
)

from dicomferry.dicom import negotiation
from dicomferry.dicom.identifiers import APPLICATION_CONTEXT, VERIFICATION
from dicomferry.dicom.negotiation import FIXED_PART
from dicomferry.dicom.wire import PDU_HEADER, Pdu, user_information
from ingest.admission import Rejected
from ingest.dimse.connection import MAXIMUM_PDU, Reason, Violation
from ingest.dimse.contexts import Answered, Proposed

_VERSION_1 = 1  # a bit of the protocol version


@dataclass(frozen=True, slots=True)
class AssociationRequest:
    """What an A-ASSOCIATE-RQ asks for."""

    called_ae_title: str
    calling_ae_title: str
    contexts: tuple[Proposed, ...]
    maximum_length: int  # bytes of a P-DATA-TF that the requestor takes; 0: no limit (PS3.8 annex D.1)
    head: bytes  # as sent; the acceptance repeats it
    unsupported: Rejected | None  # why we accept no request of this kind

    @property
    def only_verifies(self) -> bool:
        """Whether nothing but a C-ECHO can come of it."""
        return all(context.abstract_syntax == VERIFICATION for context in self.contexts)


def decode(content: memoryview) -> AssociationRequest:
    """Read the content of an A-ASSOCIATE-RQ.

    Raises:
        Violation: it is damaged.
    """
    try:
        request = negotiation.read(Pdu.ASSOCIATE_RQ, content)
    except negotiation.DamagedNegotiationError as error:
        raise Violation(Reason.INVALID_PARAMETER, f"A-ASSOCIATE-RQ: {error}") from error
    unsupported: Rejected | None = None
    if not request.version & _VERSION_1:
        unsupported = Rejected(1, 2, 2, f"protocol version 0x{request.version:04X}")
    elif request.application_context != APPLICATION_CONTEXT:
        unsupported = Rejected(1, 1, 2, "another application context than DICOM's")
    return AssociationRequest(
        called_ae_title=request.called_ae_title,
        calling_ae_title=request.calling_ae_title,
        contexts=tuple(
            Proposed(context.id, context.abstract_syntax, context.transfer_syntaxes)
            for context in request.contexts
        ),
        maximum_length=request.maximum_length,
        head=bytes(content[: FIXED_PART.size]),
        unsupported=unsupported,
    )


def acceptance(request: AssociationRequest, contexts: tuple[Answered, ...]) -> bytes:
    """The A-ASSOCIATE-AC (PS3.8 9.3.3)."""
    encoded = _encoded(contexts)
    # Titles and reserved bytes go back exactly as sent (table 9-17).
    head = PDU_HEADER.size + FIXED_PART.size
    version = encoded[PDU_HEADER.size : PDU_HEADER.size + 2]
    return encoded[: PDU_HEADER.size] + version + request.head[2:] + encoded[head:]


@lru_cache(64)  # a sender asks for the same each time, and pynetdicom takes a while
def _encoded(contexts: tuple[Answered, ...]) -> bytes:
    application = ApplicationContextItem()
    application.application_context_name = APPLICATION_CONTEXT
    answer = A_ASSOCIATE_AC()
    answer.variable_items = [application, *map(_answered, contexts), _our_user_information()]
    encoded: bytes = answer.encode()
    return encoded


def rejection(rejected: Rejected) -> bytes:
    """The A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    answer = A_ASSOCIATE_RJ()
    answer.result, answer.source, answer.reason_diagnostic = rejected.result, rejected.source, rejected.reason
    return answer.encode()


def _answered(context: Answered) -> PresentationContextItemAC:
    syntax = TransferSyntaxSubItem()
    syntax.transfer_syntax_name = context.transfer_syntax
    item = PresentationContextItemAC()
    item.presentation_context_id, item.result_reason = context.id, context.result
    item.transfer_syntax_sub_item = [syntax]
    return item


@cache
def _our_user_information() -> UserInformationItem:
    item = UserInformationItem()
    item.from_primitive(user_information(MAXIMUM_PDU))
    return item
