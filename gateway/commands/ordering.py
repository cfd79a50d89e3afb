"""The commands that change deliveries: show what would change, ask, write an order, wait until it is done.

Only the dispatcher changes deliveries on the spool. While none runs, the order waits for it there.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import typer

from dicomferry.errors import FerryError, Misconfigured
from dicomferry.settings import Settings
from dicomferry.spool import orders
from dicomferry.spool.orders import Act, Item, Order
from dicomferry.spool.spool import Spool
from gateway.commands.selection import EndedDelivery, Filter, compared, dead, delivered, states
from gateway.commands.status import dispatcher_runs
from gateway.commands.words import ago, counted, say

_TIMEOUT = 10.0  # seconds without progress after which we no longer wait for a running dispatcher
_POLL = 0.05
_MAX_NAMED = 20  # deliveries that are left alone


def confirm(question: str, *, yes: bool) -> None:
    """Ask, unless `yes`.

    Raises:
        Misconfigured: there is no terminal to ask at.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Misconfigured("this asks first, and there is no terminal to ask at: say --yes")
    typer.confirm(question, abort=True)


def give(spool: Spool, *given: Order) -> None:
    """Give orders, wait until the dispatcher has carried them out, and print whether it has.

    Raises:
        FerryError: the order cannot be written, or the dispatcher does not understand it.
    """
    try:
        paths = [path for order in given for path in orders.give(spool.orders, order)]
    except OSError as error:
        raise FerryError(f"cannot write the order to {spool.orders}: {error.strerror}") from error
    if not dispatcher_runs(spool):
        say("Ordered. No dispatcher runs on this spool: it is done as soon as one does.")
        return
    left, deadline = len(paths), time.monotonic() + _TIMEOUT
    while remaining := sum(path.exists() for path in paths):
        if remaining < left:
            left, deadline = remaining, time.monotonic() + _TIMEOUT
        if time.monotonic() > deadline:
            say("Ordered, and not carried out yet: `dicomferry status` counts what is left of it.")
            return
        time.sleep(_POLL)
    if any(orders.refused_path(path).exists() for path in paths):
        raise FerryError("the dispatcher does not understand this order: is it of another version?")
    say("Done: the dispatcher has carried it out.")


def retry(settings: Settings, wanted: Filter, *, yes: bool, older_too: bool = False) -> None:
    """Make dead deliveries pending again; `older_too`: those that a newer object has followed, too."""
    spool = Spool(settings.spool)
    found = dead(spool, wanted, time.time())
    for name, number in Counter(done.destination for done in found).items():
        if settings.destination_named(name) is None:
            say(
                f"The configuration has no destination {name}: {counted(number, 'delivery')} left dead; put "
                "it back, or choose between `dicomferry reroute` and `dicomferry dead discard`."
            )
    found = [done for done in found if settings.destination_named(done.destination)]
    found = _sendable(settings, found, older_too=older_too)
    if _print_selection(found, wanted, "dead delivery", "to be tried again"):
        confirm("Try them again?", yes=yes)
        give(spool, Order(Act.RETRY, _items(found), older_too=older_too))


def discard(settings: Settings, wanted: Filter, *, yes: bool) -> None:
    """Give up dead deliveries; an instance without other deliveries is removed from the spool."""
    spool = Spool(settings.spool)
    found = dead(spool, wanted, time.time())
    if _print_selection(
        found, wanted, "dead delivery", "to be given up for good; no destination gets them from here"
    ):
        confirm("Give them up for good?", yes=yes)
        give(spool, Order(Act.DISCARD, _items(found)))


def resend(settings: Settings, wanted: Filter, *, yes: bool, older_too: bool = False) -> None:
    """Deliver once more what was delivered and is kept; `older_too` as for `retry`."""
    spool = Spool(settings.spool)
    found = [d for d in delivered(spool, wanted, time.time()) if settings.destination_named(d.destination)]
    if not settings.keep_delivered:
        say("keep_delivered is not configured: what every destination has is not kept.")
    found = _sendable(settings, found, older_too=older_too)
    if _print_selection(found, wanted, "delivery", "to be sent once more"):
        confirm("Send them once more?", yes=yes)
        give(spool, Order(Act.RESEND, _items(found), older_too=older_too))


