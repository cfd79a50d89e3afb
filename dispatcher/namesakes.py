"""Instances that share a SOP Instance UID: each destination is to get them in the order of their arrival.

The last one sent is what the destination keeps, so an older one must never come after it.
"""

from dispatcher.lanes import Entry


class Namesakes:
    """Who else has an entry's SOP Instance UID; nearly always nobody, so one alone costs one reference."""

    def __init__(self) -> None:
        self._one: dict[str, Entry] = {}  # by SOP Instance UID
        self._more: dict[str, list[Entry]] = {}  # all of those that are not alone, oldest first

    def add(self, entry: Entry) -> list[Entry]:
        """Take in an entry; those that arrived before it."""
        uid = entry.sop_instance_uid
        first = self._one.setdefault(uid, entry)
        if first is entry:
            return []
        together = self._more.setdefault(uid, [first])
        together.append(entry)
        together.sort(key=_arrival)
        return together[: together.index(entry)]

    def remove(self, entry: Entry) -> None:
        """Forget an entry."""
        uid = entry.sop_instance_uid
        together = self._more.get(uid)
        if together is None:
            if self._one.get(uid) is entry:
                del self._one[uid]
            return
        together.remove(entry)
        self._one[uid] = together[0]
        if len(together) == 1:
            del self._more[uid]

    def earlier(self, entry: Entry, destination: str) -> bool:
        """Whether one that arrived before is still to be delivered to that destination."""
        together = self._more.get(entry.sop_instance_uid, ())
        return any(
            destination in other.deliveries and _arrival(other) < _arrival(entry) for other in together
        )

    def later(self, entry: Entry) -> list[Entry]:
        """Those that arrived after it, oldest first."""
        together = self._more.get(entry.sop_instance_uid, ())
        return [other for other in together if _arrival(other) > _arrival(entry)]


def _arrival(entry: Entry) -> tuple[float, str]:
    return entry.received_at, entry.id
