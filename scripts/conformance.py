"""Write docs/conformance.md from the tables that the program itself goes by.

python scripts/conformance.py > docs/conformance.md
"""

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby

from pydicom.uid import UID

from dicomferry.dicom import syntaxes
from dicomferry.dicom.identifiers import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicomferry.dicom.syntaxes import BEST_LOSSLESS, TABLE, Capability, Syntax
from forwarder.dimse.proposal import MAX_CONTEXTS
from forwarder.outcome import of_rejection, of_status
from ingest import reception
from ingest.dimse.contexts import STORAGE
from workers.codecs.proof_decoders import proof_decoder

_ANSWERS = {
    reception.SUCCESS: "the object is on disk and synced, or was there already",
    reception.UNRECOGNISED_OPERATION: "the SOP class of the presentation context has no such operation",
    reception.NOT_AUTHORISED: "no route takes what this association sends",
    reception.OUT_OF_RESOURCES: (
        "the spool is full or cannot be written, or the data set cannot be parsed and the quarantine is full "
        "(`quarantine_max_mb`, `quarantine_max_count`); nothing is kept: send again later"
    ),
    reception.DOES_NOT_MATCH: "UIDs of command set, data set and presentation context contradict each other",
    reception.CANNOT_UNDERSTAND: (
        "the data set cannot be parsed, or its Affected SOP Instance UID is no UID; it is kept in quarantine "
        "with the reason. Of a request without a data set nothing is kept"
    ),
    reception.TOO_LARGE: "the object is larger than `max_object_mb`; nothing is kept",
    reception.INTERNAL_FAULT: "a fault of ours; the log says which",
}


def main() -> None:
    """Print the document."""
    sys.stdout.write("\n".join(_document()) + "\n")


def _document() -> Iterable[str]:
    yield "# Conformance"
    yield ""
    yield "<!-- Written by scripts/conformance.py from the program's own tables: change those, not this. -->"
    yield ""
    yield (
        "What dicomferry accepts, makes, refuses and answers. It is a gateway: a Storage SCP towards "
        "those that send, a Storage SCU towards destinations. Terms and clauses are those of the "
        "DICOM standard."
    )
    yield from _identity()
    yield from _contexts()
    yield from _syntaxes()
    yield from _images()
    yield from _frames()
    yield from _proof()
    yield from _admission()
    yield from _answers()
    yield from _oddities()
    yield from _outcomes()
    yield from _classes()


def _identity() -> Iterable[str]:
    yield from _heading("Implementation")
    yield from _table(
        ("", "value"),
        (
            ("Implementation Class UID", f"`{IMPLEMENTATION_CLASS_UID}`"),
            ("Implementation Version Name", f"`{IMPLEMENTATION_VERSION_NAME}`"),
            ("SCP", "Verification, Storage"),
            ("SCU", "Verification, Storage"),
            ("Network", "DICOM Upper Layer over TCP, IPv4 and IPv6 (PS3.8)"),
        ),
    )


def _contexts() -> Iterable[str]:
    yield from _heading("Presentation contexts")
    yield (
        "**As SCP** it accepts of each proposed context the first transfer syntax, in the requestor's order, "
        "that the called AE's `accept` names (default: every one in the table below). Verification "
        f"is accepted in {_listed(syntaxes.GROUPS['uncompressed'])}. A context of another SOP class "
        "is refused with result 3 and named in the log, one without an acceptable syntax with result 4. "
        "`unknown_sop_classes = true` also takes private SOP classes, and those of later editions of the "
        "standard. Extended negotiation, asynchronous operations and user identity are not offered."
    )
    yield ""
    yield (
        "**As SCU** it proposes one context for each SOP class and transfer syntax, so that the "
        f"answer says what the peer takes of each; at most {MAX_CONTEXTS} in one association. What "
        "was answered is remembered by SOP class. A data set goes byte for byte as in its file, unless its "
        "length is odd, which peers abort over (PS3.8 E.1): then its odd values are padded (PS3.5 7.1.1), or "
        "where it is damaged or ends in junk a NUL follows it; `explain` says so. Odd values inside a data "
        "set of even length go as they came: DCMTK and Orthanc read them."
    )


def _syntaxes() -> Iterable[str]:
    yield from _heading("Transfer syntaxes")
    yield (
        "Every one is received and delivered as it is. *Read* and *made* are what transcoding can "
        "do, and with which library; a syntax without either passes through unchanged, and a "
        "destination that does not take it gets a dead delivery with the reason. Private transfer "
        "syntaxes are treated the same. A syntax that is marked *lossy* is made only where it is "
        "asked for (`lossy = true`, `--lossy`)."
    )
    yield ""
    yield from _table(("transfer syntax", "UID", "group", "read by", "made by"), map(_syntax_row, TABLE))
    yield ""
    yield (
        'What a negotiating destination (`transfer_syntaxes = "negotiate"`) is sent where it does '
        "not take an "
        f"object as received, the first that it accepts: {_listed(BEST_LOSSLESS)}."
    )


