"""The configuration: what is wrong is refused with the file, the key's path and what would be right."""

import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError

from dicomferry.ceilings import Ceilings
from dicomferry.errors import Misconfigured
from dicomferry.settings import (
    CalledAE,
    Destination,
    Flower,
    Ingest,
    Route,
    Settings,
    Worker,
    ceilings_from_environment,
    load,
)

RIGHT = """
spool = "spool"

[ingest]
port = 11112

[[ae]]
title = "FERRY"

[[destination]]
name = "reading-room"
title = "WS1"
host = "127.0.0.1"
port = 11113
transfer_syntaxes = ["uncompressed"]

[[route]]
called = "FERRY"
to = ["reading-room"]
"""


def write(folder: Path, content: str) -> Path:
    path = folder / "site.toml"
    path.write_text(content)
    return path


def refusal(folder: Path, content: str) -> str:
    with pytest.raises(Misconfigured) as error:
        load(write(folder, content))
    return str(error.value)


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER", "SPOOL", "LOG_LEVEL", "INGEST__PORT", "INGEST__HOST", "FLOWER__PASSWORD"):
        monkeypatch.delenv(f"DICOMFERRY_{name}", raising=False)


def test_a_configuration_of_one_workstation_is_read(tmp_path: Path) -> None:
    settings = load(write(tmp_path, RIGHT))
    assert settings.spool == tmp_path / "spool"
    assert settings.broker is None
    assert settings.ingest.port == 11112
    assert settings.destinations_for("PACS", "FERRY", "10.0.0.1") == ("reading-room",)
    destination = settings.destination_named("reading-room")
    assert destination is not None
    assert destination.shown_syntaxes[:2] == ("1.2.840.10008.1.2.1", "1.2.840.10008.1.2")
    assert destination.linger == 2.0


