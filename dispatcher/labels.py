"""A batch's label in Flower: UIDs, counts and syntaxes; nothing of the patient."""

from collections.abc import Sequence

from dicomferry.dicom.syntaxes import label
from dicomferry.settings import Destination
from dicomferry.spool.instance import RenditionSpec
from dicomferry.text import shown
from dispatcher.lanes import Delivery


def short(uid: str) -> str:
    """A long UID by its two ends: ``1.2.8...843``."""
    return uid if len(uid) <= 13 else f"{uid[:5]}...{uid[-3:]}"


def transcode_label(destination: Destination, spec: RenditionSpec, deliveries: Sequence[Delivery]) -> str:
    """Like ``WS1 study 1.2.3...843 CT n=16 J2K->ExplicitLE``."""
    return f"{_summary(destination, deliveries)} {_received(deliveries)}->{label(spec.transfer_syntax_uid)}"


def deliver_label(destination: Destination, deliveries: Sequence[Delivery]) -> str:
    """Like ``WS1 study 1.2.3...843 CT n=16 ExplicitLE``."""
    sent = dict.fromkeys(label(d.choice.transfer_syntax_uid) for d in deliveries)
    return f"{_summary(destination, deliveries)} {_joined(sent)}"


def probe_label(destination: Destination, sop_classes: Sequence[str]) -> str:
    """Like ``WS1 sop_classes=2``."""
    return f"{destination.title} sop_classes={len(sop_classes)}"


def _summary(destination: Destination, deliveries: Sequence[Delivery]) -> str:
    studies = dict.fromkeys(d.entry.study_instance_uid for d in deliveries)
    modalities = dict.fromkeys(d.entry.modality or "?" for d in deliveries)
    study = f"study {short(next(iter(studies)))}" if len(studies) == 1 else f"{len(studies)} studies"
    return shown(f"{destination.title} {study} {_joined(modalities)} n={len(deliveries)}")


def _received(deliveries: Sequence[Delivery]) -> str:
    return _joined(dict.fromkeys(label(d.entry.transfer_syntax_uid) for d in deliveries))


def _joined(names: dict[str, None]) -> str:
    first = list(names)[:3]
    return "+".join(first) + ("+..." if len(names) > len(first) else "")
