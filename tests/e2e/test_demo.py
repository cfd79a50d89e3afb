"""`dicomferry demo`, as a newcomer runs it."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

from pydicom import dcmread

from dicomferry.dicom.syntaxes import label
from gateway.demo.samples import make
from tests.support.running.processes import DICOMFERRY, alive, command_lines, wait_until

DEMO = [*DICOMFERRY, "demo"]


def test_the_demo_delivers_every_image_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    # An operator's own settings must not lead the demo to a real spool or broker.
    environment = os.environ | {
        "DICOMFERRY_SPOOL": str(tmp_path / "real"),
        "DICOMFERRY_BROKER": "redis://127.0.0.1:1/0",
    }
    ended = subprocess.run(
        [*DEMO, "--workers", "2", "--keep", str(kept)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "were delivered, with the pixels that were sent" in ended.stdout
    assert "Flower shows the batches while this runs: http://127.0.0.1:" in ended.stdout
    for syntax in (
        "J2K",
        "HTJ2K",
        "JPEG",
        "JPEG12",
        "JPEGLossless",
        "JPEGLosslessSV1",
        "JPEGLS",
        "RLE",
        "Deflated",
    ):
        assert f" {syntax} " in ended.stdout, syntax
    rows = [
        line for line in ended.stdout.splitlines() if line.endswith(("  equal", "  within 1", "  within 6"))
    ]
    assert len(rows) >= 20, "a line an image"
    assert max(map(len, rows)) <= 80
    # "equal" is said of what was compared without tolerance, and of nothing else.
    cells = [re.split(" {2,}", row) for row in rows]
    likeness = {(name, received): pixels for name, received, *_, pixels in cells}
    made = make()
    assert likeness == {
        (sample.name, label(sample.syntax)): f"within {sample.tolerance}" if sample.tolerance else "equal"
        for sample in made
    }
    near = [sample for sample in made if sample.tolerance]
    assert len(near) >= 8
    assert f"{len(made) - len(near)} are equal, and {len(near)} that came compressed with loss" in " ".join(
        ended.stdout.split()
    )
    assert not any(" accepts " in row or " show" in row for row in rows), "why stands below"
    assert ended.stdout.count("first it accepts of its list") == 1, "each reason once"
    assert ended.stdout.count("\ndelivered ") >= 2, "no silence in a pipe"
    received = [dcmread(path) for path in (kept / "received").iterdir()]
    assert len(received) >= 20
    assert len({dataset.SOPInstanceUID for dataset in received}) == len(received)
    assert {dataset.file_meta.TransferSyntaxUID.name for dataset in received} == {"Explicit VR Little Endian"}
    assert not (tmp_path / "real").exists()
    assert not remains(kept)


# The demo with two samples, of which one expects a pixel that was never sent.
SPOILT = """
import sys
from dataclasses import replace
from gateway.demo import run as demo

def spoilt(make=demo.make):
    right, wrong = make()[2:4]
    frames = wrong.frames.copy()
    frames[0, 0, 0] ^= 1
    return [right, replace(wrong, frames=frames)]

demo.make = spoilt
sys.exit(demo.run())
"""


def test_one_pixel_that_differs_fails_the_demo_and_is_named() -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-c", SPOILT], capture_output=True, text=True, timeout=600, check=False
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert ended.stdout.count("Missed:") == 1
    assert "Missed: examples_jpeg2k.dcm (" in ended.stdout
    assert "differs by up to 1" in ended.stdout
    assert "were delivered, with the pixels" not in ended.stdout


def test_with_keep_running_it_stays_until_it_is_stopped(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    program = subprocess.Popen(
        [*DEMO, "--workers", "2", "--keep", str(kept), "--keep-running"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        address = ""
        for line in program.stdout:
            if line.startswith("Flower shows"):
                address = line.split()[-1]
            if line.startswith("Everything keeps running"):
                break
        assert urllib.request.urlopen(address, timeout=120).status == 200  # noqa: S310
        program.send_signal(signal.SIGINT)
        assert program.wait(120) == 0
    finally:
        program.kill()
        program.wait()
    wait_until(lambda: not remains(kept), "every part to end", seconds=20)


def test_a_demo_that_is_killed_takes_everything_along(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    program = subprocess.Popen([*DEMO, "--keep", str(kept)], stdout=subprocess.DEVNULL)
    try:
        wait_until(
            lambda: any("cli worker" in line for line in remains(kept).values()), "a worker", seconds=60
        )
    finally:
        program.kill()
        program.wait()
    wait_until(lambda: not remains(kept), "every part to end", seconds=20)


def remains(folder: Path) -> dict[int, str]:
    """What runs with the demo's configuration."""
    mark = f"--config {folder}"
    return {pid: line for pid, line in command_lines().items() if mark in line and alive(pid)}