def reroute(settings: Settings, wanted: Filter, *, yes: bool, older_too: bool = False) -> None:
    """Give pending instances the destinations that the routes name now; `older_too` as for `retry`.

    This includes deliveries that are dead for a destination that is no longer configured.
    """
    spool, now = Spool(settings.spool), time.time()
    moves, unrouted = Counter[str](), Counter[str]()
    items, discarded = [], []
    overtaken: list[EndedDelivery] = []
    for state in states(spool, wanted):
        instance = state.instance
        unconfigured = tuple(sorted(name for name in state.dead if settings.destination_named(name) is None))
        waiting = (*state.pending, *unconfigured)
        if not any(map(wanted.matches_destination, waiting)) or not wanted.matches(
            at=instance.received_at, now=now
        ):
            continue
        to = settings.destinations_for(instance.calling_ae_title, instance.called_ae_title, instance.peer)
        if not to:
            unrouted[f"from {instance.calling_ae_title} ({instance.peer}) to {instance.called_ae_title}"] += 1
        elif set(waiting) != set(to) - (set(state.destinations) - set(waiting)):
            gained = [EndedDelivery(instance, name, now) for name in to if name not in state.destinations]
            behind = [done for done in compared(spool, settings.keep_history, gained) if done.newer]
            if behind and not older_too:
                overtaken += behind
                continue
            moves[f"from {', '.join(waiting)} to {', '.join(to)}"] += 1
            items.append(Item(instance.id, instance.sop_instance_uid, to))
            if unconfigured:
                discarded.append(Item(instance.id, instance.sop_instance_uid, unconfigured))
    for association, number in unrouted.most_common():
        say(f"No route takes what came {association} now: {counted(number, 'instance')} left alone")
    _print_overtaken(overtaken)
    if not items:
        say("Nothing to reroute: what is pending goes where the routes say.")
        return
    say(f"{counted(len(items), 'instance')} to be rerouted{_unfiltered_warning(wanted)}:")
    _print_counts(moves)
    confirm("Reroute them?", yes=yes)
    give(spool, Order(Act.REROUTE, tuple(items)), Order(Act.DISCARD, tuple(discarded)))


def _sendable(settings: Settings, found: list[EndedDelivery], *, older_too: bool) -> list[EndedDelivery]:
    """Those that no newer object has followed; prints the others. With `older_too`: all of them."""
    if older_too:
        return found
    found = compared(Spool(settings.spool), settings.keep_history, found)
    _print_overtaken([done for done in found if done.newer])
    return [done for done in found if not done.newer]


def _print_overtaken(overtaken: Sequence[EndedDelivery]) -> None:
    if not overtaken:
        return
    say(
        f"{counted(len(overtaken), 'delivery')} left alone, for the destination keeps what comes last; "
        "--older-too sends such objects all the same:"
    )
    for done in overtaken[:_MAX_NAMED]:
        say(f"  {done.destination}: {done.instance.sop_instance_uid}: {done.newer}")
    if len(overtaken) > _MAX_NAMED:
        say(f"  and {len(overtaken) - _MAX_NAMED} more: `dicomferry dead list` names those that are dead")


def _print_selection(found: Sequence[EndedDelivery], wanted: Filter, what: str, consequence: str) -> bool:
    """Print what an order concerns, counted by destination and reason; False where it is nothing."""
    if not found:
        say(f"No {what} {'is there' if wanted.is_empty else 'matches'}.")
        return False
    say(f"{counted(len(found), what)} {consequence}{_unfiltered_warning(wanted)}:")
    _print_counts(Counter(f"{d.destination}: {d.reason}" if d.reason else d.destination for d in found))
    oldest = min(d.at for d in found)
    say(f"  the oldest since {ago(oldest)}")
    return True


def _unfiltered_warning(wanted: Filter) -> str:
    return " (ALL there are: no filter was given)" if wanted.is_empty else ""


def _print_counts(counts: Counter[str]) -> None:
    for words, number in counts.most_common():
        say(f"{number:8}  {words}")


def _items(found: Iterable[EndedDelivery]) -> tuple[Item, ...]:
    names: dict[tuple[str, str], list[str]] = {}
    for done in found:
        names.setdefault((done.instance.id, done.instance.sop_instance_uid), []).append(done.destination)
    return tuple(Item(*ids, tuple(destinations)) for ids, destinations in names.items())
