"""`echo` and `probe`: what a destination answers, in words; and what would be sent to it."""

from pathlib import Path

import pytest

from dicomferry.dicom.syntaxes import GROUPS
from tests.support.peers.scps import black_hole, pynetdicom_scp, raw_peer
from tests.support.running.configuration import destination
from tests.support.running.ports import free_port
from tests.support.running.processes import wait_until
from tests.support.running.site import Site

CT = "1.2.840.10008.5.1.4.1.1.2"


def asked(tmp_path: Path, port: int, *words: str, **keys: object) -> tuple[int, str]:
    """Exit code and output of a command about the destination `ws` at `port`."""
    site = Site(tmp_path / "site", destination("ws", port, **keys))
    done = site.command(*words)
    assert "Traceback" not in done.stderr
    assert not site.spool.exists(), "asking needs no spool"
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_a_destination_that_answers_is_called_by_our_title_for_it(tmp_path: Path) -> None:
    with pynetdicom_scp(require_calling_aet=["BRIDGE"]) as peer:
        code, said = asked(tmp_path, peer.port, "echo", "ws", calling="BRIDGE")
        assert (code, peer.callers) == (0, ["BRIDGE"])
        wait_until(lambda: peer.released == 1, "the release")
    assert said == f"ws (WS1 at 127.0.0.1:{peer.port}): answers the C-ECHO"


def test_why_a_destination_does_not_answer_is_told_apart(tmp_path: Path) -> None:
    with pynetdicom_scp(require_calling_aet=["OTHER"]) as peer:
        code, said = asked(tmp_path, peer.port, "echo", "ws")
        assert (code, said.rpartition(": ")[2]) == (1, "calling AE title not recognised")
    with pynetdicom_scp(require_called_aet=True) as peer:
        code, said = asked(tmp_path, peer.port, "echo", "ws")
        assert (code, said.rpartition(": ")[2]) == (1, "called AE title not recognised")
    code, said = asked(tmp_path, free_port(), "echo", "ws")
    assert (code, said.rpartition(": ")[2]) == (1, "connection refused")
    with black_hole() as port:
        code, said = asked(tmp_path, port, "echo", "ws", timeout=0.5)
        assert (code, said.rpartition(": ")[2]) == (1, "no answer (timeout)")
    code, said = asked(tmp_path, port, "echo", "nobody")
    assert (code, said) == (2, "dicomferry: no destination is named 'nobody'; there are ws")


@pytest.mark.parametrize(
    ("accepts", "shows", "words"),
    [
        ("uncompressed", ["uncompressed"], "other images: ExplicitLE"),
        ("jpeg-ls", "negotiate", "as received: JPEGLS"),
        ("jpeg-ls", ["uncompressed"], "nothing: it accepts none of what it is configured to show"),
        ("mpeg", ["mpeg"], "dead, WS1 takes"),
    ],
)
def test_a_probe_says_what_is_accepted_and_what_would_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accepts: str, shows: list[str] | str, words: str
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pynetdicom_scp(GROUPS[accepts], sop_classes=[CT]) as peer:
        code, said = asked(
            tmp_path, peer.port, "probe", "ws", "--sop-class", CT, "--sop-class", "MRImageStorage",
            transfer_syntaxes=shows,
        )  # fmt: skip
        wait_until(lambda: peer.released == len(peer.callers), "the releases")
    assert code == 0
    assert words in said
    ct, mr = said.index("CT Image Storage"), said.index("MR Image Storage")
    assert "nothing" in said[mr:]
    assert ct < mr


def test_common_sop_classes_are_probed_unasked(tmp_path: Path) -> None:
    with pynetdicom_scp() as peer:
        code, said = asked(tmp_path, peer.port, "probe", "ws")
    assert code == 0
    assert "CT Image Storage" in said


def test_a_probe_of_one_who_hangs_up_ends_with_1(tmp_path: Path) -> None:
    with raw_peer(lambda connection: connection.recv(1)) as port:
        code, said = asked(tmp_path, port, "probe", "ws")
    assert (code, said.rpartition(": ")[2]) == (1, "connection closed by the destination")
