"""Who may associate, and where their objects go. Pure: decides from the settings and the request.

A rejection carries the result, source and reason of PS3.8 9.3.4 (A-ASSOCIATE-RJ).
"""

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dicomferry.settings import CalledAE, Settings

SILENT_LONG = 5.0  # seconds without a message in progress, after which an association may have to give way
_KEPT_SHARE = 4  # one place in so many is kept for callers that the configuration names


@dataclass(frozen=True, slots=True)
class Standing:
    """An association that stands, as far as it counts for the next."""

    host: str
    named: bool  # `callers` of one of our AEs names its requestor
    silent: float = 0.0  # seconds without a message in progress


@dataclass(frozen=True, slots=True)
class Admitted:
    """The association is accepted."""

    ae: CalledAE
    calling_ae_title: str
    host: str  # address of the requestor
    destinations: tuple[str, ...]  # empty: no route matches this association
    route: str  # the rules that matched, in words
    named: bool = False  # `callers` of one of our AEs names the requestor
    instead_of: tuple[int, ...] = ()  # the standing associations that are to be ended for it, by index

    @property
    def called_ae_title(self) -> str:
        """Our AE title that the requestor called."""
        return self.ae.title


@dataclass(frozen=True, slots=True)
class Rejected:
    """The association is rejected: the three numbers of PS3.8 9.3.4, and why, for the log."""

    result: int
    source: int
    reason: int
    why: str

    @property
    def is_of_caller(self) -> bool:
        """Whether the settings do not let this requestor call: "calling AE title not recognised"."""
        return (self.result, self.source, self.reason) == (1, 1, 3)


def admit(
    settings: Settings,
    calling: str,
    called: str,
    address: str,
    *,
    standing: Sequence[Standing] = (),
    shortage: str | None = None,
) -> Admitted | Rejected:
    """Decide about a request for an association.

    `standing` are the associations that stand, without this one; `shortage` says why the spool takes nothing
    more. A shortage rejects a requestor that only sends C-ECHO too: a monitor then sees what a sender sees.
    """
    host = plain_address(address)
    ae = next((ae for ae in settings.ae if ae.title == called), None)
    if ae is None:
        return Rejected(1, 1, 7, f"called AE title {called!r} is none of ours")
    if not _may_call(ae, calling, host):
        return Rejected(1, 1, 3, f"callers of {called} does not name {calling!r} at {host}")
    if shortage is not None:
        return Rejected(2, 3, 2, shortage)
    named = any(each.callers is not None and _may_call(each, calling, host) for each in settings.ae)
    ended = _make_place(_limits(settings, host, named=named), standing)
    if isinstance(ended, str):
        return Rejected(2, 3, 2, ended)
    return Admitted(
        ae,
        calling,
        host,
        settings.destinations_for(calling, called, host),
        _route(settings, calling, called, host),
        named,
        ended,
    )


@dataclass(frozen=True, slots=True)
class _Limit:
    """How many associations of a kind may stand."""

    most: int
    why: str  # there is no place when so many stand, with the key to change
    counts: Callable[[Standing], bool]


def _limits(settings: Settings, host: str, *, named: bool) -> list[_Limit]:
    """The limits that apply to a requestor at `host`, narrowest first."""
    ingest = settings.ingest
    per_host, most = ingest.max_associations_per_host, ingest.max_associations
    kept = most // _KEPT_SHARE if any(ae.callers for ae in settings.ae) else 0
    limits = [
        _Limit(
            per_host,
            f"{host} has {per_host} associations already (ingest.max_associations_per_host)",
            lambda other: other.host == host,
        ),
        _Limit(most, f"{most} associations stand already (ingest.max_associations)", lambda _: True),
    ]
    if not named and kept:
        words = (
            f"{most - kept} associations of unnamed callers stand already, {kept} more places are kept for "
            "those that `callers` of an [[ae]] names (ingest.max_associations)"
        )
        limits.insert(1, _Limit(most - kept, words, lambda other: not other.named))
    return limits


def _make_place(limits: Sequence[_Limit], standing: Sequence[Standing]) -> tuple[int, ...] | str:
    """Which of the standing associations have to give way, so that all limits hold; or why none can.

    The first to go is the one that was silent longest; one whose requestor is named goes after all others.
    """
    ended: list[int] = []
    for limit in limits:
        counted = [i for i, other in enumerate(standing) if limit.counts(other) and i not in ended]
        if len(counted) < limit.most:
            continue
        idle = [i for i in counted if standing[i].silent >= SILENT_LONG]
        if not idle:
            return limit.why
        ended.append(max(idle, key=lambda i: (not standing[i].named, standing[i].silent)))
    return tuple(ended)


def plain_address(address: str) -> str:
    """The address as settings write it: an IPv4-mapped IPv6 address becomes IPv4."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def _may_call(ae: CalledAE, calling: str, host: str) -> bool:
    return ae.callers is None or any(
        caller.title == calling and (caller.host is None or plain_address(caller.host) == host)
        for caller in ae.callers
    )


def _route(settings: Settings, calling: str, called: str, host: str) -> str:
    return "; ".join(
        f"route {number} (called {route.called}, calling {route.calling}, host {route.host})"
        for number, route in enumerate(settings.route, 1)
        if route.matches(calling, called, host)
    )
