"""Carries out operators' orders: changes the markers on the spool, nothing else.

Each step may run twice: after a crash the order is simply carried out again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dicomferry.spool import orders
from dicomferry.spool.instance import State
from dicomferry.spool.orders import Act, Item, Order
from dicomferry.spool.spool import ROOM, TRANSCODING, Spool
from dispatcher.bookkeeping import Bookkeeping
from dispatcher.commands import Note

log = logging.getLogger(__name__)


def carry_out_waiting(
    spool: Spool, books: Bookkeeping, until: float, changed: Callable[[Order], None]
) -> None:
    """Carry out the orders that wait, and tell `changed` of each; after `until` (monotonic) others wait."""
    for path in orders.outstanding(spool.orders):
        if time.monotonic() > until:
            return
        try:
            changed(_carry_out_file(spool, books, path))
        except (ValueError, KeyError, TypeError) as error:
            log.warning("OrderNotUnderstood %s: %s; set aside", path.name, type(error).__name__)
            path.rename(orders.refused_path(path))
        except OSError as error:  # a full disk, or another user's file: it is tried again later
            log.warning("OrderNotCarriedOut %s: %s", path.name, error.strerror or error)


def _carry_out_file(spool: Spool, books: Bookkeeping, path: Path) -> Order:
    order = orders.read(path)
    notes = list(carry_out(spool, order))
    for note in notes:
        books.note(note)
    books.write()  # before the order's file goes: nothing else tells of it
    path.unlink()
    log.info("Order %s by=%s items=%d done=%d", order.act, order.by, len(order.items), len(notes))
    return order


def carry_out(spool: Spool, order: Order) -> Iterator[Note]:
    """Change the spool as ordered; yields what was done, for the history.

    An item that has changed meanwhile (delivered after all, or retired) is left alone.
    """
    if order.act is Act.ASK:
        return  # it concerns no instance
    for item in order.items:
        if order.act is Act.NOTE:
            yield _note(order, item, "operator", order.words)
            continue
        state = spool.state(item.instance)
        if state is not None:
            yield from _ACTS[order.act](spool, order, item, state)


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