@pytest.mark.parametrize(
    ("right", "wrong", "says"),
    [
        # unknown keys
        (
            'spool = "spool"',
            'spoool = "spool"',
            ["spoool: unknown key", "did you mean 'spool'?", "spool, broker"],
        ),
        (
            "[ingest]\nport",
            "[ingest]\nprot",
            ["ingest.prot: unknown key", "did you mean 'port'?", "[ingest] takes host, port"],
        ),
        (
            'name = "reading-room"',
            'name = "reading-room"\ncolor = "rgb"',
            ["destination.0.color: unknown key", "colour"],
        ),
        (
            'title = "FERRY"',
            'title = "FERRY"\ncallers = [{name = "X"}]',
            ["ae.0.callers.0.name: unknown key", "title"],
        ),
        # one table where many are wanted
        (
            "[[destination]]",
            "[destination]",
            ["destination: [destination] is one table of many; write [[destination]]"],
        ),
        ("[[ae]]", "[ae]", ["ae: [ae] is one table of many; write [[ae]]"]),
        # missing ones
        ('title = "WS1"\n', "", ["destination.0.title: is missing"]),
        ('[[route]]\ncalled = "FERRY"\nto = ["reading-room"]', "", ["route: is missing"]),
        # wrong types and ranges
        ("port = 11112", 'port = "dicom"', ["ingest.port:", "a whole number", "'dicom'"]),
        ("port = 11112", "port = 0", ["ingest.port:", "must be 1 or more", "not 0"]),
        ("port = 11112", "port = 5555", ["flower.port: 5555 is ingest.port too"]),
        (
            "port = 11113",
            "port = 11113\nretry_after = inf",
            ["retry_after:", "must be 86400 or less", "not inf"],
        ),
        ("port = 11113", "port = 11113\nretry_after = nan", ["retry_after:", "not nan"]),
        ("port = 11113", "port = 11113\nretry_after = 1e-9", ["retry_after:", "must be 0.01 or more"]),
        ("port = 11113", "port = 11113\nmax_age = 1e300", ["max_age:", "1e+300 seconds", '"36500d"']),
        ('spool = "spool"', "keep_history = inf", ["keep_history:", '"36500d"']),
        ('spool = "spool"', 'keep_history = "99999999999d"', ["keep_history:", '"36500d"']),
        ("port = 11113", "port = 70000", ["destination.0.port:", "65535", "70000"]),
        (
            'host = "127.0.0.1"',
            'host = "no host!"',
            ["destination.0.host:", "neither a host name nor an IP address"],
        ),
        (
            'title = "WS1"',
            'title = "WS1"\ncolour = "RGB"',
            ["destination.0.colour:", "'rgb' or 'as-encoded'", "'RGB'"],
        ),
        ('title = "WS1"', 'title = "WS1"\nlossy = "maybe"', ["destination.0.lossy:", "true or false"]),
        ("spool =", 'log_level = "LOUD"\nspool =', ["log_level:", "'DEBUG', 'INFO'", "'LOUD'"]),
        ("spool =", 'broker = "localhost:6379"\nspool =', ["broker:", "redis://"]),
        (
            'name = "reading-room"',
            'name = "../etc"',
            ["destination.0.name:", "'../etc' cannot name a destination"],
        ),
        ("[ingest]", '[flower]\nuser = "a:b"\n[ingest]', ["flower.user:", "a:b"]),
        # transfer syntaxes
        (
            '["uncompressed"]',
            '["uncompresed"]',
            ["destination.0.transfer_syntaxes:", "did you mean 'uncompressed'?"],
        ),
        (
            '["uncompressed"]',
            '["1.2.3.4"]',
            ["destination.0.transfer_syntaxes:", "unknown transfer syntax '1.2.3.4'"],
        ),
        ('["uncompressed"]', "[]", ["destination.0.transfer_syntaxes:", 'write ["all"]']),
        (
            '["uncompressed"]',
            '"negotiated"',
            ["destination.0.transfer_syntaxes:", 'write ["negotiated"]', 'or for a destination "negotiate"'],
        ),
        (
            'title = "FERRY"',
            'title = "FERRY"\naccept = ["jpg2000"]',
            ["ae.0.accept:", "did you mean 'jpeg2000'?"],
        ),
        # AE titles
        (
            'title = "WS1"',
            'title = "A-WORKSTATION-OF-17"',
            ["destination.0.title:", "has 19 characters", "1 to 16"],
        ),
        ('title = "WS1"', 'title = "WS\\\\1"', ["destination.0.title:", "without a backslash"]),
        ('title = "WS1"', 'title = "  "', ["destination.0.title:", "1 to 16"]),
        ('title = "WS1"', 'title = "WÖRK"', ["destination.0.title:", "printable ASCII"]),
        (
            'title = "WS1"',
            'title = "WS1"\ncalling = "FAR-TOO-LONG-A-TITLE"',
            ["destination.0.calling:", "1 to 16"],
        ),
        # what hangs together
        (
            'to = ["reading-room"]',
            'to = ["reading-rom"]',
            ["route.0.to:", "'reading-rom'", "there are reading-room"],
        ),
        ('to = ["reading-room"]', "to = []", ["route.0.to:", "needs at least 1"]),
        ('called = "FERRY"', 'called = "FERY"', ["route.0.called:", "'FERY'", "there are FERRY"]),
        (
            '[[ae]]\ntitle = "FERRY"',
            '[[ae]]\ntitle = "FERRY"\n[[ae]]\ntitle = "FERRY"',
            ["ae title 'FERRY' is used twice"],
        ),
        (
            'title = "FERRY"',
            'title = "FERRY"\ncallers = [{title = "X", host = "pacs.local"}]',
            ["ae.0.callers.0", "must be an IP address"],
        ),
        # true is 1 for Python
        ("port = 11112", "port = true", ["ingest.port: must be a number, not true"]),
        ('spool = "spool"', "keep_delivered = true", ["keep_delivered: must be a number, not true"]),
        ('name = "reading-room"', 'name = "reading-room"\nmax_age = true', ["max_age: must be a number"]),
        # names that no resolver takes, and a port where it does not belong
        ('host = "127.0.0.1"', 'host = "a..b"', ["destination.0.host: 'a..b' is neither"]),
        ('host = "127.0.0.1"', f'host = "{"a" * 64}"', ["is neither a host name nor"]),
        ('host = "127.0.0.1"', 'host = "10.0.0.1:104"', ["is neither", "the port is a key of its own"]),
        # patterns that no address fits
        (
            'to = ["reading-room"]',
            'to = ["reading-room"]\nhost = "10.0.0.0/8"',
            ["route.0.host: '10.0.0.0/8'"],
        ),
        ('to = ["reading-room"]', 'to = ["reading-room"]\nhost = "pacs*"', ["peers have no name"]),
        # folders and brokers that there cannot be
        ('spool = "spool"', 'spool = ""', ["spool: must be a folder of its own"]),
        ('spool = "spool"', 'spool = "a\\u0000b"', ["spool: 'a\\x00b' has characters"]),
        ('spool = "spool"', 'broker = "redis://[::1"', ["broker: its host or port is none", "redis://host"]),
        ('spool = "spool"', 'broker = "redis://h:99999/0"', ["broker: its host or port is none"]),
        ('spool = "spool"', 'broker = "redis://h\\u001b"', ["broker: has characters"]),
        # no TOML at all
        ("[[ae]]", "[[ae", ["is not TOML", "line 7"]),
    ],
)
def test_what_is_wrong_is_refused_with_file_key_and_what_would_be_right(
    tmp_path: Path, right: str, wrong: str, says: list[str]
) -> None:
    assert right in RIGHT
    message = refusal(tmp_path, RIGHT.replace(right, wrong, 1))
    for line in message.splitlines():
        assert line.startswith(str(tmp_path / "site.toml"))
    for words in says:
        assert words in message


