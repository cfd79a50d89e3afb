"""The command line. A command imports only what it needs, so that ``--help`` is fast and a part small.

Exit codes: 0 done, 1 failed, 2 misused (a wrong argument, configuration or machine).
"""

import os
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicomferry import __version__
from dicomferry.errors import FerryError, Misconfigured
from dicomferry.text import shown, shown_lines
from gateway.commands import operate
from gateway.commands.operate import DEFAULT_FILE, Config

if TYPE_CHECKING:
    from dicomferry.settings import Settings

# A traceback with the values of local variables could show a patient's name.
app = typer.Typer(
    name="dicomferry",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Park = Annotated[
    bool, typer.Option("--park", help="Make deliveries to destinations that are no longer configured dead.")
]


class Colour(StrEnum):
    """What YCbCr becomes in native pixel data."""

    RGB = "rgb"
    AS_ENCODED = "as-encoded"


class Verify(StrEnum):
    """How many encoded files are decoded again and compared."""

    ALWAYS = "always"
    SAMPLED = "sampled"
    NEVER = "never"


app.add_typer(operate.app)


def main() -> None:
    """Run one command; what fails for a known reason prints a sentence on standard error, not a traceback."""
    try:
        app()
    except FerryError as error:
        typer.echo(f"dicomferry: {shown_lines(str(error))}", err=True)
        sys.exit(2 if isinstance(error, Misconfigured) else 1)
    except OSError as error:  # such as of a spool that belongs to another user, or is none
        if error.filename is None:
            raise
        typer.echo(f"dicomferry: {shown(f'{error.filename}: {error.strerror}')}", err=True)
        sys.exit(1)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"dicomferry {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """A DICOM gateway: takes every object, transcodes it into what each workstation shows, delivers it."""


@app.command()
def demo(
    workers: Annotated[
        int | None, typer.Option(min=1, help="Transcoding processes; default: one per core.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="Keep what was sent and received, and the spool, here.")
    ] = None,
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Go on after the table, until Ctrl-C: to look at Flower.")
    ] = False,
) -> None:
    """Deliver sample images on this machine and compare them.

    Runs every part, a PACS and a workstation, and stops them.
    """
    from gateway.demo.run import run  # noqa: PLC0415

    raise typer.Exit(run(workers, keep, keep_running=keep_running))


@app.command()
def up(config: Config = DEFAULT_FILE, park: Park = False) -> None:
    """Run every part on this machine. Prints `ready` when all answer."""
    settings = _start("up", config)
    from gateway.local.up import run  # noqa: PLC0415

    run(settings, config, park=park)


@app.command()
def ingest(config: Config = DEFAULT_FILE) -> None:
    """Run the part that receives: the SCP."""
    settings = _start("ingest", config)
    from ingest.dimse.acceptor import run  # noqa: PLC0415

    run(settings)


@app.command()
def dispatcher(config: Config = DEFAULT_FILE, park: Park = False) -> None:
    """Run the part that decides what is to be done. One for a spool."""
    settings = _start("dispatcher", config)
    from dispatcher.service import run  # noqa: PLC0415

    run(settings, park=park)


@app.command()
def worker(
    config: Config = DEFAULT_FILE,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
) -> None:
    """Run the part that transcodes; as many as you like."""
    settings = _start("worker", config)
    _configure_celery_signals()
    from workers.tasks import run  # noqa: PLC0415

    run(settings, concurrency or settings.worker.concurrency)


@app.command()
def forwarder(config: Config = DEFAULT_FILE) -> None:
    """Run the part that delivers: the SCU."""
    settings = _start("forwarder", config)
    _configure_celery_signals()
    from forwarder.tasks import run  # noqa: PLC0415

    run(settings)


@app.command()
def flower(config: Config = DEFAULT_FILE) -> None:
    """Run the page that shows the batches."""
    settings = _start("flower", config)
    from gateway.local.flower import run  # noqa: PLC0415

    run(settings)


@app.command()
def transcode(  # noqa: PLR0917  Typer calls it by name
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Files, or folders with their tree.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A file for one file, else a folder.")],
    to: Annotated[str, typer.Option(metavar="SYNTAX", help="Transfer syntax: keyword, UID or group.")],
    lossy: Annotated[bool, typer.Option("--lossy", help="Allow a syntax that loses quality.")] = False,
    quality: Annotated[int | None, typer.Option(min=1, max=100, help="Lossy JPEG, JPEG XL; 90.")] = None,
    ratio: Annotated[
        float | None,
        typer.Option(min=1, max=1000, help="Lossy JPEG 2000, HTJ2K: ratio N:1; default 10."),
    ] = None,
    near: Annotated[int | None, typer.Option(min=1, max=255, help="Near-lossless JPEG-LS; 2.")] = None,
    colour: Annotated[Colour, typer.Option(help="What YCbCr becomes where pixels are native.")] = Colour.RGB,
    verify: Annotated[
        Verify, typer.Option(help="Decode what was encoded again, and compare.")
    ] = Verify.ALWAYS,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Name each file that was skipped, left, or changed otherwise.")
    ] = False,
) -> None:
    """Transcode files or whole folders, without any service. Originals are never touched."""
    from workers.files import folder, parallel  # noqa: PLC0415

    parallel.prepare()
    from dicomferry.settings import ceilings_from_environment  # noqa: PLC0415
    from gateway.commands.transcode import convert  # noqa: PLC0415

    order = folder.order(
        to,
        folder.Lossy(lossy, quality, ratio, near),
        colour=colour.value,
        verify=verify.value,
        overwrite=overwrite,
        ceilings=ceilings_from_environment(),
    )
    if not convert(folder.jobs(inputs, out), order, jobs, verbose=verbose):
        raise typer.Exit(1)


@app.command()
def check_config(config: Config = DEFAULT_FILE) -> None:
    """Say whether the configuration is right, or what would be. Starts nothing."""
    settings = _load(config)
    from gateway.commands.check_config import warnings_of  # noqa: PLC0415
    from gateway.commands.words import counted  # noqa: PLC0415

    warnings = list(warnings_of(settings))
    for warning in warnings:
        typer.echo(f"{config}: warning: {warning}")
    verdict = counted(len(warnings), "warning") if warnings else "right"
    typer.echo(
        f"{config}: {verdict}; spool {settings.spool}, {counted(len(settings.ae), 'called AE title')}, "
        f"{counted(len(settings.destination), 'destination')}, {counted(len(settings.route), 'route')}"
    )


@app.command()
def status(
    config: Config = DEFAULT_FILE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Print only what needs a person; exit 1 if anything does.")
    ] = False,
) -> None:
    """Show which destinations answer, and what waits for each. Lists what needs a person."""
    settings = _load(config)
    from gateway.commands.status import check_status, print_status  # noqa: PLC0415

    if not check:
        print_status(settings, as_json=as_json)
    elif not check_status(settings):
        raise typer.Exit(1)


@app.command()
def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="UID|ID", help="A SOP Instance, Series or Study UID, or an id from a line of the log."
        ),
    ],
    config: Config = DEFAULT_FILE,
) -> None:
    """Tell what became of an instance, series or study, and why."""
    settings = _load(config)
    from gateway.commands.explain import explain as tell  # noqa: PLC0415

    if not tell(settings, what):
        raise typer.Exit(1)


@app.command()
def health(
    part: Annotated[str, typer.Argument(help="ingest, dispatcher, worker, forwarder or flower")],
    config: Config = DEFAULT_FILE,
) -> None:
    """Say whether a part of this machine works. Exits with 0 where it does."""
    settings = _load(config)
    from gateway.local.health import CHECKS, check  # noqa: PLC0415

    if part not in CHECKS:
        raise typer.BadParameter(f"{part!r} is none of {', '.join(CHECKS)}", param_hint="PART")
    check(part, settings)


def _load(config: Path) -> "Settings":
    # Not at the top: importing pydantic takes longer than some commands run.
    from dicomferry.settings import load  # noqa: PLC0415

    return load(config)


def _start(part: str, config: Path) -> "Settings":
    settings = _load(config)
    from dicomferry.logs import configure  # noqa: PLC0415

    configure(part, settings.log_level)
    return settings


def _configure_celery_signals() -> None:
    # Celery reads this when it is imported. SIGTERM then gives running batches a moment to end; Celery's warm
    # shutdown sometimes hangs.
    os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")
    # The warning is about pickled messages; ours are JSON.
    warnings.filterwarnings("ignore", "You're running the worker with superuser privileges")


if __name__ == "__main__":
    main()
