"""What a destination's answer means for the object and its lane, and the words for it. Pure.

Statuses from PS3.4 B.2.3 (C-STORE), PS3.7 9.1.1.1.9 and
annex C (all of DIMSE); rejections from PS3.8 9.3.4.
"""

from dataclasses import dataclass
from enum import Enum


class Disposition(Enum):
    """What becomes of the delivery."""

    DELIVERED = "delivered"  # the destination has the object
    UNABLE = "unable"  # the destination takes none now, or not this one: how others fare tells which
    REFUSED = "refused"  # never accepted in this form
    DOUBTFUL = "doubtful"  # may succeed later; attempts are counted


@dataclass(frozen=True, slots=True)
class Outcome:
    """A disposition, and the sentence that an operator reads."""

    disposition: Disposition
    words: str


_BY_STATUS = {
    0x0000: Outcome(Disposition.DELIVERED, "delivered"),
    0x0001: Outcome(Disposition.DELIVERED, "delivered with a warning: optional attributes not supported"),
    0x0105: Outcome(Disposition.REFUSED, "refused: no such attribute"),
    0x0106: Outcome(Disposition.REFUSED, "refused: invalid attribute value"),
    0x0107: Outcome(Disposition.DELIVERED, "delivered with a warning: attribute list error"),
    0x0110: Outcome(Disposition.DOUBTFUL, "processing failure"),
    0x0111: Outcome(Disposition.DELIVERED, "delivered: the destination had it already"),
    0x0112: Outcome(Disposition.REFUSED, "refused: no such SOP instance"),
    0x0113: Outcome(Disposition.REFUSED, "refused: no such event type"),
    0x0114: Outcome(Disposition.REFUSED, "refused: no such argument"),
    0x0115: Outcome(Disposition.REFUSED, "refused: invalid argument value"),
    0x0116: Outcome(Disposition.DELIVERED, "delivered with a warning: attribute value out of range"),
    0x0117: Outcome(Disposition.REFUSED, "refused: invalid SOP instance"),
    0x0118: Outcome(Disposition.REFUSED, "refused: no such SOP class"),
    0x0119: Outcome(Disposition.REFUSED, "refused: class-instance conflict"),
    0x0120: Outcome(Disposition.REFUSED, "refused: missing attribute"),
    0x0121: Outcome(Disposition.REFUSED, "refused: missing attribute value"),
    0x0122: Outcome(Disposition.REFUSED, "refused: SOP class not supported"),
    0x0123: Outcome(Disposition.REFUSED, "refused: no such action"),
    0x0124: Outcome(Disposition.UNABLE, "not authorised"),
    0x0210: Outcome(Disposition.DOUBTFUL, "duplicate invocation"),
    0x0211: Outcome(Disposition.REFUSED, "refused: unrecognised operation"),
    0x0212: Outcome(Disposition.REFUSED, "refused: mistyped argument"),
    0x0213: Outcome(Disposition.UNABLE, "resource limitation"),
    0xB000: Outcome(Disposition.DELIVERED, "delivered with a warning: data elements were coerced"),
    0xB006: Outcome(Disposition.DELIVERED, "delivered with a warning: elements were discarded"),
    0xB007: Outcome(Disposition.DELIVERED, "delivered with a warning: data set does not match SOP class"),
    0xFE00: Outcome(Disposition.DOUBTFUL, "cancelled"),
}
_BY_RANGE = (
    (0xA700, 0xA7FF, Outcome(Disposition.UNABLE, "out of resources")),
    # From earlier editions of PS3.4 B.2.3.
    (0xA800, 0xA8FF, Outcome(Disposition.REFUSED, "refused: SOP class not supported")),
    (0xA900, 0xA9FF, Outcome(Disposition.REFUSED, "refused: data set does not match SOP class")),
    (0xB000, 0xBFFF, Outcome(Disposition.DELIVERED, "delivered with a warning")),
    (0xC000, 0xCFFF, Outcome(Disposition.REFUSED, "refused: cannot understand")),
    (0x0000, 0xFFFF, Outcome(Disposition.DOUBTFUL, "failed with a status that the standard does not name")),
)


def of_status(status: int) -> Outcome:
    """The outcome of a C-STORE by its response's status (16 bits).

    A duplicate SOP instance (0111) is delivered: the destination has it. Not authorised (0124) is mostly
    not the object's fault: every object gets it until somebody changes the destination's rights. As a
    refusal it would bury each waiting object in turn.
    """
    found = _BY_STATUS.get(status)
    if found is None:
        found = next(outcome for low, high, outcome in _BY_RANGE if low <= status <= high)
    return found if status == 0 else Outcome(found.disposition, f"{found.words} (0x{status:04X})")


def of_echo(status: int) -> str | None:
    """Why a C-ECHO failed, in words; None if it succeeded (PS3.7 9.1.5.1.4)."""
    return None if status == 0x0000 else f"C-ECHO failed: {of_status(status).words}"


def no_context(sop_class: str, syntax: str) -> Outcome:
    """The outcome if the peer accepted no presentation context; the arguments are names for people."""
    words = f"no presentation context: the destination does not accept {sop_class} as {syntax}"
    return Outcome(Disposition.REFUSED, words)


_REJECTIONS = {
    # (source, reason): PS3.8 table 9-21
    (1, 1): "rejected, no reason given",
    (1, 2): "rejected: application context name not supported",
    (1, 3): "calling AE title not recognised",
    (1, 7): "called AE title not recognised",
    (2, 1): "rejected by the protocol layer, no reason given",
    (2, 2): "rejected: protocol version not supported",
    (3, 1): "rejected: temporary congestion",
    (3, 2): "rejected: local limit exceeded",
}


def of_rejection(source: int, reason: int) -> str:
    """Why an association was rejected, in words, from A-ASSOCIATE-RJ (PS3.8 9.3.4)."""
    return _REJECTIONS.get((source, reason), f"rejected (source {source}, reason {reason})")
