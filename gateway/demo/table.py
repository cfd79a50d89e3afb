"""The demo's table: what became of each sample."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import dcmread
from rich.console import Console

from dicomferry.dicom.syntaxes import GROUPS, label
from gateway.commands.words import aligned, width, wrapped
from gateway.demo.samples import Sample
from gateway.demo.workstation import Arrival

STALLED = 120.0  # seconds without progress: what has not arrived by then is missed


@dataclass(frozen=True, slots=True)
class Row:
    """The result for one sample."""

    sample: Sample
    arrival: Arrival | None
    seconds: float  # from the start of its C-STORE to its arrival
    why: str  # the dispatcher's reason for the transfer syntax
    fault: str  # empty where the pixels are right


def compare(sample: Sample, sent: dict[str, float], arrival: Arrival | None, words: str) -> Row:
    """Compare what arrived with the sample; `sent` has the start of each C-STORE, `words` the history's."""
    if arrival is None:
        return Row(sample, None, 0, words, f"not delivered within {STALLED:g} s without progress")
    why = words.partition(": ")[2] or words
    delivered = dcmread(arrival.path)
    fault = sample.difference(delivered)
    if arrival.syntax not in GROUPS["uncompressed"]:
        fault = f"delivered as {label(arrival.syntax)}"
    elif delivered.SOPInstanceUID != sample.uid:
        fault = f"became another instance, {delivered.SOPInstanceUID}"
    return Row(sample, arrival, arrival.at - sent[sample.uid], why, fault)


def print_rows(console: Console, rows: Sequence[Row]) -> None:
    """Print a line an image, then each reason once, then what is wrong."""
    table = [("image", "received as", "delivered as", "time", "pixels")]
    table += [
        (
            row.sample.name,
            label(row.sample.syntax),
            label(row.arrival.syntax) if row.arrival else "-",
            f"{row.seconds:6.2f} s" if row.arrival else "-",
            "MISSED" if row.fault else _likeness(row.sample),
        )
        for row in rows
    ]
    for line in aligned(table, None):
        console.print(line, markup=False)
    for why, syntaxes in _reasons(rows).items():
        console.print(wrapped(f"{', '.join(syntaxes)}: {why}", width(), "  "), markup=False)
    for row in rows:
        if row.fault:
            console.print(f"Missed: {row.sample.name} ({row.sample.uid}): {row.fault}", markup=False)
    if not any(row.fault for row in rows):
        near = sum(bool(row.sample.tolerance) for row in rows)
        text = (
            f"All {len(rows)} images were delivered, with the pixels that were sent: {len(rows) - near} are "
            f"equal, and {near} that came compressed with loss differ no more than right decoders do from "
            "each other."
        )
        console.print(wrapped(text, width()), markup=False)


def _likeness(sample: Sample) -> str:
    return f"within {sample.tolerance}" if sample.tolerance else "equal"


def _reasons(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The syntaxes in which images came, by the reason for what they became, without their names in it."""
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        received = label(row.sample.syntax)
        reasons.setdefault(row.why.replace(received, "it") or "not delivered", {})[received] = None
    return {why: list(syntaxes) for why, syntaxes in reasons.items()}
