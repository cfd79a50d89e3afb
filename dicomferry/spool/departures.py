"""Instances that their last destination has, on their way out: the name of each file says who has it.

That it has left its place is the mark of its delivery; there is no other. The dispatcher writes it to the
history before it removes the file, also where no event told of it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from dicomferry.spool.instance import is_id

_SUFFIX = ".dcm"
_MS = 1000


@dataclass(frozen=True, slots=True)
class Departure:
    """The last delivery of an instance."""

    instance: str
    destination: str
    status: int  # DIMSE status
    key: str | None  # of the rendition that was sent, None as received
    at: float  # seconds since the epoch, in whole milliseconds

    @property
    def name(self) -> str:
        """The file's name."""
        parts = (self.instance, f"{self.at * _MS:.0f}", f"{self.status:04x}", self.destination)
        return ".".join((*parts, self.key or "")) + _SUFFIX


def in_ms(at: float) -> float:
    """A time as a name can hold it."""
    return round(at * _MS) / _MS


def _parse(name: str) -> Departure | None:
    """The reverse of `Departure.name`, no part of which but the last has a dot; None for another name."""
    try:
        instance, at, status, destination, key = name.removesuffix(_SUFFIX).split(".", 4)
        if not is_id(instance):
            return None
        return Departure(instance, destination, int(status, 16), key or None, int(at) / _MS)
    except ValueError:
        return None


class Departures:
    """The folder of one spool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._listed: dict[str, list[Departure]] = {}  # not asked for yet

    def path(self, departure: Departure) -> Path:
        """Its file."""
        return self.folder / departure.name

    def all(self) -> list[Departure]:
        """All of them, in no order."""
        return [found for name in os.listdir(self.folder) if (found := _parse(name)) is not None]

    def of(self, instance: str) -> list[Departure]:
        """Those of one instance; the folder is listed once for many that are asked for."""
        if instance not in self._listed:
            self._listed = {}
            for departure in self.all():
                self._listed.setdefault(departure.instance, []).append(departure)
        return self._listed.pop(instance, [])
