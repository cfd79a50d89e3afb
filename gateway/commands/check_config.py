"""`dicomferry check-config`: what is right but will hardly be meant, found without starting anything."""

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from dicomferry.dicom.syntaxes import BY_UID
from dicomferry.settings import Destination, Settings, unknown_variables

_RESOLVE_WITHIN = 5.0  # seconds, for all hosts together


def warnings_of(settings: Settings) -> Iterator[str]:
    """What deserves a second look, a line each."""
    for name in unknown_variables():
        yield f"{name} in the environment sets nothing: no key has that name"
    used = {name for route in settings.route for name in route.to}
    for destination in settings.destination:
        if destination.name not in used:
            yield f"destination {destination.name}: no route sends to it"
        if not destination.lossy and not destination.negotiates and not _has_lossless(destination):
            listed = ", ".join(destination.transfer_syntaxes)
            yield (
                f"destination {destination.name}: transfer_syntaxes ({listed}) are all lossy, and lossy "
                "= true is not set: only what comes in one of them is delivered"
            )
    yield from _same_peers([destination for destination in settings.destination if destination.name in used])
    yield from _ports_of_broker(settings)
    yield from _addresses(settings)
    if reason := _unusable(settings.spool):
        yield f"spool {settings.spool}: {reason}"


def _same_peers(destinations: list[Destination]) -> Iterator[str]:
    names: dict[tuple[str, str, int], list[str]] = {}
    for d in destinations:
        names.setdefault((d.title, d.host.lower(), d.port), []).append(d.name)
    for (title, host, port), same in names.items():
        if len(same) > 1:
            yield f"destinations {', '.join(same)}: one peer, {title} at {host}:{port}; it may get all twice"


def _ports_of_broker(settings: Settings) -> Iterator[str]:
    """Where Redis of this machine has the port of a server of ours."""
    broker = urlsplit(settings.broker or "")
    here = {"localhost", "127.0.0.1", "::1", socket.gethostname().lower()}
    if broker.scheme not in {"redis", "rediss"} or (broker.hostname or "localhost") not in here:
        return
    for key, port in (("ingest.port", settings.ingest.port), ("flower.port", settings.flower.port)):
        if port == (broker.port or 6379):
            yield f"{key}: {port} is the broker's port on this machine"


def _has_lossless(destination: Destination) -> bool:
    return any(BY_UID[uid].lossless or not BY_UID[uid].encoded for uid in destination.shown_syntaxes)


def _addresses(settings: Settings) -> Iterator[str]:
    """Destinations whose host has no address, or one of this machine and the port of our own ingest."""
    names: dict[str, list[Destination]] = {}
    for destination in settings.destination:
        names.setdefault(destination.host, []).append(destination)
    found = _resolved(names)
    for host, destinations in names.items():
        addresses = found.get(host, f"was not resolved within {_RESOLVE_WITHIN:g} s")
        fault = addresses if isinstance(addresses, str) else ""
        ours = host == socket.gethostname() if fault else any(map(_is_local, addresses))
        for destination in destinations:
            if fault:
                yield f"destination {destination.name}: host {host!r} {fault}"
            if ours and destination.port == settings.ingest.port:
                yield (
                    f"destination {destination.name}: {host}:{destination.port} is our own ingest: what "
                    "is sent there comes back and is sent again, without end, or is rejected"
                )


def _resolved(hosts: Iterable[str]) -> dict[str, str | set[str]]:
    """For each host that could be asked for in time: its addresses, or why it has none."""
    found: dict[str, str | set[str]] = {}

    def resolve(host: str) -> None:
        try:
            found[host] = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
        except OSError as error:
            found[host] = f"cannot be resolved: {error.strerror or error}"

    # Daemons: a name server that does not answer must not keep the command from ending.
    lookups = [threading.Thread(target=resolve, args=(host,), daemon=True) for host in hosts]
    for lookup in lookups:
        lookup.start()
    deadline = time.monotonic() + _RESOLVE_WITHIN
    for lookup in lookups:
        lookup.join(max(0.0, deadline - time.monotonic()))
    return dict(found)


def _is_local(address: str) -> bool:
    """Whether an address is one of this machine: only those can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def _unusable(spool: Path) -> str:
    """Why the spool cannot be used, or made where it is missing; empty if it can."""
    try:
        return _tried(spool)
    except OSError as error:  # a name that is too long, a loop of links, a file system that has gone
        return f"cannot be used: {error.strerror}"


def _tried(spool: Path) -> str:
    if spool.exists() and not spool.is_dir():
        return "is no folder"
    folder = spool
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        return f"cannot be made: {folder} is no folder"
    what = "cannot be written" if folder == spool else "cannot be made"
    try:
        # Tried, since permissions say nothing of a file system that takes no files.
        with tempfile.TemporaryDirectory(prefix=".check-", dir=folder):
            pass
    except OSError as error:
        return f"{what}: {error.strerror} in {folder}, as user {os.geteuid()}"
    below = [path for path in spool.iterdir() if path.is_dir()] if folder == spool else []
    closed = [path.name for path in below if not os.access(path, os.W_OK | os.X_OK)]
    return f"{what}: {', '.join(sorted(closed))} by user {os.geteuid()}" if closed else ""
