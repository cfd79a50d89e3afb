"""Settles what left the spool with its last delivery, where no event told of it."""

import logging
import time

from dicomferry.messages import events
from dicomferry.spool.departures import Departure
from dicomferry.spool.spool import Spool
from dispatcher.bookkeeping import Bookkeeping
from dispatcher.manager import QueueManager

log = logging.getLogger(__name__)


class Departed:
    """The instances that have left and are not in the books yet; `now` is the queue manager's time."""

    def __init__(self, spool: Spool, books: Bookkeeping, manager: QueueManager) -> None:
        self._spool, self._books, self._manager = spool, books, manager

    def settle(self, now: float, older_than: float = 0.0) -> None:
        """Settle what left so many seconds ago."""
        before = time.time() - older_than
        for departure in self._spool.departures():
            if departure.at <= before and departure.instance not in self._books:
                self._settle(departure, now)

    def settle_instance(self, instance: str, now: float) -> None:
        """Settle what left under this id."""
        for departure in self._spool.departures():
            if departure.instance == instance:
                self._settle(departure, now)

    def _settle(self, departure: Departure, now: float) -> None:
        instance, destination = departure.instance, departure.destination
        if self._spool.bring_back(departure):
            log.info("BroughtBack instance=%s: an order sends it elsewhere", instance)
        elif self._manager.awaits(instance, destination) and not self._spool.exists(instance):
            told = events.Delivered(
                "", destination, instance, departure.key, departure.status, at=departure.at
            )
            self._manager.handle(told, now)
        else:
            self._books.recover_departed(self._spool.departed(departure), departure)
