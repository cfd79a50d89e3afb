"""Instances that share a SOP Instance UID: each destination must get them in the order of their arrival.

A destination keeps the last one sent, so an older one must never come after a newer one.
"""

from dispatcher.lanes import Entry


class Duplicates:
    """The entries of each SOP Instance UID; nearly always one, which costs one reference."""

    def __init__(self) -> None:
        self._first: dict[str, Entry] = {}  # by SOP Instance UID: one of its entries
        self._shared: dict[str, list[Entry]] = {}  # all entries of a UID that has several, oldest first

    def add(self, entry: Entry) -> list[Entry]:
        """Add an entry; returns the entries of its UID that arrived before it."""
        uid = entry.sop_instance_uid
        first = self._first.setdefault(uid, entry)
        if first is entry:
            return []
        together = self._shared.setdefault(uid, [first])
        together.append(entry)
        together.sort(key=_arrival)
        return together[: together.index(entry)]

    def remove(self, entry: Entry) -> None:
        """Remove an entry."""
        uid = entry.sop_instance_uid
        together = self._shared.get(uid)
        if together is None:
            if self._first.get(uid) is entry:
                del self._first[uid]
            return
        together.remove(entry)
        self._first[uid] = together[0]
        if len(together) == 1:
            del self._shared[uid]

    def earlier(self, entry: Entry, destination: str) -> bool:
        """Whether an entry that arrived before this one is still pending for the destination."""
        together = self._shared.get(entry.sop_instance_uid, ())
        return any(
            destination in other.deliveries and _arrival(other) < _arrival(entry) for other in together
        )

    def later(self, entry: Entry) -> list[Entry]:
        """The entries that arrived after this one, oldest first."""
        together = self._shared.get(entry.sop_instance_uid, ())
        return [other for other in together if _arrival(other) > _arrival(entry)]


def _arrival(entry: Entry) -> tuple[float, str]:
    return entry.received_at, entry.id
