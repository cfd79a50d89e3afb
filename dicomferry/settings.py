"""The configuration: a TOML file, validated, with scalars also from environment variables ``DICOMFERRY_...``.

Every error names the file, the key's path and what would be right.
"""

import ipaddress
import os
import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from dicomferry.ceilings import Ceilings
from dicomferry.dicom.syntaxes import resolve
from dicomferry.errors import Misconfigured
from dicomferry.setting_faults import VARIABLE_PREFIX, described
from dicomferry.setting_values import (
    MAX_COUNT,
    AEPattern,
    AETitle,
    Broker,
    Ceiling,
    DestinationName,
    Host,
    HostPattern,
    Number,
    Port,
    Seconds,
    Spool,
    SyntaxNames,
    Timeout,
    no_truth_value,
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    _no_truth_value = field_validator("*", mode="before")(no_truth_value)


class Ingest(_Strict):
    """Where the SCP listens, and when it stops accepting objects."""

    host: Host = "127.0.0.1"
    port: Port = 11112
    shared_port: bool = False  # whether several ingests on this machine listen there
    processes: Annotated[int, Field(ge=1, le=64)] | None = None  # absent: one for two cores, up to 4
    min_free_mb: Number = 512  # of the spool's disk; below it nothing is accepted
    # Of its inodes (files), the same; absent: 1000, or a quarter of all where that is less.
    min_free_inodes: Number | None = None
    max_object_mb: Number = 0  # of an object as it arrives; 0: any size
    quarantine_max_mb: Number = 10_240  # beyond: what cannot be parsed is refused
    quarantine_max_count: Number = 10_000
    max_associations: Annotated[int, Field(ge=1, le=10_000)] = 100  # each has a thread
    # From one address, so that others have places.
    max_associations_per_host: Annotated[int, Field(ge=1, le=10_000)] = 25
    artim_timeout: Timeout = 30.0  # seconds for an association request (PS3.8 9.1.5)
    network_timeout: Timeout = 60.0  # seconds that a peer may let us wait


class Caller(_Strict):
    """A requestor that may call one of our AE titles; without `host`, from any address."""

    title: AETitle
    host: Host | None = None

    @model_validator(mode="after")
    def _check_host(self) -> Self:
        if self.host is not None:
            try:
                ipaddress.ip_address(self.host)
            except ValueError:
                raise ValueError(
                    f"callers[].host {self.host!r} must be an IP address: peers have no name"
                ) from None
        return self


class CalledAE(_Strict):
    """A called AE title that ingest answers to."""

    title: AETitle
    accept: SyntaxNames = ["all"]
    unknown_sop_classes: bool = False
    callers: list[Caller] | None = None  # absent: any requestor


class Destination(_Strict):
    """A remote AE to which objects are delivered."""

    name: DestinationName
    title: AETitle
    host: Host
    port: Port
    calling: Literal["original"] | AETitle = "FERRY"
    transfer_syntaxes: Literal["negotiate"] | SyntaxNames = "negotiate"
    colour: Literal["rgb", "as-encoded"] = "rgb"
    lossy: bool = False
    quality: Annotated[int, Field(ge=1, le=100)] = 90  # of lossy JPEG and JPEG XL
    ratio: Annotated[float, Field(gt=1, le=1000)] = 10.0  # of lossy JPEG 2000 and HTJ2K
    near: Annotated[int, Field(ge=1, le=255)] = 2  # of near-lossless JPEG-LS
    verify: Literal["always", "sampled", "never"] = "always"  # decode encoded renditions back and compare
    max_associations: Annotated[int, Field(ge=1, le=64)] = 1
    linger: Annotated[float, Field(ge=0, le=60)] = 2.0  # seconds that an idle association waits for more
    timeout: Timeout = 30.0  # seconds for connecting, ACSE and each DIMSE response
    max_attempts: Annotated[int, Field(ge=1, le=10_000)] = 5  # refusals of one object before it is dead
    # Seconds after the first refusal, then doubling, up to an hour.
    retry_after: Annotated[float, Field(ge=0.01, le=86_400)] = 30.0
    max_age: Annotated[Seconds, Field(gt=0)] | None = None  # of a delivery, before it is dead; absent: none

    @property
    def negotiates(self) -> bool:
        """Whether it is sent whatever transfer syntax it accepts."""
        return self.transfer_syntaxes == "negotiate"

    @property
    def shown_syntaxes(self) -> tuple[str, ...]:
        """UIDs of the transfer syntaxes that it can display, best first; all of them where it negotiates."""
        return resolve(["all"] if isinstance(self.transfer_syntaxes, str) else self.transfer_syntaxes)


def _fits(value: str, pattern: str) -> bool:
    """Whether a value is what a pattern says, of which only ``*`` has a meaning: "CT[1]" is an AE title."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), value, re.DOTALL) is not None


class Route(_Strict):
    """Which destinations get the objects of an association; ``*`` matches any run of characters."""

    called: AEPattern = "*"
    calling: AEPattern = "*"
    host: HostPattern = "*"
    to: Annotated[list[str], Field(min_length=1)]

    def matches(self, calling: str, called: str, host: str) -> bool:
        """Whether this route applies to an association from `calling` at `host` to our AE `called`."""
        return _fits(called, self.called) and _fits(calling, self.calling) and _fits(host, self.host)


class Worker(_Strict):
    """Transcoding."""

    concurrency: Annotated[int, Field(ge=1, le=1024)] | None = None  # absent: one process a core
    # Of all renditions together on the spool; absent: half of what is free above min_free_mb.
    renditions_mb: Annotated[int, Field(ge=1, le=MAX_COUNT)] | None = None
    # Ceilings explains these.
    memory_mb: Annotated[int, Field(ge=512, le=MAX_COUNT)] = Ceilings.memory_mb
    largest_frame_mb: Ceiling = Ceilings.largest_frame_mb
    largest_image_mb: Ceiling = Ceilings.largest_image_mb
    largest_ratio: Ceiling = Ceilings.largest_ratio
    largest_inflated_mb: Ceiling = Ceilings.largest_inflated_mb
    most_fragments: Ceiling = Ceilings.most_fragments
    most_elements: Ceiling = Ceilings.most_elements

    @property
    def ceilings(self) -> Ceilings:
        """The ceilings set here."""
        return Ceilings(**self.model_dump(include={field.name for field in fields(Ceilings)}))


class Flower(_Strict):
    """The page that shows batches; outside loopback it always asks for a password."""

    host: Host = "127.0.0.1"
    port: Port = 5555
    user: Annotated[str, Field(pattern=r"^[^:\s]+$")] = "dicomferry"
    password: SecretStr | None = None


def _share(*hosts: str) -> bool:
    """Whether servers that listen at these addresses cannot have the same port."""
    names = {
        {"localhost": "127.0.0.1"}.get(host.strip("[]").lower(), host.strip("[]").lower()) for host in hosts
    }
    return len(names) == 1 or not names.isdisjoint({"0.0.0.0", "::"})  # noqa: S104  compared, not bound


class _Environment(BaseSettings):
    """Settings of a command that reads no configuration file."""

    model_config = SettingsConfigDict(
        extra="ignore",
        env_prefix=VARIABLE_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        nested_model_default_partial_update=True,
    )

    worker: Worker = Worker()


class Settings(BaseSettings):
    """Everything that can be configured; see docs/configuration.md."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix=VARIABLE_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        nested_model_default_partial_update=True,
    )

    spool: Spool = Path("spool")
    broker: Broker | None = None  # absent: `up` starts a private Redis
    keep_delivered: Annotated[Seconds, Field(ge=0)] = 0.0  # for how long instances stay once delivered
    keep_history: Annotated[Seconds, Field(ge=0)] = 90 * 86_400.0  # and `explain` tells of what has gone
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    ingest: Ingest = Ingest()
    worker: Worker = Worker()
    flower: Flower = Flower()
    ae: Annotated[list[CalledAE], Field(min_length=1)]
    destination: Annotated[list[Destination], Field(min_length=1)]
    route: Annotated[list[Route], Field(min_length=1)]

    _no_truth_value = field_validator("*", mode="before")(no_truth_value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment variables override the file; there are no other sources."""
        del settings_cls, dotenv_settings, file_secret_settings
        return env_settings, init_settings

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        names = [destination.name for destination in self.destination]
        titles = [ae.title for ae in self.ae]
        for what, values in (("destination name", names), ("ae title", titles)):
            if twice := next((value for value in values if values.count(value) > 1), None):
                raise ValueError(f"{what} {twice!r} is used twice; each needs its own")
        if self.ingest.port == self.flower.port and _share(self.ingest.host, self.flower.host):
            raise ValueError(f"flower.port: {self.flower.port} is ingest.port too; each needs its own")
        for index, route in enumerate(self.route):
            for name in route.to:
                if name not in names:
                    raise ValueError(
                        f"route.{index}.to: unknown destination {name!r}; there are {', '.join(names)}"
                    )
            if not any(_fits(title, route.called) for title in titles):
                raise ValueError(
                    f"route.{index}.called: no [[ae]] has the title {route.called!r}; "
                    f"there are {', '.join(titles)}"
                )
        return self

    def destination_named(self, name: str) -> Destination | None:
        """The destination of that name, or None where the configuration has dropped it."""
        return next((destination for destination in self.destination if destination.name == name), None)

    def destinations_for(self, calling: str, called: str, host: str) -> tuple[str, ...]:
        """Names of the destinations of all routes that match the association, in order, each once."""
        return tuple(
            dict.fromkeys(
                name for route in self.route if route.matches(calling, called, host) for name in route.to
            )
        )


_SINGLE = ("ingest", "worker", "flower")  # tables of which there is one; variables can set their keys
_TABLES: dict[str, type[BaseModel]] = {
    "ingest": Ingest, "worker": Worker, "flower": Flower, "ae": CalledAE,
    "destination": Destination, "route": Route, "callers": Caller,
}  # fmt: skip


def load(path: Path) -> Settings:
    """Read and check the configuration at `path`; a relative spool is relative to the file's folder.

    Raises:
        Misconfigured: with one line a fault, each naming the file, the key's path and what would be right.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # editors of Windows write a BOM
    except FileNotFoundError:
        raise Misconfigured(
            f"{path}: no such file; write one (see README.md) or name it with --config"
        ) from None
    except OSError as error:
        raise Misconfigured(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise Misconfigured(f"{path}: cannot be read: no UTF-8 in line {line}; save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{path}: is not TOML: {error}") from error
    try:
        settings = Settings(**content)
    except ValidationError as error:
        raise Misconfigured(
            "\n".join(f"{path}: {line}" for line in described(error, Settings, _TABLES))
        ) from error
    except SettingsError as error:
        raise _no_json(error) from error
    return settings.model_copy(update={"spool": (path.parent / settings.spool).absolute()})


def ceilings_from_environment() -> Ceilings:
    """The ceilings of a command that reads no configuration; ``DICOMFERRY_WORKER__...`` sets them.

    Raises:
        Misconfigured: with one line a fault.
    """
    try:
        return _Environment().worker.ceilings
    except ValidationError as error:
        raise Misconfigured("\n".join(described(error, Settings, _TABLES))) from error
    except SettingsError as error:
        raise _no_json(error) from error


def _no_json(error: SettingsError) -> Misconfigured:
    """Of a variable for a whole table or a list. pydantic-settings names it in a sentence only."""
    field = re.search(r'field "(\w+)"', str(error))
    name = f"{VARIABLE_PREFIX}{field[1].upper()}" if field else f"a variable {VARIABLE_PREFIX}..."
    return Misconfigured(
        f"{name} in the environment is no JSON: write it in the file, or a single value as "
        f"{VARIABLE_PREFIX}INGEST__PORT"
    )


def unknown_variables() -> list[str]:
    """The variables ``DICOMFERRY_...`` of the environment that set nothing."""
    known = {name.upper() for name in Settings.model_fields} | {"CRASH_POINTS"}
    known |= {f"{table}__{key}".upper() for table in _SINGLE for key in _TABLES[table].model_fields}
    given = (name for name in os.environ if name.startswith(VARIABLE_PREFIX))
    return sorted(name for name in given if name.removeprefix(VARIABLE_PREFIX).upper() not in known)
