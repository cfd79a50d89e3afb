"""Which presentation contexts are accepted (PS3.8 9.3.2.2, PS3.7 annex D.3.2).

pynetdicom negotiates by a list of what the acceptor supports, in the acceptor's order of preference. Here
the order is the requestor's, so each proposal is narrowed to the one transfer syntax that it gets; and the
list is made of what was proposed, since one of 170 SOP classes in 45 syntaxes would be copied each time.
"""

from collections.abc import Iterable
from functools import lru_cache

from pydicom.uid import UID
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import Verification, uid_to_service_class  # type: ignore[attr-defined]

from dicomferry.settings import CalledAE
from dicomferry.syntaxes import GROUPS, resolve

_STANDARD_STORAGE = "1.2.840.10008.5.1.4."


def narrow(proposed: Iterable[PresentationContext], ae: CalledAE) -> list[PresentationContext]:
    """Leave in each acceptable proposal the first transfer syntax, in the requestor's order, that `ae` takes.

    Returns what the acceptor supports: with it, exactly the narrowed proposals are accepted, the others
    being refused for their abstract syntax (result 3) or their transfer syntaxes (result 4).
    """
    supported: dict[UID, PresentationContext] = {}
    for context in proposed:
        abstract_syntax = context.abstract_syntax
        if abstract_syntax is None:
            continue
        takes = accepted_syntaxes(str(abstract_syntax), ae)
        if not takes:
            continue
        answer = supported.setdefault(abstract_syntax, _context(abstract_syntax))
        chosen = next((syntax for syntax in context.transfer_syntax if syntax in takes), None)
        if chosen is not None:
            context.transfer_syntax = [chosen]
            answer.add_transfer_syntax(chosen)
    return list(supported.values())


def accepted_syntaxes(abstract_syntax: str, ae: CalledAE) -> frozenset[str]:
    """The transfer syntaxes in which `ae` takes a SOP class; empty where it does not take it at all."""
    if abstract_syntax == Verification:
        return frozenset(GROUPS["uncompressed"])
    if is_storage(abstract_syntax) or (ae.unknown_sop_classes and may_be_storage(abstract_syntax)):
        return _resolved(tuple(ae.accept))
    return frozenset()


@lru_cache(maxsize=1024)
def is_storage(sop_class_uid: str) -> bool:
    """Whether it is a storage SOP class that pynetdicom knows."""
    return uid_to_service_class(sop_class_uid) is StorageServiceClass


@lru_cache(maxsize=1024)
def may_be_storage(sop_class_uid: str) -> bool:
    """Whether nothing speaks against storage: a private or unknown SOP class, or a retired storage class."""
    if uid_to_service_class(sop_class_uid) is not ServiceClass:
        return False
    name = UID(sop_class_uid).name
    unknown = name == sop_class_uid
    return unknown or (sop_class_uid.startswith(_STANDARD_STORAGE) and "Storage" in name)


@lru_cache
def _resolved(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(resolve(names))


def _context(abstract_syntax: UID) -> PresentationContext:
    context = PresentationContext()
    context.abstract_syntax = abstract_syntax
    return context
