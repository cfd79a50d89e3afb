"""What a value of a setting may be: types that check it, and say what would be right."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from dicomferry.dicom.syntaxes import resolve
from dicomferry.errors import Misconfigured

# Beyond these a value is a slip of the keyboard, and some system call or sum would fail over it.
MAX_COUNT = 1_000_000_000  # of anything that is counted, and MB: a petabyte
_MAX_SECONDS = 36_500 * 86_400.0
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
    """A name of labels of 1 to 63 characters (RFC 1123), or an address: IPv6 also in brackets, which go."""
    bare = value[1:-1] if re.fullmatch(r"\[.*:.*\]", value) else value
    if not (_is_address(bare) if ":" in bare else _is_name(bare)):
        port = "; the port is a key of its own" if re.fullmatch(r"[\w.-]+:\d+", value, re.ASCII) else ""
        raise ValueError(f"{value!r} is neither a host name nor an IP address{port}")
    return bare


def _is_name(value: str) -> bool:
    labels = value.removesuffix(".").split(".")
    return len(value) <= 253 and all(re.fullmatch(r"[A-Za-z0-9_-]{1,63}", label) for label in labels)


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _host_pattern(value: str) -> str:
    """Of the address of a peer: a name, or a network with a "/", would never match."""
    if not (re.fullmatch(r"[0-9A-Fa-f.:*]+", value) if "*" in value else _is_address(value)):
        raise ValueError(f"{value!r} must be an IP address, or the part of one with '*': peers have no name")
    return value


def _spool(value: Path) -> Path:
    if value == Path():
        raise ValueError("must be a folder of its own, not the configuration's")
    if not str(value).isprintable():
        raise ValueError(f"{str(value)!r} has characters that cannot be shown")
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
    # Not quoted, since it may hold a password.
    try:
        _ = urlsplit(value).port
    except ValueError:
        raise ValueError(
            'its host or port is none; write "redis://host:6379/0", a password in percent-encoding'
        ) from None
    if not value.isprintable():
        raise ValueError("has characters that cannot be shown")
    return value


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip())
    if match is None:
        raise ValueError(f'{value!r} is no time; write seconds, or "90s", "30m", "24h", "7d"')
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _bounded(seconds: float) -> float:
    if not seconds <= _MAX_SECONDS:
        raise ValueError(f'{seconds:g} seconds are no time; at most "{_MAX_SECONDS // 86_400:.0f}d"')
    return seconds


def no_truth_value(cls: Any, value: object, info: ValidationInfo) -> object:
    """A validator of all fields of a model: Python takes true for 1, which nobody has meant."""
    if isinstance(value, bool) and _takes_number(cls.model_fields[info.field_name].annotation):
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


def _takes_number(annotation: object) -> bool:
    return annotation in (int, float) or any(map(_takes_number, get_args(annotation)))


AETitle = Annotated[str, AfterValidator(_ae_title)]
AEPattern = Annotated[str, AfterValidator(_ae_pattern)]
Host = Annotated[str, AfterValidator(_host)]
HostPattern = Annotated[str, AfterValidator(_host_pattern)]
Port = Annotated[int, Field(ge=1, le=65535)]
Ceiling = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Number = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Timeout = Annotated[float, Field(ge=0.01, le=86_400)]  # seconds
DestinationName = Annotated[str, AfterValidator(_destination_name)]
Seconds = Annotated[float, BeforeValidator(_seconds), AfterValidator(_bounded)]
Spool = Annotated[Path, AfterValidator(_spool)]
Broker = Annotated[str, AfterValidator(_broker)]
SyntaxNames = Annotated[list[str], BeforeValidator(_require_list), AfterValidator(_syntaxes)]
