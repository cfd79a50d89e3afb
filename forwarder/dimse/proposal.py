"""Chooses what to propose to a destination, and reads from its answer what it accepts. Pure.

Each context has one SOP class and one transfer syntax, so that the peer answers for each pair. The answer for
a SOP class is complete, and may be remembered, if every syntax in `shown` was proposed. `shown` are the
transfer syntaxes that the destination can show.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dicomferry.dicom.identifiers import VERIFICATION
from dicomferry.dicom.syntaxes import IMPLICIT_LE
from dicomferry.settings import Destination, Settings

Context = tuple[str, str]  # SOP class UID, transfer syntax UID

ECHO: Context = (VERIFICATION, IMPLICIT_LE)
MAX_CONTEXTS = 128  # odd ids 1 to 255 (PS3.8 9.3.2.2)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The contexts of one association, and the SOP classes whose answer will be complete."""

    contexts: tuple[Context, ...]
    complete: tuple[str, ...]


def calling_title(settings: Settings, destination: Destination, caller: str = "") -> str:
    """The AE title to call with; our first one, if the destination wants `caller`'s and that is unusable.

    A probe has no caller, and a sender's title may be no valid AE title (PS3.5 6.2).
    """
    if destination.calling != "original":
        return destination.calling
    title = caller.strip()
    usable = title.isascii() and title.isprintable() and "\\" not in title
    return title if title and usable else settings.ae[0].title


def for_parcels(needs: Iterable[Context], shown: Sequence[str]) -> Proposal:
    """Propose all of `needs` (at most 128) and, for each SOP class, all shown syntaxes if they fit."""
    contexts = dict.fromkeys(needs)
    complete = []
    for sop_class in dict.fromkeys(sop_class for sop_class, _ in contexts):
        more = [(sop_class, syntax) for syntax in shown if (sop_class, syntax) not in contexts]
        if len(contexts) + len(more) <= MAX_CONTEXTS:
            contexts.update(dict.fromkeys(more))
            complete.append(sop_class)
    return Proposal(tuple(contexts), tuple(complete))


def for_probe(sop_classes: Iterable[str], shown: Sequence[str]) -> list[Proposal]:
    """Proposals, one an association, for every shown syntax of `sop_classes`; Verification first."""
    proposals: list[Proposal] = []
    contexts: list[Context] = [ECHO]
    complete: list[str] = []
    for sop_class in dict.fromkeys(sop_classes):
        if len(contexts) + len(shown) > MAX_CONTEXTS and complete:
            proposals.append(Proposal(tuple(contexts), tuple(complete)))
            contexts, complete = [], []
        contexts += [(sop_class, syntax) for syntax in shown]
        complete.append(sop_class)
    return [*proposals, Proposal(tuple(contexts), tuple(complete))]


def learned(
    proposal: Proposal,
    accepted: Collection[Context],
    shown: Sequence[str],
    known: Mapping[str, Sequence[str]],
) -> dict[str, list[str]]:
    """The accepted transfer syntaxes of each completely proposed SOP class, the shown ones in order.

    A known syntax that was not proposed this time (a private one, met as received) stays.
    """
    proposed = set(proposal.contexts)
    answer = {}
    for sop_class in proposal.complete:
        syntaxes = dict.fromkeys([*shown, *(syntax for uid, syntax in proposal.contexts if uid == sop_class)])
        accepted_now = [syntax for syntax in syntaxes if (sop_class, syntax) in accepted]
        kept = [syntax for syntax in known.get(sop_class, ()) if (sop_class, syntax) not in proposed]
        answer[sop_class] = accepted_now + kept
    return answer
