"""The Typer commands for what is dead, quarantined, pending or delivered, and for destinations.

They take the same filters, show what they would change, and ask. See docs/operating.md.
"""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dicomferry.settings import Settings
    from gateway.commands.selection import Filter

DEFAULT_FILE = Path("dicomferry.toml")

app = typer.Typer(rich_markup_mode=None)


class Action(StrEnum):
    """What to do with the objects that the filters match."""

    LIST = "list"
    RETRY = "retry"
    DISCARD = "discard"


Config = Annotated[Path, typer.Option("--config", "-c", help="The configuration, TOML.")]
ActionArgument = Annotated[Action, typer.Argument(metavar="ACTION", help="What to do with them.")]
Name = Annotated[str | None, typer.Option("--destination", "-d", help="Deliveries to this destination.")]
Study = Annotated[str | None, typer.Option(metavar="UID", help="Of this Study Instance UID.")]
Sop = Annotated[str | None, typer.Option("--instance", metavar="UID", help="With this SOP Instance UID.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Reason contains this text (case ignored).")]
Older = Annotated[str | None, typer.Option(metavar="TIME", help="At least this old: 90s, 30m, 2h, 7d.")]
Newer = Annotated[str | None, typer.Option(metavar="TIME", help="At most this old.")]
Id = Annotated[str, typer.Option("--id", help="Id begins with this; C-STORE was answered with it.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
OlderToo = Annotated[
    bool, typer.Option("--older-too", help="Also what a newer object with its SOP Instance UID followed.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def dead(  # noqa: PLR0917  Typer calls it by name
    action: ActionArgument,
    destination: Name = None,
    study: Study = None,
    instance: Sop = None,
    reason: Reason = "",
    older_than: Older = None,
    newer_than: Newer = None,
    older_too: OlderToo = False,
    yes: Yes = False,
    as_json: Json = False,
    config: Config = DEFAULT_FILE,
) -> None:
    """List, retry or discard deliveries that were given up. What is discarded is gone for good."""
    settings, wanted = _load_with_filter(config, destination, study, instance, reason, older_than, newer_than)
    from dicomferry.spool.spool import Spool  # noqa: PLC0415
    from gateway.commands import ordering, selection  # noqa: PLC0415
    from gateway.commands.dead_list import print_dead_list  # noqa: PLC0415

    if action is Action.LIST:
        spool = Spool(settings.spool)
        found = selection.dead(spool, wanted, time.time())
        print_dead_list(selection.compared(spool, settings.keep_history, found), as_json=as_json)
    elif action is Action.RETRY:
        ordering.retry(settings, wanted, yes=yes, older_too=older_too)
    else:
        ordering.discard(settings, wanted, yes=yes)


@app.command()
def quarantine(  # noqa: PLR0917
    action: ActionArgument,
    instance: Sop = None,
    id_: Id = "",
    reason: Reason = "",
    older_than: Older = None,
    newer_than: Newer = None,
    older_too: OlderToo = False,
    yes: Yes = False,
    as_json: Json = False,
    config: Config = DEFAULT_FILE,
) -> None:
    """List, retry or discard what could not be read on arrival. To retry is to read it again."""
    settings, wanted = _load_with_filter(config, None, None, instance, reason, older_than, newer_than)
    from gateway.commands.quarantine import discard, retry, select, show  # noqa: PLC0415

    found = select(settings, wanted, id_)
    if action is Action.LIST:
        show(found, as_json=as_json)
    elif action is Action.DISCARD:
        discard(settings, found, yes=yes)
    elif not retry(settings, found, yes=yes, older_too=older_too):
        raise typer.Exit(1)


@app.command()
def reroute(  # noqa: PLR0917
    destination: Name = None,
    study: Study = None,
    instance: Sop = None,
    older_than: Older = None,
    newer_than: Newer = None,
    older_too: OlderToo = False,
    yes: Yes = False,
    config: Config = DEFAULT_FILE,
) -> None:
    """Send what is pending where the routes say now. Works before the first start with new routes too."""
    settings, wanted = _load_with_filter(config, destination, study, instance, "", older_than, newer_than)
    from gateway.commands import ordering  # noqa: PLC0415

    ordering.reroute(settings, wanted, yes=yes, older_too=older_too)


@app.command()
def resend(  # noqa: PLR0917
    destination: Name = None,
    study: Study = None,
    instance: Sop = None,
    older_than: Older = None,
    newer_than: Newer = None,
    older_too: OlderToo = False,
    yes: Yes = False,
    config: Config = DEFAULT_FILE,
) -> None:
    """Send once more what was delivered and is kept. `keep_delivered` says how long it is."""
    settings, wanted = _load_with_filter(config, destination, study, instance, "", older_than, newer_than)
    from gateway.commands import ordering  # noqa: PLC0415

    ordering.resend(settings, wanted, yes=yes, older_too=older_too)


@app.command()
def echo(destination: str, config: Config = DEFAULT_FILE) -> None:
    """Ask a destination whether it answers. It gets a C-ECHO, with its settings."""
    settings = _load(config)
    from dicomferry.text import shown  # noqa: PLC0415
    from gateway.commands import peers  # noqa: PLC0415

    typer.echo(shown(peers.echo(settings, destination)))


@app.command()
def probe(
    destination: str,
    sop_class: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="UID or keyword; else some common ones.")
    ] = None,
    config: Config = DEFAULT_FILE,
) -> None:
    """Ask a destination what it accepts, and say what it gets. That is by SOP class and transfer syntax."""
    settings = _load(config)
    from rich.console import Console  # noqa: PLC0415

    from gateway.commands import peers  # noqa: PLC0415

    peers.probe(settings, destination, sop_class or peers.COMMON, Console())


def _load(config: Path) -> "Settings":
    from dicomferry.settings import load  # noqa: PLC0415

    return load(config)


def _load_with_filter(  # noqa: PLR0917
    config: Path,
    destination: str | None,
    study: str | None,
    instance: str | None,
    reason: str,
    older_than: str | None,
    newer_than: str | None,
) -> "tuple[Settings, Filter]":
    settings = _load(config)
    from gateway.commands.selection import Filter  # noqa: PLC0415

    if destination is not None and settings.destination_named(destination) is None:
        _check_is_on_spool(settings, destination)
    older, newer = _seconds(older_than, "--older-than"), _seconds(newer_than, "--newer-than")
    return settings, Filter(destination, study, instance, reason, older, newer)


def _check_is_on_spool(settings: "Settings", destination: str) -> None:
    """Refuse a name that neither the configuration nor any instance on the spool has."""
    from dicomferry.errors import Misconfigured  # noqa: PLC0415
    from dicomferry.spool.spool import Spool  # noqa: PLC0415
    from gateway.commands.selection import states  # noqa: PLC0415

    if not any(destination in {*s.destinations, *s.dead} for s in states(Spool(settings.spool))):
        names = ", ".join(known.name for known in settings.destination)
        raise Misconfigured(f"no destination is named {destination!r}; there are {names}")


def _seconds(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    from pydantic import TypeAdapter, ValidationError  # noqa: PLC0415

    from dicomferry.setting_values import Seconds  # noqa: PLC0415

    try:
        return TypeAdapter(Seconds).validate_python(text)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(message, param_hint=option) from None
