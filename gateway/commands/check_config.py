"""`dicomferry check-config`: what is right but will hardly be meant, found without starting anything."""

import os
import socket
import threading
import time
from collections.abc import Iterator

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
    yield from _unresolved(settings)
    if reason := _unusable(settings):
        yield f"spool {settings.spool}: {reason}"


def _has_lossless(destination: Destination) -> bool:
    return any(BY_UID[uid].lossless or not BY_UID[uid].encoded for uid in destination.shown_syntaxes)


def _unresolved(settings: Settings) -> Iterator[str]:
    names = {destination.host: destination.name for destination in settings.destination}
    found: dict[str, str] = {}

    def resolve(host: str) -> None:
        try:
            socket.getaddrinfo(host.strip("[]"), None)
            found[host] = ""
        except OSError as error:
            found[host] = f"cannot be resolved: {error.strerror or error}"

    # Daemons: a name server that does not answer must not keep the command from ending.
    lookups = [threading.Thread(target=resolve, args=(host,), daemon=True) for host in names]
    for lookup in lookups:
        lookup.start()
    deadline = time.monotonic() + _RESOLVE_WITHIN
    for lookup in lookups:
        lookup.join(max(0.0, deadline - time.monotonic()))
    for host, name in names.items():
        if fault := found.get(host, f"was not resolved within {_RESOLVE_WITHIN:g} s"):
            yield f"destination {name}: host {host!r} {fault}"


def _unusable(settings: Settings) -> str:
    """Why the spool cannot be used, or made where it is missing; empty if it can."""
    folder = settings.spool
    if folder.exists() and not folder.is_dir():
        return "is no folder"
    missing = not folder.exists()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        return f"cannot be made: {folder} is no folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"cannot be {'made in' if missing else 'written:'} {folder} by user {os.geteuid()}"
    return ""