@pytest.mark.parametrize("table", ["ae", "destination", "route"])
def test_an_empty_list_where_one_table_is_needed_is_told_in_its_words(tmp_path: Path, table: str) -> None:
    tables = {part.split("]]")[0][2:]: part for part in RIGHT[RIGHT.index("[[") :].split("\n\n")}
    rest = [part for name, part in tables.items() if name != table]
    message = refusal(tmp_path, "\n\n".join([f"{table} = []", *rest]))
    assert f"{table}: there has to be at least one [[{table}]]" in message


def complaint(path: Path) -> str:
    """What is said against the file, without its name; empty if nothing is."""
    try:
        load(path)
    except Misconfigured as error:
        return str(error).replace(str(path), "")
    return ""


WRONG_VALUES = (
    '"x y:"', '""', "-1", "0", "1.5", "99999999", "true", "[]", "[1]", '["x"]', "{a = 1}", "1979-05-27",
    "inf", "nan", "[[]]",
)  # fmt: skip
PYDANTICS_WORDS = re.compile(r"Input|[Ss]hould|valid |Value error|dictionary|instance|pattern|finite number")


@pytest.mark.parametrize(
    ("table", "model"),
    [("", Settings), ("ingest", Ingest), ("worker", Worker), ("flower", Flower), ("ae", CalledAE),
     ("destination", Destination), ("route", Route)],
    ids=lambda value: value or "top" if isinstance(value, str) else "",
)  # fmt: skip
def test_no_wrong_value_is_answered_in_pydantics_words(
    tmp_path: Path, table: str, model: type[BaseModel]
) -> None:
    head = f"\n[{table}]\n" if table in {"ingest", "worker", "flower"} else f"\n[[{table}]]\n"
    for key in model.model_fields:
        for value in WRONG_VALUES:
            line = f"{key} = {value}\n"
            path = write(tmp_path, RIGHT + head + line if table else line)
            message = complaint(path)
            assert not PYDANTICS_WORDS.search(message), (line, message)


def test_every_fault_is_named_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, RIGHT.replace("port = 11112", "port = -1").replace('"WS1"', '"A\\\\B"'))
    assert [line.split(": ")[1] for line in message.splitlines()] == ["ingest.port", "destination.0.title"]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"nowhere\.toml: no such file.*--config"):
        load(tmp_path / "nowhere.toml")


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes(b"\n\xff\xfe\x00")
    with pytest.raises(Misconfigured, match=r"site\.toml: cannot be read: no UTF-8 in line 2; save it as"):
        load(path)


def test_what_an_editor_of_windows_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_bytes(RIGHT.replace("\n", "\r\n").encode("utf-8-sig"))
    assert load(path) == load(write(tmp_path, RIGHT))


def test_an_ipv6_address_may_stand_in_brackets(tmp_path: Path) -> None:
    assert load(write(tmp_path, RIGHT.replace("127.0.0.1", "[::1]"))).destination[0].host == "::1"


