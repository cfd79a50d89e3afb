"""Carries out operators' orders: changes the markers on the spool, nothing else.

Each step may run twice: after a crash the order is simply carried out again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from dicomferry.spool import orders
from dicomferry.spool.instance import State
from dicomferry.spool.orders import Act, Item, Order
from dicomferry.spool.spool import ROOM, TRANSCODING, Spool
from dispatcher.bookkeeping import Bookkeeping
from dispatcher.commands import Note

Newer = Callable[[State, str], str]  # what is known of a newer object for that destination, in words

log = logging.getLogger(__name__)


def carry_out_waiting(
    spool: Spool, books: Bookkeeping, newer: Newer, until: float, changed: Callable[[Order], None]
) -> None:
    """Carry out the orders that wait, and tell `changed` of each; after `until` (monotonic) others wait."""
    for path in orders.outstanding(spool.orders):
        if time.monotonic() > until:
            return
        try:
            changed(_carry_out_file(spool, books, newer, path))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("OrderNotUnderstood %s: %s; set aside", path.name, type(error).__name__)
            path.rename(orders.refused_path(path))
        except OSError as error:  # a full disk, or another user's file: it is tried again later
            log.warning("OrderNotCarriedOut %s: %s", path.name, error.strerror or error)


def _carry_out_file(spool: Spool, books: Bookkeeping, newer: Newer, path: Path) -> Order:
    order = orders.read(path)
    books.write()  # it tells what newer objects were delivered
    notes = list(carry_out(spool, order, newer))
    for note in notes:
        books.note(note)
    books.write()  # before the order's file goes: nothing else tells of it
    path.unlink()
    log.info("Order %s by=%s items=%d done=%d", order.act, order.by, len(order.items), len(notes))
    return order


def carry_out(spool: Spool, order: Order, newer: Newer) -> Iterator[Note]:
    """Change the spool as ordered; yields what was done, for the history.

    An item that has changed meanwhile (delivered after all, or retired) is left alone. So is one that would
    follow a newer object with its SOP Instance UID, unless the order says `older_too`.
    """
    if order.act is Act.ASK:
        return  # it concerns no instance
    for item in order.items:
        if order.act is Act.NOTE:
            yield _note(order, item, "operator", order.words)
            continue
        state = spool.state(item.instance)
        if state is None:
            continue
        overtaken = {} if order.older_too else _overtaken(order, item, state, newer)
        for name, words in overtaken.items():
            yield _note(order, item, "left alone", f"not sent again: {words}", name)
        left = tuple(name for name in item.destinations if name not in overtaken)
        if left or not overtaken:
            yield from _ACTS[order.act](spool, order, replace(item, destinations=left), state)


def _overtaken(order: Order, item: Item, state: State, newer: Newer) -> dict[str, str]:
    """The destinations to which the order would send the item after a newer object, and that in words."""
    names = {Act.RETRY: state.dead, Act.RESEND: state.delivered}.get(order.act, frozenset())
    return {name: words for name in item.destinations if name in names and (words := newer(state, name))}


def _retry(spool: Spool, order: Order, item: Item, state: State) -> Iterator[Note]:
    spool.renew(item.instance)
    spool.clear_attempts(item.instance, TRANSCODING)
    spool.clear_attempts(item.instance, ROOM)
    for name in item.destinations:
        if name in state.dead:
            spool.clear_attempts(item.instance, name)
            spool.unmark(item.instance, "dead", name)
            yield _note(order, item, "retried", "is to be delivered again", name)


def _discard(spool: Spool, order: Order, item: Item, state: State) -> Iterator[Note]:
    given_up = [name for name in item.destinations if name in state.dead]
    if given_up:
        left = tuple(name for name in state.destinations if name not in given_up)
        spool.redirect(item.instance, left, f"discarded by {order.by}")
    for name in given_up:
        reason = (spool.marker(item.instance, "dead", name) or {}).get("reason", "")
        yield _note(order, item, "discarded", f"never to be delivered; it was dead: {reason}", name)


def _resend(spool: Spool, order: Order, item: Item, state: State) -> Iterator[Note]:
    spool.renew(item.instance)
    for name in item.destinations:
        if name in state.delivered and name in state.destinations:
            spool.clear_attempts(item.instance, name)
            spool.unmark(item.instance, "delivered", name)
            yield _note(order, item, "resent", "is to be delivered once more", name)


def _reroute(spool: Spool, order: Order, item: Item, state: State) -> Iterator[Note]:
    kept = tuple(name for name in state.destinations if name not in state.pending)
    wanted = tuple(dict.fromkeys((*kept, *item.destinations)))
    if set(wanted) != set(state.destinations):
        spool.redirect(item.instance, wanted, f"rerouted by {order.by}")
        words = f"from {', '.join(state.destinations) or 'nowhere'} to {', '.join(wanted) or 'nowhere'}"
        yield _note(order, item, "rerouted", words)


_ACTS: dict[Act, Callable[[Spool, Order, Item, State], Iterator[Note]]] = {
    Act.RETRY: _retry,
    Act.DISCARD: _discard,
    Act.RESEND: _resend,
    Act.REROUTE: _reroute,
}


def _note(order: Order, item: Item, what: str, words: str, destination: str = "") -> Note:
    return Note(
        item.instance, item.sop_instance_uid, what, destination, f"{words} ({order.by}'s order)", order.at
    )
