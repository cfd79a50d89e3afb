"""Which presentation contexts to propose, and what the answer teaches.

Pure. Each context is one (SOP class, transfer syntax): only so a peer says what it takes of each. A SOP
class of which every shown syntax was proposed has a complete answer, which may be remembered.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dicomferry.dicom.identifiers import VERIFICATION
from dicomferry.dicom.syntaxes import IMPLICIT_LE

Context = tuple[str, str]  # SOP class UID, transfer syntax UID: each proposed by itself

ECHO: Context = (VERIFICATION, IMPLICIT_LE)
MOST_CONTEXTS = 128  # odd ids 1 to 255 (PS3.8 9.3.2.2)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The contexts of one association, and the SOP classes whose answer will be complete."""

    contexts: tuple[Context, ...]
    complete: tuple[str, ...]


def for_parcels(needs: Iterable[Context], shown: Sequence[str]) -> Proposal:
    """What to propose for objects that need `needs` (at most 128 different ones): these, then what fits."""
    contexts = dict.fromkeys(needs)
    complete = []
    for sop_class in dict.fromkeys(sop_class for sop_class, _ in contexts):
        more = [(sop_class, syntax) for syntax in shown if (sop_class, syntax) not in contexts]
        if len(contexts) + len(more) <= MOST_CONTEXTS:
            contexts.update(dict.fromkeys(more))
            complete.append(sop_class)
    return Proposal(tuple(contexts), tuple(complete))


def for_probe(sop_classes: Iterable[str], shown: Sequence[str]) -> list[Proposal]:
    """What to propose to learn all about `sop_classes`: Verification first; an item is an association."""
    proposals: list[Proposal] = []
    contexts: list[Context] = [ECHO]
    complete: list[str] = []
    for sop_class in dict.fromkeys(sop_classes):
        if len(contexts) + len(shown) > MOST_CONTEXTS and complete:
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
    """The transfer syntaxes that a peer takes of each completely proposed SOP class, the shown ones in order.

    What was known of a syntax that was not proposed this time (a private one, met as received) stays.
    """
    proposed = set(proposal.contexts)
    answer = {}
    for sop_class in proposal.complete:
        syntaxes = dict.fromkeys([*shown, *(syntax for uid, syntax in proposal.contexts if uid == sop_class)])
        taken = [syntax for syntax in syntaxes if (sop_class, syntax) in accepted]
        kept = [syntax for syntax in known.get(sop_class, ()) if (sop_class, syntax) not in proposed]
        answer[sop_class] = taken + kept
    return answer
