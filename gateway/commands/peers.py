"""`dicomferry echo` and `probe`: ask a destination directly, with its settings; no part need run."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pydicom import uid as uids
from pydicom.uid import UID
from rich.console import Console
from rich.table import Table

from dicomferry.dicom.syntaxes import GROUPS, label
from dicomferry.errors import Misconfigured
from dicomferry.settings import Destination, Settings
from dicomferry.spool import orders
from dicomferry.spool.orders import Act, Item, Order
from dicomferry.spool.spool import Spool
from dispatcher.plan import Choice, choose
from forwarder import outcome
from forwarder.dimse.connection import PeerFailure
from forwarder.dimse.proposal import ECHO, Context, calling_title, for_probe
from forwarder.dimse.scu import Association
from gateway.commands.status import dispatcher_runs
from gateway.commands.words import plain

COMMON = (
    "CTImageStorage", "EnhancedCTImageStorage", "MRImageStorage", "EnhancedMRImageStorage",
    "ComputedRadiographyImageStorage", "DigitalXRayImageStorageForPresentation",
    "DigitalMammographyXRayImageStorageForPresentation", "BreastTomosynthesisImageStorage",
    "UltrasoundImageStorage", "UltrasoundMultiFrameImageStorage", "XRayAngiographicImageStorage",
    "NuclearMedicineImageStorage", "PositronEmissionTomographyImageStorage", "SecondaryCaptureImageStorage",
    "VLWholeSlideMicroscopyImageStorage", "EncapsulatedPDFStorage",
)  # fmt: skip
_EXAMPLES = ("uncompressed", "rle", "jpeg", "jpeg-lossless", "jpeg-ls", "jpeg2000", "htj2k", "jpeg-xl")


def echo(settings: Settings, name: str) -> str:
    """Send a C-ECHO to the destination of that name; returns its answer in words.

    Raises:
        PeerFailure: it does not answer, rejects the association, or answers a failure.
        Misconfigured: there is no such destination.
    """
    destination = _named(settings, name)
    with _association(settings, destination, [ECHO]) as association:
        if ECHO not in association.accepted:
            return f"{_describe(destination)}: takes our association, but not the Verification SOP class"
        words = outcome.of_echo(association.echo())
        if words is not None:
            raise PeerFailure(words)
    return f"{_describe(destination)}: answers the C-ECHO"


def probe(settings: Settings, name: str, sop_classes: Iterable[str], console: Console) -> None:
    """Print which transfer syntaxes a destination accepts of each SOP class, and what it would be sent.

    `sop_classes` are UIDs or keywords. Raises as `echo`.
    """
    destination = _named(settings, name)
    names_by_accepted: dict[frozenset[str], list[str]] = {}
    for proposal in for_probe(map(_sop_class_uid, sop_classes), GROUPS["all"]):
        with _association(settings, destination, proposal.contexts) as association:
            for sop_class in proposal.complete:
                accepted = frozenset(uid for of, uid in association.accepted if of == sop_class)
                names_by_accepted.setdefault(accepted, []).append(UID(sop_class).name)
    shown = "whatever it accepts" if destination.negotiates else ", ".join(destination.transfer_syntaxes)
    console.print(plain(f"{_describe(destination)}: configured to show {shown}"), soft_wrap=True)
    table = Table("SOP class", "accepts", "is sent", show_lines=True)
    for accepted, names in names_by_accepted.items():
        labels = ", ".join(label(uid) for uid in GROUPS["all"] if uid in accepted)
        sent = _sent_syntaxes(destination, accepted)
        table.add_row(plain(*names), plain(labels or "nothing"), plain(*sent))
    console.print(table)
    _tell_dispatcher(settings, destination)


def _tell_dispatcher(settings: Settings, destination: Destination) -> None:
    """Have a running dispatcher ask too: what it knows may be older."""
    spool = Spool(settings.spool)
    if dispatcher_runs(spool):
        with suppress(OSError):  # this user may not write there; then it asks in some minutes
            orders.give(spool.orders, Order(Act.ASK, (Item("", "", (destination.name,)),)))


def _sent_syntaxes(destination: Destination, accepted: frozenset[str]) -> list[str]:
    """As what objects of each group of syntaxes would be sent, one line for each result."""
    shown = destination.shown_syntaxes
    unchanged = [uid for uid in shown if uid in accepted]
    if not unchanged:
        return ["nothing: it accepts none of what it is configured to show"]
    lines = {f"as received: {', '.join(map(label, unchanged))}": None}
    for group in _EXAMPLES:
        received = next((uid for uid in GROUPS[group] if uid not in unchanged), None)
        if received is None:
            continue
        choice = choose(received, destination, shown, accepted, {})
        if isinstance(choice, Choice):
            lines[f"other images: {label(choice.transfer_syntax_uid)}"] = None
        else:
            lines[f"{label(received)}: dead, {choice.reason}"] = None
    return list(lines)


@contextmanager
def _association(
    settings: Settings, destination: Destination, contexts: Sequence[Context]
) -> Iterator[Association]:
    try:
        association = Association.request(destination, calling_title(settings, destination), contexts)
        try:
            yield association
        except BaseException:
            association.abort()
            raise
        association.release()
    except PeerFailure as failure:
        raise PeerFailure(f"{_describe(destination)}: {failure}") from failure


def _describe(destination: Destination) -> str:
    return f"{destination.name} ({destination.title} at {destination.host}:{destination.port})"


def _named(settings: Settings, name: str) -> Destination:
    found = settings.destination_named(name)
    if found is None:
        names = ", ".join(destination.name for destination in settings.destination)
        raise Misconfigured(f"no destination is named {name!r}; there are {names}")
    return found


def _sop_class_uid(name: str) -> str:
    if "." in name and UID(name).is_valid:
        return name
    found = getattr(uids, name, None)
    if not isinstance(found, UID):
        raise Misconfigured(f"{name!r} is neither a UID nor a keyword such as CTImageStorage")
    return str(found)
