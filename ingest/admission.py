"""Who may associate, and where their objects go. Pure: decides from the settings and the request.

A rejection carries the result, source and reason of PS3.8 9.3.4 (A-ASSOCIATE-RJ).
"""

import ipaddress
from dataclasses import dataclass

from dicomferry.settings import CalledAE, Settings


@dataclass(frozen=True, slots=True)
class Admitted:
    """The association is accepted."""

    ae: CalledAE
    calling_ae_title: str
    host: str  # address of the requestor
    destinations: tuple[str, ...]  # empty: no route matches this association
    route: str  # the rules that matched, in words

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


def admit(
    settings: Settings,
    calling: str,
    called: str,
    address: str,
    *,
    associations: int,
    shortage: str | None = None,
) -> Admitted | Rejected:
    """Decide about a request for an association.

    `associations` counts the open ones, this one included; `shortage` says why the spool takes nothing more.
    A shortage rejects a requestor that only sends C-ECHO too: a monitor then sees what a sender sees.
    """
    host = plain_address(address)
    ae = next((ae for ae in settings.ae if ae.title == called), None)
    if ae is None:
        return Rejected(1, 1, 7, f"called AE title {called!r} is none of ours")
    if not _may_call(ae, calling, host):
        return Rejected(1, 1, 3, f"callers of {called} does not name {calling!r} at {host}")
    if associations > settings.ingest.max_associations:
        limit = settings.ingest.max_associations
        return Rejected(2, 3, 2, f"{limit} associations stand already (ingest.max_associations)")
    if shortage is not None:
        return Rejected(2, 3, 2, shortage)
    return Admitted(
        ae,
        calling,
        host,
        settings.destinations_for(calling, called, host),
        _route(settings, calling, called, host),
    )


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
