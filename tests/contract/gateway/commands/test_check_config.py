"""`check-config` warns of what is right but hardly meant."""

import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dicomferry.settings import Settings
from gateway.commands.check_config import warnings_of
from tests.support.running.mounts import small_file_system


def settings(spool: Path, **destination: Any) -> Settings:
    usual = {"name": "ws", "title": "WS1", "host": "127.0.0.1", "port": 104}
    return Settings(
        spool=spool, ae=[{"title": "FERRY"}], destination=[usual | destination], route=[{"to": ["ws"]}]
    )


def test_a_sound_configuration_gives_no_warning(tmp_path: Path) -> None:
    assert list(warnings_of(settings(tmp_path / "spool"))) == []


@pytest.mark.parametrize(
    ("keys", "warning"),
    [
        ({"host": "no-such-host.invalid"}, "destination ws: host 'no-such-host.invalid' cannot be resolved"),
        (
            {"transfer_syntaxes": ["jpeg"]},
            "transfer_syntaxes (jpeg) are all lossy, and lossy = true is not",
        ),
    ],
)
def test_what_of_a_destination_can_hardly_be_meant_is_said(
    tmp_path: Path, keys: dict[str, Any], warning: str
) -> None:
    (said,) = warnings_of(settings(tmp_path / "spool", **keys))
    assert warning in said


@pytest.mark.parametrize("syntaxes", [["jpeg", "uncompressed"], ["mpeg"], "negotiate"])
def test_a_list_with_something_lossless_or_untouched_is_no_matter(tmp_path: Path, syntaxes: Any) -> None:
    assert list(warnings_of(settings(tmp_path / "spool", transfer_syntaxes=syntaxes))) == []


def test_a_spool_whose_name_is_too_long_is_told(tmp_path: Path) -> None:
    spool = tmp_path / ("a" * 300)
    (said,) = warnings_of(settings(spool))
    assert said == f"spool {spool}: cannot be used: File name too long"


def test_a_destination_without_a_route_is_named(tmp_path: Path) -> None:
    sound = settings(tmp_path / "spool")
    other = sound.destination[0].model_copy(update={"name": "forgotten"})
    changed = sound.model_copy(update={"destination": [*sound.destination, other]})
    assert list(warnings_of(changed)) == ["destination forgotten: no route sends to it"]


def test_a_variable_that_sets_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOMFERRY_BROKR", "1")
    monkeypatch.setenv("DICOMFERRY_LOG_LEVEL", "INFO")
    monkeypatch.setenv("DICOMFERRY_FLOWER__PORT", "5555")
    (said,) = warnings_of(settings(tmp_path / "spool"))
    assert said == "DICOMFERRY_BROKR in the environment sets nothing: no key has that name"


def test_a_spool_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", 1 << 20) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for spool, why in ((disk, "written"), (disk / "spool", "made")):
            (said,) = warnings_of(settings(spool))
            assert said.startswith(
                f"spool {spool}: cannot be {why}: Read-only file system in {disk}, as user "
            )


def test_a_spool_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for spool, why in (
        (tmp_path / "file", "is no folder"),
        (tmp_path / "file" / "below", "cannot be made"),
        (Path("/proc/spool"), "cannot be made"),  # root may write there, says access()
        (Path("/proc/self/net"), "cannot be written"),
        (Path("/sys/kernel"), "cannot be written"),
    ):
        (said,) = warnings_of(settings(spool))
        assert said.startswith(f"spool {spool}: {why}")


def test_asking_whether_the_spool_can_be_used_leaves_nothing_there(tmp_path: Path) -> None:
    assert list(warnings_of(settings(tmp_path))) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.9", "::1", socket.gethostname()])
def test_a_destination_that_is_our_own_ingest_is_said(tmp_path: Path, host: str) -> None:
    if host == "::1" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    said = [w for w in warnings_of(settings(tmp_path, host=host, port=11112)) if "cannot be res" not in w]
    assert len(said) == 1
    assert said[0].startswith(f"destination ws: {host}:11112 is our own ingest")
    assert not any("own ingest" in w for w in warnings_of(settings(tmp_path, host=host, port=11113)))


def test_another_machine_at_our_port_is_no_matter(tmp_path: Path) -> None:
    assert list(warnings_of(settings(tmp_path, host="192.0.2.1", port=11112))) == []


def test_two_names_of_one_peer_are_said(tmp_path: Path) -> None:
    sound = settings(tmp_path)
    first = sound.destination[0]
    others = [first.model_copy(update=keys) for keys in ({"name": "ws2"}, {"name": "ws3", "title": "WS3"})]
    route = sound.route[0].model_copy(update={"to": ["ws", "ws2", "ws3"]})
    changed = sound.model_copy(update={"destination": [first, *others], "route": [route]})
    (said,) = warnings_of(changed)
    assert said.startswith("destinations ws, ws2: one peer, WS1 at 127.0.0.1:104")


def test_a_port_that_is_redis_is_said(tmp_path: Path) -> None:
    sound = settings(tmp_path)
    for broker, key in (
        ("redis://127.0.0.1:11112/0", "ingest.port"),
        ("redis://localhost:5555", "flower.port"),
    ):
        (said,) = warnings_of(sound.model_copy(update={"broker": broker}))
        assert said.startswith(f"{key}: ")
    assert list(warnings_of(sound.model_copy(update={"broker": "redis://redis:5555"}))) == []
