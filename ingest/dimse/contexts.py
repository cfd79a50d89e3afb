"""Decides which presentation contexts to accept (PS3.8 9.3.2.2, PS3.7 annex D.3.2). Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from pydicom.uid import UID
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from dicomferry.dicom.identifiers import VERIFICATION
from dicomferry.dicom.syntaxes import GROUPS, IMPLICIT_LE, resolve
from dicomferry.settings import CalledAE

ACCEPTED, NO_SUCH_ABSTRACT_SYNTAX, NO_SUCH_TRANSFER_SYNTAX = 0, 3, 4  # PS3.8 9.3.3.2
_STANDARD_STORAGE = "1.2.840.10008.5.1.4."


@dataclass(frozen=True, slots=True)
class Proposed:
    """A presentation context of an A-ASSOCIATE-RQ."""

    id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]  # in the requestor's order


@dataclass(frozen=True, slots=True)
class Answered:
    """A presentation context of an A-ASSOCIATE-AC; the transfer syntax counts only if it is accepted."""

    id: int
    result: int
    abstract_syntax: str
    transfer_syntax: str


def answer(proposed: Iterable[Proposed], ae: CalledAE) -> tuple[Answered, ...]:
    """Accept for each context the requestor's first transfer syntax that `ae` takes."""
    return tuple(_answer(context, accepted_syntaxes(context.abstract_syntax, ae)) for context in proposed)


def _answer(context: Proposed, takes: frozenset[str]) -> Answered:
    chosen = next((syntax for syntax in context.transfer_syntaxes if syntax in takes), None)
    if chosen is not None:
        return Answered(context.id, ACCEPTED, context.abstract_syntax, chosen)
    result = NO_SUCH_TRANSFER_SYNTAX if takes else NO_SUCH_ABSTRACT_SYNTAX
    return Answered(context.id, result, context.abstract_syntax, IMPLICIT_LE)


def accepted_syntaxes(abstract_syntax: str, ae: CalledAE) -> frozenset[str]:
    """The transfer syntaxes in which `ae` takes a SOP class; empty where it does not take the class."""
    if abstract_syntax == VERIFICATION:
        return frozenset(GROUPS["uncompressed"])
    if is_storage(abstract_syntax) or (ae.unknown_sop_classes and may_be_storage(abstract_syntax)):
        return _resolved(tuple(ae.accept))
    return frozenset()


@lru_cache(maxsize=1024)
def is_storage(sop_class_uid: str) -> bool:
    """Whether pynetdicom knows it as a storage SOP class."""
    return uid_to_service_class(sop_class_uid) is StorageServiceClass


@lru_cache(maxsize=1024)
def may_be_storage(sop_class_uid: str) -> bool:
    """Whether it is a private, unknown or retired SOP class that storage may use."""
    if uid_to_service_class(sop_class_uid) is not ServiceClass:
        return False
    name = UID(sop_class_uid).name
    unknown = name == sop_class_uid
    return unknown or (sop_class_uid.startswith(_STANDARD_STORAGE) and "Storage" in name)


@lru_cache
def _resolved(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(resolve(names))
