"""Chooses the transfer syntax that an instance is sent in, among those its destination shows and accepts."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydicom.uid import UID

from dicomferry.dicom.syntaxes import BEST_LOSSLESS, BY_UID, JPEG_IN_XL, Syntax, is_recompression, label
from dicomferry.settings import Destination
from dicomferry.spool.instance import RenditionSpec

_NOT_SENDABLE = "the received bytes are not fit to be sent as they are"


@dataclass(frozen=True, slots=True)
class Choice:
    """The syntax of one delivery, and the reason in words."""

    transfer_syntax_uid: str
    spec: RenditionSpec | None  # None: the bytes as received
    why: str


@dataclass(frozen=True, slots=True)
class NoChoice:
    """No syntax of the destination can be made from the instance; the reason in words."""

    reason: str


def choose(
    received: str,
    destination: Destination,
    shown: tuple[str, ...],
    accepted: frozenset[str],
    ruled_out: Mapping[str, str],
    *,
    sop_class_uid: str = "",
    sendable: bool = True,
) -> Choice | NoChoice:
    """Choose the transfer syntax of one delivery.

    `received` is the instance's UID, `shown` the destination's UIDs in order of preference,
    `accepted` what its peer accepts for this SOP class (`sop_class_uid`, named in reasons), `ruled_out` UIDs
    that were tried, with the reason. Without `sendable` the received bytes are never sent.

    In order: the received bytes, or a rendition in their syntax; the destination's preference; for one that
    only negotiates, a JPEG's other form, then the best lossless syntax. A destination shows only what it
    lists, even if its peer accepts more.
    """
    name = destination.title
    if not accepted:
        return NoChoice(_why_nothing(name, destination, sop_class_uid))
    usable = [uid for uid in shown if uid in accepted and uid not in ruled_out]
    if received in usable and sendable:
        return Choice(received, None, f"{name} accepts {label(received)} as received")
    source = BY_UID.get(received)
    reason = _NOT_SENDABLE if received in usable else _why_not(received, name, shown, ruled_out)
    if source is None or not source.decoded:
        words = f"{label(received)} passes through unchanged or not at all, and {reason}"
        return NoChoice(f"{words}: {_advice(destination)}")
    if received in usable:
        spec = _spec(received, received, destination)
        return Choice(received, spec, f"{reason}; {name} accepts {label(received)}")
    preference = _best(received, usable) if destination.negotiates else usable
    for uid in preference:
        if _is_makeable(received, BY_UID[uid], lossy=destination.lossy):
            spec = _spec(received, uid, destination)
            return Choice(uid, spec, f"{reason}; {label(uid)}: {_manner(destination, shown, ruled_out)}")
    return NoChoice(_why_no_choice(received, destination, usable, ruled_out, sop_class_uid))


def _manner(destination: Destination, shown: tuple[str, ...], ruled_out: Mapping[str, str]) -> str:
    """How the syntax was chosen."""
    if destination.negotiates:
        return "best lossless that it accepts"
    return f"{'next' if ruled_out.keys() & set(shown) else 'first'} it accepts of its list"


def _why_nothing(name: str, destination: Destination, sop_class_uid: str) -> str:
    nothing = f"{name} accepts no transfer syntax of {_named(sop_class_uid)}"
    return f"{nothing}{_shown(destination)}: {_advice(destination)}"


def _named(sop_class_uid: str) -> str:
    return UID(sop_class_uid).name or "this SOP class"


def _shown(destination: Destination) -> str:
    """What the destination is configured to show."""
    if destination.negotiates:
        return ""
    return f" that it shows ({', '.join(destination.transfer_syntaxes)})"


def _advice(destination: Destination) -> str:
    """What an operator can do where there is no syntax."""
    if destination.negotiates:
        return "let it accept one, or route such objects elsewhere"
    return "let it accept one, or change the destination's transfer_syntaxes"


def _best(received: str, usable: list[str]) -> list[str]:
    """The lossless ones, best first; a JPEG's other form is lossless and smaller than any other."""
    return [uid for uid in usable if is_recompression(received, uid)] + [
        uid for uid in BEST_LOSSLESS if uid in usable
    ]


def _is_makeable(received: str, target: Syntax, *, lossy: bool) -> bool:
    """Whether workers may make `target` from `received`; `lossy` allows a loss."""
    if is_recompression(received, target.uid):
        return True
    return target.encoded and target.uid != JPEG_IN_XL and (target.lossless or lossy)


def _spec(received: str, uid: str, destination: Destination) -> RenditionSpec:
    """The rendition in syntax `uid` as `destination` wants it, with the settings that apply to it alone."""
    target = BY_UID[uid]
    if target.native:
        return RenditionSpec(uid, destination.colour)
    if target.lossless or is_recompression(received, uid):
        return RenditionSpec(uid, "as-encoded")
    return RenditionSpec(
        uid,
        "as-encoded",
        quality=destination.quality if target.group in {"jpeg", "jpeg-xl"} else None,
        ratio=destination.ratio if target.group in {"jpeg2000", "htj2k"} else None,
        near=destination.near if target.group == "jpeg-ls" else None,
    )


def _why_not(received: str, name: str, shown: tuple[str, ...], ruled_out: Mapping[str, str]) -> str:
    if received in ruled_out:
        return f"{label(received)} was refused: {ruled_out[received]}"
    if received not in shown:
        return f"{name} does not show {label(received)}"
    return f"{name} does not accept {label(received)}"


def _why_no_choice(
    received: str,
    destination: Destination,
    usable: list[str],
    ruled_out: Mapping[str, str],
    sop_class_uid: str,
) -> str:
    tried = "; ".join(f"{label(uid)}: {reason}" for uid, reason in ruled_out.items())
    rest = ", ".join(label(uid) for uid in usable)
    words = f"{destination.title} takes {rest or 'nothing else'} of {_named(sop_class_uid)}"
    words += f", which cannot be made of {label(received)}" if rest else _shown(destination)
    if not destination.lossy and any(_is_makeable(received, BY_UID[uid], lossy=True) for uid in usable):
        words += " without loss (lossy = true would allow it)"
    return f"{words} (tried {tried})" if tried else f"{words}: {_advice(destination)}"
