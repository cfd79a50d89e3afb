"""Decides which presentation contexts to accept (PS3.8 9.3.2.2, PS3.7 annex D.3.2). Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom import AllStoragePresentationContexts
from pynetdicom.service_class import ServiceClass
from pynetdicom.sop_class import uid_to_service_class

from dicomferry.dicom.identifiers import VERIFICATION
from dicomferry.dicom.syntaxes import GROUPS, IMPLICIT_LE, resolve
from dicomferry.settings import CalledAE

ACCEPTED, NO_SUCH_ABSTRACT_SYNTAX, NO_SUCH_TRANSFER_SYNTAX = 0, 3, 4  # PS3.8 9.3.3.2
_MAX_LISTED = 8  # refused SOP classes named in one line of the log

# Every storage SOP class of PS3.6 table A-1, also retired ones and those of DICOS and DICONDE. Media Storage
# Directory and Storage Commitment, which have "Storage" in their names, are elsewhere.
STORAGE = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts) | frozenset(
    uid
    for uid, (name, kind, *_) in UID_dictionary.items()
    if kind == "SOP Class" and "Storage" in name and uid.startswith("1.2.840.10008.5.1.")
)


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
    if abstract_syntax in STORAGE or (ae.unknown_sop_classes and _is_unknown(abstract_syntax)):
        return _resolved(tuple(ae.accept))
    return frozenset()


def refusals(answers: Iterable[Answered]) -> str:
    """Which SOP classes were refused, and what to change; empty where none was."""
    classes, syntaxes = (
        dict.fromkeys(a.abstract_syntax for a in answers if a.result == result)
        for result in (NO_SUCH_ABSTRACT_SYNTAX, NO_SUCH_TRANSFER_SYNTAX)
    )
    words = []
    if classes:
        hint = " (ae.unknown_sop_classes takes unknown ones)" if any(map(_is_unknown, classes)) else ""
        words.append(f"no storage SOP class that it accepts: {_listed(classes)}{hint}")
    if syntaxes:
        words.append(f"no transfer syntax that it accepts (ae.accept): {_listed(syntaxes)}")
    return "; ".join(words)


def _listed(uids: Collection[str]) -> str:
    shown = [f"{UID(uid).name} ({uid})" if UID(uid).name != uid else uid for uid in uids]
    more = len(shown) - _MAX_LISTED
    return ", ".join(shown[:_MAX_LISTED]) + (f" and {more} more" if more > 0 else "")


def _is_unknown(sop_class_uid: str) -> bool:
    """Whether it is a private SOP class, or one of a later edition, that storage may use."""
    listed = not sop_class_uid or sop_class_uid in UID_dictionary
    return not listed and uid_to_service_class(sop_class_uid) is ServiceClass


@lru_cache
def _resolved(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(resolve(names))
