"""Puts a received object on the spool and answers the requestor.

It answers success only after `Spool.commit` has returned. Statuses are those of PS3.4 B.2.3 and PS3.7
annex C.
"""

import itertools
import json
import logging
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from dicomferry.dicom import syntaxes
from dicomferry.dicom.identifiers import VERIFICATION, is_uid, masked_uid
from dicomferry.spool import durable
from dicomferry.spool.instance import Instance, instance_id
from dicomferry.spool.spool import Spool
from ingest.admission import Admitted
from ingest.arrival import Arrival
from ingest.header import Header, Malformed, read_header
from ingest.room import QuarantineRoom, reason_of

log = logging.getLogger(__name__)

SUCCESS = 0x0000
NOT_AUTHORISED = 0x0124
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900  # data set does not match SOP class
CANNOT_UNDERSTAND = 0xC000
INTERNAL_FAULT = 0xC001
# Not A7xx: a sender repeats what is answered so, and the object would come whole each time, for nothing.
TOO_LARGE = 0xC002
UNRECOGNISED_OPERATION = 0x0211


@dataclass(frozen=True, slots=True)
class Request:
    """The command set of a C-STORE and its presentation context."""

    sop_class_uid: str
    sop_instance_uid: str
    abstract_syntax: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The response to the requestor; `instance` is what is on the spool now."""

    status: int
    comment: str = ""
    instance: Instance | None = None
    is_new: bool = False  # else it stood there before


def receive(
    spool: Spool, quarantine: QuarantineRoom, admitted: Admitted, request: Request, arrival: Arrival
) -> Answer:
    """Commit, quarantine or refuse the object; nothing of it stays in ``incoming``."""
    try:
        arrival.close()
        return (
            refusal(admitted, request)
            or _write_failure(arrival)
            or _store(spool, quarantine, admitted, request, arrival)
        )
    except OSError as error:
        return Answer(OUT_OF_RESOURCES, reason_of(error))
    finally:
        arrival.discard()


def refusal(admitted: Admitted, request: Request) -> Answer | None:
    """The refusal that association and command set call for, whatever the data set, else None."""
    if not admitted.destinations:
        return Answer(
            NOT_AUTHORISED, f"no route for {admitted.calling_ae_title} to {admitted.called_ae_title}"
        )
    if request.abstract_syntax == VERIFICATION:
        return Answer(UNRECOGNISED_OPERATION, "Verification stores nothing")
    if request.sop_class_uid != request.abstract_syntax:
        return Answer(DOES_NOT_MATCH, "Affected SOP Class UID is not that of the context")
    return None


def _write_failure(arrival: Arrival) -> Answer | None:
    if arrival.is_too_large:
        return Answer(TOO_LARGE, "the object is larger than ingest.max_object_mb allows")
    if arrival.failure is not None:
        return Answer(OUT_OF_RESOURCES, arrival.failure)
    return None


def _store(
    spool: Spool, quarantine: QuarantineRoom, admitted: Admitted, request: Request, arrival: Arrival
) -> Answer:
    try:
        header = read(arrival.path, arrival.offset, request)
    except Malformed as error:
        with quarantine.held_for(arrival.path.stat().st_size) as exceeded:
            if exceeded is None:
                return _quarantine(spool, admitted, request, arrival, str(error))
        return _full(exceeded, request, str(error))
    answer = mismatch(request, header)
    if answer is not None:
        return answer
    size, digest = arrival.size, arrival.digest
    instance = build_instance(spool, admitted, request, header, size, digest, time.time())
    return _commit(spool, instance, arrival)


def read(path: Path, offset: int, request: Request) -> Header:
    """The header of a received file.

    Raises:
        Malformed: we cannot make an instance of it, and keep it in the quarantine.
    """
    if not is_uid(request.sop_instance_uid):
        raise Malformed("Affected SOP Instance UID is no UID (PS3.5 9.1)")
    return read_header(path, offset, request.transfer_syntax_uid)


def mismatch(request: Request, header: Header) -> Answer | None:
    """The refusal of a data set that contradicts its command set, else None."""
    if header.sop_class_uid != request.sop_class_uid:
        return Answer(DOES_NOT_MATCH, "SOP Class UID of data set and command set differ")
    if header.sop_instance_uid != request.sop_instance_uid:
        return Answer(DOES_NOT_MATCH, "SOP Instance UID of data set and command set differ")
    return None


def build_instance(  # noqa: PLR0917  an instance has that many sources
    spool: Spool,
    admitted: Admitted,
    request: Request,
    header: Header,
    size: int,
    digest: str,
    received_at: float,
) -> Instance:
    """The instance to commit; `size` and `digest` are those of the data set's bytes."""
    return Instance(
        id=_free_id(spool, request.sop_instance_uid, digest, admitted.destinations),
        sop_class_uid=request.sop_class_uid,
        sop_instance_uid=request.sop_instance_uid,
        study_instance_uid=masked_uid(header.study_instance_uid),
        series_instance_uid=masked_uid(header.series_instance_uid),
        modality=header.modality[:16],
        transfer_syntax_uid=header.transfer_syntax_uid or request.transfer_syntax_uid,
        calling_ae_title=admitted.calling_ae_title,
        called_ae_title=admitted.called_ae_title,
        peer=admitted.host,
        received_at=received_at,
        size=size,
        digest=digest,
        route=admitted.route,
        destinations=admitted.destinations,
        notes=header.notes,
        sendable=header.sendable,
    )