def _syntax_row(syntax: Syntax) -> tuple[str, ...]:
    lossy = "" if syntax.lossless or not syntax.decoded else " (lossy)"
    return (
        f"{syntax.keyword}{lossy}",
        f"`{syntax.uid}`",
        f"`{syntax.group}`",
        _library(syntax, syntax.decoder) if syntax.decoded else "no",
        _library(syntax, syntax.encoder) if syntax.encoded else "no",
    )


def _library(syntax: Syntax, library: str) -> str:
    return library or ("dicomferry" if syntax.native else "yes")


def _images() -> Iterable[str]:
    yield from _heading("What each compressed syntax can hold")
    yield (
        "An image that does not fit is refused with the reason, and planning takes the destination's next "
        "syntax. Native syntaxes hold every image whose pixel data is no longer than 2^32 - 2 bytes."
    )
    yield ""
    yield (
        "Where decoded values need more bits than Bits Stored says, Bits Stored and High Bit are corrected. "
        "Where the differences of a lossless JPEG wrap, bits above its precision are cut off. A "
        "note says either."
    )
    yield ""
    rows = (
        (s.keyword, *_capability_row(s.capability)) for s in TABLE if s.encoded and s.capability is not None
    )
    yield from _table(
        (
            "made",
            "bits allocated",
            "bits stored",
            "signed",
            "one sample",
            "three samples",
            "clause",
            "limits",
        ),
        rows,
    )


def _frames() -> Iterable[str]:
    yield from _heading("Frames, icons and odd elements")
    yield (
        "**Frames.** Codestreams decide where the frames of encapsulated pixel data begin (PS3.5 A.4); a "
        "frame may stand in several fragments. A Basic or Extended Offset Table that contradicts them is not "
        "used, and that is noted. An instance is refused for transcoding if pixel data holds more or fewer "
        "codestreams than Number of Frames says (absent: 1), or if a table puts the frames in another "
        "order. It can still be delivered as received."
    )
    yield ""
    yield (
        "**Another form than stated.** Pixel Data of exactly native length in a compressed transfer syntax "
        "is taken, and sent, as native; fragments in a native one, or codestreams of another format than "
        "that of the syntax (JPEG, JPEG-LS, JPEG 2000, HTJ2K, JPEG XL, RLE), as what the first codestream "
        "shows (PS3.5 A.4). Both are noted. A JPEG of another process than its syntax passes, since its "
        "frame header tells the process. What fits no form is never sent as received, and is parked if no "
        "rendition can be made."
    )
    yield ""
    yield (
        "**High Bit.** If it is not Bits Stored - 1, a compressed rendition has the values in the low bits "
        "(PS3.5 8.1.1), with a note; RLE and deflated frames keep cells as they are if other bits are set. "
        "Where values need more bits than Bits Stored, it is corrected only if High Bit is Bits Stored - 1. "
        "Where the numbers of bits contradict each other, native, RLE and deflated renditions keep cells and "
        "attributes as they are, with a note, and no other is made."
    )
    yield ""
    yield (
        "**Icons.** The pixel data of an Icon Image Sequence in fragments becomes native, in whichever "
        "syntax its codestream is. If it cannot be decoded, the sequence is left out with a note."
    )
    yield ""
    yield (
        "**Empty elements.** If Pixel Data is empty, and so are the attributes of an image, the instance is "
        "treated as one without pixels. A value of odd length is padded (PS3.5 6.2, 7.1.1)."
    )


def _capability_row(capability: Capability) -> tuple[str, ...]:
    low, high = capability.stored
    limits = [capability.limits] if capability.limits else []
    if capability.min_side > 1:
        limits.append(f"no side shorter than {capability.min_side}")
    return (
        ", ".join(map(str, capability.allocated)),
        str(low) if low == high else f"{low} to {high}",
        "yes" if capability.signed else "no",
        _photometric(capability.grey),
        _photometric(capability.colour),
        capability.clause,
        "; ".join(limits),
    )


def _photometric(interpretations: Sequence[str] | None) -> str:
    if interpretations is None:
        return "any"
    return ", ".join(interpretations) or "no"


