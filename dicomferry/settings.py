"""The configuration: a TOML file, validated, with scalars also from environment variables ``DICOMFERRY_...``.

Every error names the file, the key's path and what would be right.
"""

import difflib
import ipaddress
import os
import re
import tomllib
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dicomferry.ceilings import Ceilings
from dicomferry.dicom.syntaxes import resolve
from dicomferry.errors import Misconfigured

_VARIABLE_PREFIX = "DICOMFERRY_"
# Beyond these a value is a slip of the keyboard, and some system call or sum would fail over it.
_MOST = 1_000_000_000  # of anything that is counted, and MB: a petabyte
_LONGEST = 36_500 * 86_400.0  # seconds
_BROKER_SCHEMES = ("redis://", "rediss://", "redis+socket://")


def _ae_title(value: str) -> str:
    """PS3.5 6.2, VR AE: 1 to 16 characters of the default repertoire, no backslash, no control character."""
    title = value.strip(" ")
    if not 1 <= len(title) <= 16:
        raise ValueError(f"{value!r} has {len(title)} characters; an AE title has 1 to 16 (PS3.5 6.2)")
    if "\\" in title or not title.isascii() or not title.isprintable():
        raise ValueError(f"{value!r} is no AE title: printable ASCII without a backslash (PS3.5 6.2)")
    return title


def _ae_pattern(value: str) -> str:
    return value if "*" in value else _ae_title(value)


def _host(value: str) -> str:
    if not value or not re.fullmatch(r"[A-Za-z0-9._:\-\[\]]+", value):
        raise ValueError(f"{value!r} is neither a host name nor an IP address")
    return value


def _destination_name(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,47}", value):
        raise ValueError(
            f"{value!r} cannot name a destination: up to 48 of a-z, 0-9, '-' and '_', a letter or digit first"
        )
    return value


def _syntaxes(names: list[str]) -> list[str]:
    if not names:
        raise ValueError('an empty list accepts nothing; write ["all"] to accept everything')
    try:
        resolve(names)
    except Misconfigured as error:
        raise ValueError(str(error)) from error
    return names


def _require_list(names: object) -> object:
    if isinstance(names, str):
        # "negotiate" never gets here: it is the other branch of the union in Destination.
        raise ValueError(f'{names!r} is no list; write ["{names}"], or for a destination "negotiate"')  # noqa: TRY004  pydantic wants it
    return names


def _broker(value: str) -> str:
    if not value.startswith(_BROKER_SCHEMES):
        raise ValueError(f"a broker's address starts with one of {', '.join(_BROKER_SCHEMES)}")
    return value


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip())
    if match is None:
        raise ValueError(f'{value!r} is no time; write seconds, or "90s", "30m", "24h", "7d"')
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _bounded(seconds: float) -> float:
    if not seconds <= _LONGEST:
        raise ValueError(f'{seconds:g} seconds are no time; at most "{_LONGEST // 86_400:.0f}d"')
    return seconds