@pytest.mark.parametrize(
    ("key", "value", "fits", "not_"),
    [
        ("calling", "CT[1]", "CT[1]", "CT1"),
        ("calling", "CT?*", "CT?9", "CT19"),
        ("host", "10.0.*", "10.0.9.1", "10.1.0.1"),
    ],
)
def test_nothing_but_a_star_is_a_pattern_in_a_route(
    tmp_path: Path, key: str, value: str, fits: str, not_: str
) -> None:
    to = 'to = ["reading-room"]'
    settings = load(write(tmp_path, RIGHT.replace(to, f'{to}\n{key} = "{value}"')))
    usual = {"calling": "X", "called": "FERRY", "host": "10.9.9.9"}
    assert settings.destinations_for(**usual | {key: fits}) == ("reading-room",)
    assert settings.destinations_for(**usual | {key: not_}) == ()


def test_a_scalar_in_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMFERRY_BROKER", "redis://redis:6379/0")
    monkeypatch.setenv("DICOMFERRY_INGEST__PORT", "104")
    monkeypatch.setenv("DICOMFERRY_FLOWER__PASSWORD", "secret")
    monkeypatch.setenv("DICOMFERRY_SPOOL", "/var/lib/dicomferry")
    settings = load(write(tmp_path, RIGHT))
    assert settings.broker == "redis://redis:6379/0"
    assert settings.ingest.port == 104
    assert settings.ingest.host == "127.0.0.1"
    assert settings.spool == Path("/var/lib/dicomferry")
    assert settings.flower.password is not None
    assert settings.flower.password.get_secret_value() == "secret"


def test_what_is_wrong_in_the_environment_is_refused_by_the_variables_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMFERRY_INGEST__PORT", "none")
    assert "(from DICOMFERRY_INGEST__PORT)" in refusal(tmp_path, RIGHT)


@pytest.mark.parametrize("name", ["INGEST", "DESTINATION", "WORKER"])
def test_a_table_in_the_environment_that_is_no_json_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"DICOMFERRY_{name}", "[1")
    assert f"DICOMFERRY_{name} in the environment is no JSON" in refusal(tmp_path, RIGHT)
    if name == "WORKER":
        with pytest.raises(Misconfigured, match=r"DICOMFERRY_WORKER in the environment is no JSON"):
            ceilings_from_environment()


def test_a_ceiling_comes_from_the_file_or_the_environment_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DICOMFERRY_WORKER__MOST_FRAGMENTS", "7")
    settings = load(write(tmp_path, RIGHT + "\n[worker]\nlargest_frame_mb = 2048\n"))
    assert settings.worker.ceilings == Ceilings(largest_frame_mb=2048, most_fragments=7)
    assert ceilings_from_environment() == Ceilings(most_fragments=7)
    monkeypatch.setenv("DICOMFERRY_WORKER__MEMORY_MB", "1")
    with pytest.raises(Misconfigured, match=r"from DICOMFERRY_WORKER__MEMORY_MB\)"):
        ceilings_from_environment()


def test_a_password_never_shows_in_the_settings(tmp_path: Path) -> None:
    settings = load(write(tmp_path, RIGHT + '\n[flower]\npassword = "hunter2"\n'))
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_routes_of_several_rules_name_each_destination_once(tmp_path: Path) -> None:
    routes = """
        [[destination]]
        name = "research"
        title = "WS2"
        host = "10.0.0.2"
        port = 104

        [[route]]
        calling = "CT*"
        to = ["research", "reading-room"]
    """
    settings: Settings = load(write(tmp_path, RIGHT + routes))
    assert settings.destinations_for("CT1", "FERRY", "h") == ("reading-room", "research")
    assert settings.destinations_for("MR1", "FERRY", "h") == ("reading-room",)
    assert settings.destinations_for("MR1", "OTHER", "h") == ()


def _is_number(annotation: object) -> bool:
    return {int, float} & {annotation, *get_args(annotation), *map(_bare, get_args(annotation))} != set()


def _bare(annotation: object) -> object:
    """The type in an Annotated one."""
    return next(iter(get_args(annotation)), annotation)


@pytest.mark.parametrize("absurd", [float("inf"), float("nan"), -1.0, 1e30, 10**30])
@pytest.mark.parametrize("model", [Settings, Ingest, Worker, Destination, Flower])
def test_no_number_may_be_absurd(model: type[BaseModel], absurd: float) -> None:
    numbers = [name for name, field in model.model_fields.items() if _is_number(field.annotation)]
    assert numbers
    for name in numbers:
        with pytest.raises(ValidationError) as error:
            model(**{name: absurd})
        assert (name,) in {fault["loc"][:1] for fault in error.value.errors()}, name
