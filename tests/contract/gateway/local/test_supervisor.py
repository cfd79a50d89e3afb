"""The supervisor, with real processes: what dies comes back, what is stopped is gone."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.running.processes import alive, command_lines, wait_until

# Runs the parts that it is given as JSON; what it says itself comes through its log.
SUPERVISE = textwrap.dedent("""
    import asyncio, ctypes, json, logging, pathlib, signal, sys
    from gateway.local.supervisor import Part, Patience, Supervisor

    async def main(given):
        logging.basicConfig(level="INFO", stream=sys.stderr)
        if given["adopts"]:
            ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        supervisor = Supervisor(
            Patience(**given["patience"]),
            lambda name, code: print("exit", name, code, flush=True),
            [pathlib.Path(folder) for folder in given["folders"]],
            [],
        )
        for name, command in given["parts"].items():
            supervisor.start(Part(name, tuple(command), {"GIVEN": "from the supervisor"}))
        print("started", flush=True)
        await stop.wait()
        await supervisor.close()

    asyncio.run(main(json.loads(sys.argv[1])))
""")

# A part with a child of its own, as Celery's pool; both write their ids, then wait for ever.
WITH_CHILD = textwrap.dedent("""
    import os, pathlib, signal, time
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    {before}
    pathlib.Path({path!r}).write_text(f"{{os.getpid()}} {{child}}")
    time.sleep(1000)
""")
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@contextmanager
def supervised(
    tmp_path: Path,
    scripts: Mapping[str, str | list[str]],
    folders: tuple[str, ...] = (),
    *,
    adopts: bool = False,
    **patience: float,
) -> Iterator[subprocess.Popen[str]]:
    parts = {
        name: [sys.executable, "-c", script] if isinstance(script, str) else script
        for name, script in scripts.items()
    }
    given = {"parts": parts, "folders": folders, "adopts": adopts, "patience": {"grace": 2} | patience}
    with (tmp_path / "stderr").open("w") as stderr:
        program = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, json.dumps(given)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "started\n"
        yield program
    finally:
        program.kill()
        program.wait()
        program.stdout.close()


def said(tmp_path: Path) -> str:
    return (tmp_path / "stderr").read_text()


def ids_in(path: Path) -> tuple[int, ...]:
    wait_until(lambda: path.exists() and len(path.read_text().split()) == 2, f"{path} to be written")
    return tuple(int(word) for word in path.read_text().split())


def test_what_a_part_says_is_forwarded_with_its_name(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import os, sys, time
        print(os.environ["GIVEN"], flush=True)
        print("and this", file=sys.stderr, flush=True)
        os.write(2, b"\\xff no UTF-8")
        os.close(2), os.close(1)
        time.sleep(100)
    """)
    with supervised(tmp_path, {"speaker": script}):
        wait_until(lambda: "no UTF-8" in said(tmp_path), "all of its lines")
    lines = [line for line in said(tmp_path).splitlines() if line.startswith("speaker")]
    assert lines == [
        "speaker    | from the supervisor",
        "speaker    | and this",
        "speaker    | \ufffd no UTF-8",
    ]


def test_a_line_without_an_end_is_cut_and_not_kept_in_memory(tmp_path: Path) -> None:
    parts = {"endless": "import os, time; [os.write(1, b'x' * 10000) for _ in range(100)]; time.sleep(100)"}
    with supervised(tmp_path, parts):
        wait_until(lambda: said(tmp_path).count("x") > 900_000, "its million bytes", seconds=20)
    assert max(len(line) for line in said(tmp_path).splitlines()) < 200_000


def test_what_dies_is_restarted_with_a_growing_delay(tmp_path: Path) -> None:
    with supervised(tmp_path, {"dying": "raise SystemExit(3)"}, first=0.05, longest=0.2) as program:
        wait_until(lambda: said(tmp_path).count("restarting") >= 5, "five restarts")
        program.terminate()
        output, _ = program.communicate(timeout=10)
    delays = [float(delay) for delay in re.findall(r"code=3; restarting in ([\d.]+) s", said(tmp_path))]
    assert delays[:5] == [0.05, 0.1, 0.2, 0.2, 0.2]
    assert output.startswith("exit dying 3\n" * 5)