AETitle = Annotated[str, AfterValidator(_ae_title)]
AEPattern = Annotated[str, AfterValidator(_ae_pattern)]
Host = Annotated[str, AfterValidator(_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
Ceiling = Annotated[int, Field(ge=1, le=_MOST)]
Number = Annotated[int, Field(ge=0, le=_MOST)]
Timeout = Annotated[float, Field(ge=0.1, le=86_400)]  # seconds
DestinationName = Annotated[str, AfterValidator(_destination_name)]
Seconds = Annotated[float, BeforeValidator(_seconds), AfterValidator(_bounded)]
SyntaxNames = Annotated[list[str], BeforeValidator(_require_list), AfterValidator(_syntaxes)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ingest(_Strict):
    """Where the SCP listens, and when it stops accepting objects."""

    host: Host = "127.0.0.1"
    port: Port = 11112
    shared_port: bool = False  # whether several ingests on this machine listen there
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
    retry_after: Annotated[float, Field(ge=0.1, le=3600)] = 30.0
    max_age: Annotated[Seconds, Field(gt=0)] | None = None  # of a delivery, before it is dead; absent: none

    @property
    def negotiates(self) -> bool:
        """Whether it is sent whatever transfer syntax it accepts."""
        return self.transfer_syntaxes == "negotiate"

    @property
    def shown_syntaxes(self) -> tuple[str, ...]:
        """UIDs of the transfer syntaxes that it can display, best first; all of them where it negotiates."""
        return resolve(["all"] if isinstance(self.transfer_syntaxes, str) else self.transfer_syntaxes)


class Route(_Strict):
    """Which destinations get the objects of an association; ``*`` matches any run of characters."""

    called: AEPattern = "*"
    calling: AEPattern = "*"
    host: str = "*"
    to: Annotated[list[str], Field(min_length=1)]

    def matches(self, calling: str, called: str, host: str) -> bool:
        """Whether this route applies to an association from `calling` at `host` to our AE `called`."""
        return (
            fnmatchcase(called, self.called)
            and fnmatchcase(calling, self.calling)
            and fnmatchcase(host, self.host)
        )


class Worker(_Strict):
    """Transcoding."""

    concurrency: Annotated[int, Field(ge=1, le=1024)] | None = None  # absent: one process a core
    # Of all renditions together on the spool; absent: half of what is free above min_free_mb.
    renditions_mb: Annotated[int, Field(ge=1, le=_MOST)] | None = None
    # Ceilings explains these.
    memory_mb: Annotated[int, Field(ge=512, le=_MOST)] = Ceilings.memory_mb
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
        env_prefix=_VARIABLE_PREFIX,
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
        env_prefix=_VARIABLE_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        nested_model_default_partial_update=True,
    )

    spool: Path = Path("spool")
    broker: Annotated[str, AfterValidator(_broker)] | None = None  # absent: `up` starts a private Redis
    keep_delivered: Annotated[Seconds, Field(ge=0)] = 0.0  # for how long instances stay once delivered
    keep_history: Annotated[Seconds, Field(ge=0)] = (
        90 * 86_400.0
    )  # for how long `explain` tells of what has gone
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    ingest: Ingest = Ingest()
    worker: Worker = Worker()
    flower: Flower = Flower()
    ae: Annotated[list[CalledAE], Field(min_length=1)]
    destination: Annotated[list[Destination], Field(min_length=1)]
    route: Annotated[list[Route], Field(min_length=1)]

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
            if not any(fnmatchcase(title, route.called) for title in titles):
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


def load(path: Path) -> Settings:
    """Read and check the configuration at `path`; a relative spool is relative to the file's folder.

    Raises:
        Misconfigured: with one line a fault, each naming the file, the key's path and what would be right.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(
            f"{path}: no such file; write one (see README.md) or name it with --config"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise Misconfigured(f"{path}: is not TOML: {error}") from error
    try:
        settings = Settings(**content)
    except ValidationError as error:
        raise Misconfigured("\n".join(f"{path}: {line}" for line in _describe_faults(error))) from error
    return settings.model_copy(update={"spool": (path.parent / settings.spool).absolute()})


def ceilings_from_environment() -> Ceilings:
    """The ceilings of a command that reads no configuration; ``DICOMFERRY_WORKER__...`` sets them.

    Raises:
        Misconfigured: with one line a fault.
    """
    try:
        return _Environment().worker.ceilings
    except ValidationError as error:
        raise Misconfigured("\n".join(_describe_faults(error))) from error


def _describe_faults(error: ValidationError) -> list[str]:
    faults = error.errors()
    # For a union with a literal pydantic reports both branches; the other one says what is wrong.
    explained = {_key_path(fault) for fault in faults if fault["type"] != "literal_error"}
    return [
        _describe_fault(f) for f in faults if f["type"] != "literal_error" or _key_path(f) not in explained
    ]


def _key_path(fault: Any) -> tuple[str, ...]:
    return tuple(str(part) for part in fault["loc"] if not _is_union_branch(str(part)))


def _describe_fault(fault: Any) -> str:
    where = _key_path(fault)
    given = fault["input"]
    if fault["type"] == "extra_forbidden":
        message = f"unknown key; {_nearest(where)}{_known_keys(where[:-1])}"
    elif fault["type"] == "missing":
        message = f"is missing; {_known_keys(where[:-1])}"
    elif fault["type"] == "value_error":
        message = fault["msg"].removeprefix("Value error, ")
    else:
        message = _plain_words(fault, where)
        if isinstance(given, str | int | float | bool):
            message = f"{message}, not {given!r}"
    variable = _VARIABLE_PREFIX + "__".join(where).upper()
    source = f" (from {variable})" if variable in os.environ else ""
    return f"{'.'.join(where)}: {message}{source}" if where else message


def _plain_words(fault: Any, where: tuple[str, ...]) -> str:
    """What is wanted, in place of pydantic's words for it."""
    limits = fault.get("ctx", {})
    kind = fault["type"]
    table = where[-1] if where else ""
    if kind == "list_type" and table in {"ae", "destination", "route"}:
        return f"[{table}] is one table of many; write [[{table}]]"
    if kind == "too_short" and table in {"ae", "destination", "route"}:
        return f"there has to be at least one [[{table}]]"
    words = {
        "greater_than_equal": "must be {ge:.10g} or more",
        "less_than_equal": "must be {le:.10g} or less",
        "greater_than": "must be more than {gt:g}",
        "less_than": "must be less than {lt:g}",
        "literal_error": "must be {expected}",
        "too_short": "needs at least {min_length}",
        "int_type": "must be a whole number",
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_type": "must be a number",
        "float_parsing": "must be a number",
        "bool_type": "must be true or false",
        "bool_parsing": "must be true or false",
        "string_type": "must be text in quotes",
        "path_type": "must be a path in quotes",
        "list_type": "must be a list: [...]",
        "dict_type": "must be a table",
        "model_type": "must be a table",
        "model_attributes_type": "must be a table",
    }
    return words[kind].format(**limits) if kind in words else str(fault["msg"])


def _nearest(where: tuple[str, ...]) -> str:
    matches = difflib.get_close_matches(where[-1], _model_at(where[:-1]).model_fields, n=1, cutoff=0.6)
    return f"did you mean {matches[0]!r}? " if matches else ""


def _is_union_branch(part: str) -> bool:
    # pydantic adds the branch of a union that it tried to the path; the operator wrote no such key.
    return part.startswith(("literal[", "function-", "constrained-", "list[")) or part in {"str", "int"}


def _known_keys(where: tuple[str, ...]) -> str:
    fields = ", ".join(_model_at(where).model_fields)
    return f"{'[' + '.'.join(where) + ']' if where else 'the top level'} takes {fields}"


def _model_at(where: tuple[str, ...]) -> type[BaseModel]:
    model: type[BaseModel] = Settings
    tables: dict[str, type[BaseModel]] = {
        "ingest": Ingest, "worker": Worker, "flower": Flower, "ae": CalledAE,
        "destination": Destination, "route": Route, "callers": Caller,
    }  # fmt: skip
    for part in where:
        model = tables.get(part, model)
    return model


def unknown_variables() -> list[str]:
    """The variables ``DICOMFERRY_...`` of the environment that set nothing."""
    tables: dict[str, type[BaseModel]] = {"INGEST": Ingest, "WORKER": Worker, "FLOWER": Flower}
    known = {name.upper() for name in Settings.model_fields} | {"CRASH_POINTS"}
    known |= {f"{table}__{name.upper()}" for table, model in tables.items() for name in model.model_fields}
    given = (name for name in os.environ if name.startswith(_VARIABLE_PREFIX))
    return sorted(name for name in given if name.removeprefix(_VARIABLE_PREFIX).upper() not in known)
