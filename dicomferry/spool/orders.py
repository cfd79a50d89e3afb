"""Orders of operators: files on the spool, which the dispatcher carries out, now or when it next runs.

An order lists each delivery that the operator saw and confirmed; what arrived in between is not affected.
"""

import getpass
import json
import os
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from dicomferry.spool import durable

SCHEMA = 1
_ITEMS_PER_FILE = 50  # the dispatcher does other work between two files


class Act(StrEnum):
    """The kinds of orders."""

    RETRY = "retry"  # dead deliveries become pending again, with all their attempts
    DISCARD = "discard"  # dead deliveries are given up for good
    RESEND = "resend"  # delivered instances are delivered once more
    REROUTE = "reroute"  # pending deliveries go to the named destinations instead
    ASK = "ask"  # destinations are asked again what they accept
    NOTE = "note"  # only write to the history what was done already


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"user {os.getuid()}"


@dataclass(frozen=True, slots=True)
class Item:
    """One instance, and the destinations that the order concerns; `sop_instance_uid` is for the history.

    An order that concerns destinations alone has an item without instance.
    """

    instance: str
    sop_instance_uid: str
    destinations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's decision."""

    act: Act
    items: tuple[Item, ...]
    words: str = ""  # why, for the history
    older_too: bool = False  # send what a newer object with its SOP Instance UID has followed, too
    by: str = field(default_factory=_user)
    at: float = field(default_factory=time.time)  # seconds since the epoch


def give(folder: Path, order: Order) -> list[Path]:
    """Write an order durably, for the dispatcher; returns its files, each removed once it is carried out."""
    folder.mkdir(exist_ok=True)
    paths = []
    for start in range(0, len(order.items), _ITEMS_PER_FILE):
        part = replace(order, items=order.items[start : start + _ITEMS_PER_FILE])
        # The time comes first, so that sorted names are in order of time.
        path = folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        durable.replace(path, json.dumps({"schema": SCHEMA} | asdict(part)).encode())
        paths.append(path)
    return paths


def outstanding(folder: Path) -> list[Path]:
    """The files of orders that are not carried out yet, oldest first."""
    return sorted(folder.glob("[0-9]*.json"))


def refused_path(path: Path) -> Path:
    """Where the dispatcher moves an order that it does not understand."""
    return path.with_suffix(".refused")


def read(path: Path) -> Order:
    """The order in that file.

    Raises:
        ValueError, KeyError, TypeError: it is no order, or another version of dicomferry wrote it.
        OSError: it cannot be read.
    """
    content = dict(json.loads(path.read_bytes()))
    if content.pop("schema") != SCHEMA:
        raise ValueError(f"{path.name} was given by another version of dicomferry")
    items = tuple(
        Item(item["instance"], item["sop_instance_uid"], tuple(item["destinations"]))
        for item in content.pop("items")
    )
    return Order(Act(content.pop("act")), items, **content)