def test_a_part_that_was_healthy_restarts_without_the_delay_of_old_failures(tmp_path: Path) -> None:
    part = {"tired": "import time; time.sleep(0.3); raise SystemExit(1)"}
    with supervised(tmp_path, part, first=0.05, longest=10, healthy=0.2):
        wait_until(lambda: said(tmp_path).count("restarting") >= 4, "four restarts")
    delays = re.findall(r"restarting in ([\d.]+) s", said(tmp_path))
    assert set(delays) == {"0.05"}


def test_a_program_that_does_not_exist_stops_nothing_else(tmp_path: Path) -> None:
    present = "import time; print('here', flush=True); time.sleep(100)"
    with supervised(tmp_path, {"absent": ["/no/such/program"], "present": present}) as program:
        wait_until(lambda: "PartEnded part=absent code=127" in said(tmp_path), "the failure")
        wait_until(lambda: "here" in said(tmp_path), "the other part")
        program.terminate()
        assert program.wait(timeout=60) == 0


@pytest.mark.parametrize("adopts", [False, True], ids=["of a system", "the first process of a container"])
def test_the_children_of_a_killed_part_go_before_it_is_restarted(*, adopts: bool, tmp_path: Path) -> None:
    path = tmp_path / "ids"
    script = WITH_CHILD.format(path=str(path), before="")
    with supervised(tmp_path, {"pool": script}, adopts=adopts, first=0.1):
        parent, child = ids_in(path)
        path.unlink()
        os.kill(parent, signal.SIGKILL)
        new_parent, _ = ids_in(path)
        assert not alive(child)
        assert not adopts or not Path(f"/proc/{child}").exists(), "a zombie is left"
        assert new_parent != parent
        assert alive(new_parent)


def test_a_clean_stop_leaves_no_process_even_of_a_part_that_ignores_it(tmp_path: Path) -> None:
    polite, deaf = tmp_path / "polite", tmp_path / "deaf"
    parts = {
        "polite": WITH_CHILD.format(path=str(polite), before=""),
        "deaf": WITH_CHILD.format(path=str(deaf), before=DEAF),
    }
    with supervised(tmp_path, parts, grace=0.5) as program:
        ids = ids_in(polite) + ids_in(deaf)
        program.terminate()
        program.wait(timeout=60)
        assert program.returncode == 0
    assert [number for number in ids if alive(number)] == []
    assert re.findall(r"PartKilled part=(\w+)", said(tmp_path)) == ["deaf"]


def test_a_supervisor_killed_with_9_leaves_neither_process_nor_folder(tmp_path: Path) -> None:
    path, folder = tmp_path / "ids", tmp_path / "runtime"
    folder.mkdir()
    (folder / "secret").touch()
    parts = {"pool": WITH_CHILD.format(path=str(path), before=DEAF)}
    with supervised(tmp_path, parts, (str(folder),)) as program:
        ids = ids_in(path)
        program.kill()
        wait_until(lambda: not any(alive(number) for number in ids), "the parts to be killed")
        wait_until(lambda: not folder.exists(), "the folder to be removed")


def test_a_supervisor_killed_while_it_starts_its_parts_leaves_none(tmp_path: Path) -> None:
    # Killed at any moment between the fork of a part and its note to the warden.
    mark = str(tmp_path / "mark")
    parts = {f"part{number}": f"import time; time.sleep(1000)  # {mark}" for number in range(5)}
    for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.05):
        with supervised(tmp_path, parts) as program:
            time.sleep(delay)
            program.kill()
            program.wait()
        wait_until(lambda: not sleeping(mark), f"the parts of one killed after {delay:g} s to end")


def sleeping(mark: str) -> list[int]:
    return [
        pid for pid, line in command_lines().items() if f"time.sleep(1000)  # {mark}" in line and alive(pid)
    ]