def _proof() -> Iterable[str]:
    yield from _heading("Proof")
    yield (
        "What was encoded is decoded back and compared before it is sent (`verify`, by default always), by "
        "another library than the encoder's where there is one. A mismatch is never sent."
    )
    yield ""
    made = [syntax for syntax in TABLE if syntax.encoded and not syntax.native]
    yield from _table(
        ("made", "encoder", "decoded back by"),
        ((syntax.keyword, syntax.encoder, proof_decoder(syntax.uid).library) for syntax in made),
    )


def _admission() -> Iterable[str]:
    yield from _heading("Answers to an association request, as SCP")
    yield (
        "Accepted, or rejected with result, source and reason of PS3.8 9.3.4. What violates the protocol "
        "is aborted, after acceptance by the service provider with the reason of PS3.8 9.3.8. A peer that "
        "has not sent its whole request in `artim_timeout` is disconnected, one that keeps an association "
        "waiting longer than `network_timeout` is aborted."
    )
    yield ""
    yield from _table(
        ("result", "source", "reason", "when"),
        (
            ("1 permanent", "1 user", "2", "the application context is not DICOM's"),
            (
                "1 permanent",
                "1 user",
                "3",
                "`callers` of the called AE does not name the calling AE, or its host",
            ),
            ("1 permanent", "1 user", "7", "the called AE title is none of ours"),
            ("1 permanent", "2 provider (ACSE)", "2", "the protocol version is not 1"),
            (
                "2 transient",
                "3 provider (presentation)",
                "2",
                (
                    "`max_associations` stand already, or `max_associations_per_host` from this address, or "
                    "only places are left that are kept for named `callers`; and none was silent for 5 s, "
                    "which would be ended instead"
                ),
            ),
            (
                "2 transient",
                "3 provider (presentation)",
                "2",
                "the spool has less than `min_free_mb` or `min_free_inodes`; a C-ECHO is not let in either",
            ),
        ),
    )


def _answers() -> Iterable[str]:
    yield from _heading("Answers to C-STORE, as SCP")
    yield from _table(
        ("status", "meaning"), ((f"`0x{status:04X}`", words) for status, words in sorted(_ANSWERS.items()))
    )


def _oddities() -> Iterable[str]:
    yield ""
    yield "Taken all the same, as DCMTK and Orthanc take it; `explain` shows what is wrong with the data set:"
    yield ""
    yield "- An AE title ends at its first NUL. Of two presentation contexts with one ID the first counts."
    yield (
        "- Elements of group 0000 or 0002 in the data set stay on the spool and are not sent (PS3.7 6.3, "
        "PS3.10 7.1). Where they are deflated, or not at its head, a rendition is sent instead."
    )
    yield (
        "- A data set in another of the three native encodings than its context says is an object of the "
        "transfer syntax that it has. In a compressed or deflated context it is encoded again "
        "before it is sent."
    )
    yield "- Study and Series Instance UIDs that are no UIDs are passed on as they are."


def _outcomes() -> Iterable[str]:
    yield from _heading("What a destination's answers mean, as SCU")
    yield (
        "*delivered*: done. *unable*: others get a turn; if one is delivered, the attempt counts, else no "
        "attempt is counted. *refused*: never in this form; the next best syntax is tried once. "
        "*doubtful*: tried again, attempts are counted."
    )
    yield ""
    outcomes = ((status, of_status(status)) for status in range(0x10000))
    runs = groupby(outcomes, lambda pair: (pair[1].disposition.value, pair[1].words.partition(" (0x")[0]))
    rows = []
    for (disposition, words), run in runs:
        statuses = [status for status, _ in run]
        first, last = f"`0x{statuses[0]:04X}`", f"`0x{statuses[-1]:04X}`"
        rows.append((first if first == last else f"{first} to {last}", disposition, words))
    yield from _table(("status", "disposition", "meaning"), rows)
    yield ""
    yield "A rejected association opens the circuit:"
    yield ""
    yield from _table(
        ("source", "reason", "meaning"),
        (
            (str(source), str(reason), words)
            for source in range(1, 4)
            for reason in range(11)
            if "(source" not in (words := of_rejection(source, reason))
        ),
    )


def _classes() -> Iterable[str]:
    yield from _heading("Storage SOP classes")
    yield "Accepted as SCP; as SCU, what an object that waits needs is proposed."
    yield ""
    yield from _table(
        ("SOP class", "UID"),
        ((_name(uid), f"`{uid}`") for uid in sorted(STORAGE, key=_name)),
    )


def _name(uid: str) -> str:
    known = UID(uid)
    return f"{known.name} (Retired)" if known.is_retired and "Retired" not in known.name else known.name


def _heading(text: str) -> Iterable[str]:
    return ("", f"## {text}", "")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _listed(uids: Iterable[str]) -> str:
    return ", ".join(syntaxes.keyword(uid) for uid in uids)


if __name__ == "__main__":
    main()
