"""`dicomferry quarantine`: list, retry or discard the objects that ingest could not parse."""

import errno
import json
import os
import pwd
import time
from collections import Counter

import typer

from dicomferry.dicom.syntaxes import label
from dicomferry.errors import FerryError, Misconfigured
from dicomferry.settings import Settings
from dicomferry.spool import orders
from dicomferry.spool.orders import Act, Item, Order
from dicomferry.spool.spool import Spool
from dispatcher.newer import Received, newer
from gateway.commands.ordering import confirm, give
from gateway.commands.selection import Filter
from gateway.commands.words import ago, counted, say
from ingest.quarantine import Quarantined, StillRefused, quarantined, readmit
from ingest.quarantine import discard as remove


def select(settings: Settings, wanted: Filter, prefix: str) -> list[Quarantined]:
    """The quarantined objects that match, oldest first; their id must start with `prefix`."""
    now = time.time()
    return [
        kept
        for kept in quarantined(Spool(settings.spool))
        if kept.id.startswith(prefix)
        and wanted.sop_instance_uid in {None, kept.sop_instance_uid}
        and wanted.matches(at=kept.received_at, now=now, reason=kept.reason)
    ]


def show(found: list[Quarantined], *, as_json: bool) -> None:
    """Print quarantined objects."""
    if as_json:
        keys = Quarantined.__slots__
        typer.echo(json.dumps([{key: getattr(kept, key) for key in keys} for kept in found], indent=2))
        return
    for kept in found:
        say(
            f"{kept.id[:8]}  {kept.sop_instance_uid}  {label(kept.transfer_syntax_uid)}  {kept.size} bytes  "
            f"from {kept.calling_ae_title} ({kept.peer}) to {kept.called_ae_title}  "
            f"{ago(kept.received_at)} ago"
        )
        say(f"  {kept.reason}")
    say(f"quarantined: {len(found)}")


def retry(settings: Settings, found: list[Quarantined], *, yes: bool, older_too: bool = False) -> bool:
    """Read them again with the current code and routes; False where one stays in the quarantine.

    One stays if a destination gets a newer object with its SOP Instance UID, unless `older_too`.

    Raises:
        Misconfigured: the spool belongs to another user, who could not write to files that we make.
    """
    spool = Spool(settings.spool)
    if not _print_selection(found, "to be read again"):
        return True
    _require_owner(spool)
    confirm("Read them again?", yes=yes)
    notes, items = [], []
    for kept in found:
        if not older_too and (why := _overtaken(spool, settings, kept)):
            say(f"{kept.id[:8]} stays: {why}; --older-too sends it all the same")
            continue
        try:
            instance = readmit(spool, settings, kept)
        except (StillRefused, OSError) as error:
            reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
            say(f"{kept.id[:8]} stays: {reason}")
            continue
        say(f"{kept.id[:8]} is understood now: to {', '.join(instance.destinations)}")
        notes.append(Item(instance.id, instance.sop_instance_uid))
        items.append(Item(instance.id, instance.sop_instance_uid, instance.destinations))
    if items:
        words = "taken out of the quarantine: it is understood now"
        give(spool, Order(Act.NOTE, tuple(notes), words), Order(Act.RETRY, tuple(items), older_too=older_too))
    return len(items) == len(found)


def discard(settings: Settings, found: list[Quarantined], *, yes: bool) -> None:
    """Remove quarantined objects for good."""
    spool = Spool(settings.spool)
    if not _print_selection(found, "to be removed for good; no destination gets them from here"):
        return
    confirm("Remove them for good?", yes=yes)
    for kept in found:
        words = f"discarded from the quarantine, where it was for: {kept.reason}"
        note = Order(Act.NOTE, (Item(kept.id, kept.sop_instance_uid),), words)
        try:
            _note_and_remove(spool, kept, note)
        except OSError as error:
            raise FerryError(f"cannot remove {kept.id[:8]} from {spool.root}: {error.strerror}") from error
    say(f"Removed: {counted(len(found), 'quarantined object')}.")


def _note_and_remove(spool: Spool, kept: Quarantined, note: Order) -> None:
    try:
        orders.give(spool.orders, note)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        # A full disk may be why it is discarded: then there is room for the note afterwards.
        remove(spool, kept)
        orders.give(spool.orders, note)
        return
    remove(spool, kept)


def _overtaken(spool: Spool, settings: Settings, kept: Quarantined) -> str:
    """What is known of a newer object that one of its destinations gets; empty: there is none."""
    older = Received(kept.sop_instance_uid, "", kept.received_at)
    names = settings.destinations_for(kept.calling_ae_title, kept.called_ae_title, kept.peer)
    found = ((name, newer(spool, settings.keep_history, older, name)) for name in names)
    return next((f"{name}: {words}" for name, words in found if words), "")


def _print_selection(found: list[Quarantined], consequence: str) -> bool:
    if not found:
        say("No quarantined object matches.")
        return False
    say(f"{counted(len(found), 'quarantined object')} {consequence}:")
    for words, number in Counter(kept.reason for kept in found).most_common():
        say(f"{number:8}  {words}")
    return True


def _require_owner(spool: Spool) -> None:
    owner = spool.instances.stat().st_uid
    if owner != os.geteuid():
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = f"user {owner}"
        raise Misconfigured(
            f"the spool belongs to {name}, and what is read again must too: run this as {name}"
        )
