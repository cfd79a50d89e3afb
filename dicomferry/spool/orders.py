"""What operators order: files on the spool, which the dispatcher carries out, whether it runs now or later.

Orders name what they are about one by one, as it was shown to the operator who said yes; nothing that came
in between is touched.
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
_TOGETHER = 50  # items of one file: the dispatcher carries out a file at a time, and has other work


class Act(StrEnum):
    """What can be ordered."""

    RETRY = "retry"  # dead deliveries become pending again, with all their attempts
    DISCARD = "discard"  # dead deliveries are given up for good
    RESEND = "resend"  # deliveries that are done are done once more
    REROUTE = "reroute"  # what is pending goes to the destinations that are named, and to no others
    NOTE = "note"  # something that was done already is to stand in the history


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return f"user {os.getuid()}"


@dataclass(frozen=True, slots=True)
class Item:
    """One instance, and the destinations that the act is about; `sop_instance_uid` is for the history."""

    instance: str
    sop_instance_uid: str
    destinations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """An operator's decision."""

    act: Act
    items: tuple[Item, ...]
    words: str = ""  # why, for the history
    by: str = field(default_factory=_user)
    at: float = field(default_factory=time.time)  # seconds since the epoch


def give(folder: Path, order: Order) -> list[Path]:
    """Put an order, durably, among those that the dispatcher carries out; its files go as they are done."""
    folder.mkdir(exist_ok=True)
    paths = []
    for start in range(0, len(order.items), _TOGETHER):
        part = replace(order, items=order.items[start : start + _TOGETHER])
        # By time first, so that a sorted list is in the order of giving.
        path = folder / f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.json"
        durable.replace(path, json.dumps({"schema": SCHEMA} | asdict(part)).encode())
        paths.append(path)
    return paths


def given(folder: Path) -> list[Path]:
    """The orders that are not carried out yet, oldest first."""
    return sorted(folder.glob("[0-9]*.json"))


def set_aside(path: Path) -> Path:
    """Where an order goes that the dispatcher does not understand."""
    return path.with_suffix(".refused")


def read(path: Path) -> Order:
    """The order in that file.

    Raises:
        ValueError, KeyError, TypeError: it is none, or another version of dicomferry gave it.
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