def _free_id(spool: Spool, sop_instance_uid: str, digest: str, destinations: tuple[str, ...]) -> str:
    """An unused id, or that of the same object if it is still to come last.

    Each delivery is asked for again. Under the old id one that is delivered, dead or redirected would not
    happen, and one before another object with the same SOP Instance UID would happen too early: the
    destination keeps what comes last.
    """
    first = instance_id(sop_instance_uid, digest, destinations)
    if not spool.is_taken(first):
        return first
    namesakes = [state for name in spool.namesakes(first) if (state := spool.state(name)) is not None]
    between = max(
        (
            state.instance.received_at
            for state in namesakes
            if state.instance.digest != digest and not set(destinations).isdisjoint(state.destinations)
        ),
        default=0.0,
    )
    for state in namesakes:
        same = state.instance.digest == digest and state.instance.destinations == destinations
        untouched = state.pending == destinations and state.redirected is None
        if same and untouched and state.instance.received_at > between:
            return state.instance.id
    again = (instance_id(sop_instance_uid, digest, destinations, str(n)) for n in itertools.count(1))
    return next(name for name in again if not spool.is_taken(name))


def _commit(spool: Spool, instance: Instance, arrival: Arrival) -> Answer:
    new = arrival.moved = spool.commit(arrival.path, instance, arrival.record_at)
    log.info(
        "%s %s %s %s %d bytes %.0f ms",
        "Received" if new else "ReceivedAgain",
        instance.id,
        instance.sop_instance_uid,
        syntaxes.label(instance.transfer_syntax_uid),
        instance.size,
        1000 * (time.monotonic() - arrival.started_at),
    )
    return Answer(SUCCESS, instance=instance, is_new=new)


def _full(exceeded: str, request: Request, reason: str) -> Answer:
    """Refuse what we cannot parse and have no room to keep.

    Out of resources (PS3.4 B.2.3) tells the sender what is true: we do not have it, and may take it later,
    when an operator has made room. 0xC000 says that we kept it.
    """
    log.warning(
        "QuarantineFull %s: not kept: %s; ingest.%s is reached: `dicomferry quarantine` lists, retries and "
        "discards, or raise the key",
        request.sop_instance_uid,
        reason,
        exceeded,
    )
    return Answer(OUT_OF_RESOURCES, f"not kept: ingest.{exceeded} is reached")


def _quarantine(spool: Spool, admitted: Admitted, request: Request, arrival: Arrival, reason: str) -> Answer:
    """Keep durably what we cannot parse: the sender may delete its copy."""
    name = uuid.uuid4().hex
    uid = masked_uid(request.sop_instance_uid)
    record = {
        "reason": reason,
        "sop_class_uid": request.sop_class_uid,
        "sop_instance_uid": uid,
        "transfer_syntax_uid": request.transfer_syntax_uid,
        "calling_ae_title": admitted.calling_ae_title,
        "called_ae_title": admitted.called_ae_title,
        "peer": admitted.host,
        "received_at": time.time(),
        "size": arrival.size,
        "digest": arrival.digest,
    }
    durable.sync_file(arrival.path)
    folder = durable.enfold(arrival.path, "received.dcm")
    try:
        durable.write_synced(folder / "reason.json", json.dumps(record).encode())
        durable.sync_folder(folder)
        folder.rename(spool.quarantine / name)
    finally:
        durable.remove(folder)
    durable.sync_folder(spool.quarantine)
    log.warning("Quarantined %s %s: %s", name, uid, reason)
    return Answer(CANNOT_UNDERSTAND, f"kept as {name[:8]}: {reason}")
