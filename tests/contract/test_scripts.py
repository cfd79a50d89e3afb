"""scripts/setup.sh and scripts/test.sh, run beside programs that only say how they were called."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
TOOLS = ("sh", "cat", "chmod", "cksum", "cp", "dirname", "env", "grep", "id", "mkdir", "rm")

# Debian's Python 3.13 without its packages; a venv that it makes gets a copy of it, with pip.
PYTHON = """#!/bin/sh
case "$*" in
  *"print("*) echo 3.13 ;;
  *"import ensurepip, venv"*) exit ${WITHOUT_VENV:-0} ;;
  *"import pip"*) : ;;
  *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *"-m pip"*) echo "Collecting dicomferry: $*" ;;
  *"-m pytest"*) echo "pytest: $*" ;;
esac
"""
SAYS_ITS_NAME = '#!/bin/sh\necho "ran $(dirname "$0")/${0##*/}"\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts in a folder of their own, and programs in `bin` beside it."""
    folder, programs = tmp_path / "checkout", tmp_path / "bin"
    shutil.copytree(SCRIPTS, folder / "scripts")
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    programs.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found
        (programs / tool).symlink_to(found)
    write(programs / "python3", PYTHON)
    return folder


def write(program: Path, content: str) -> None:
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(content)
    program.chmod(0o755)


def run(checkout: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", *words],
        cwd=checkout,
        env={"PATH": str(checkout.parent / "bin"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )


def test_setup_names_all_that_is_missing_at_once(checkout: Path) -> None:
    ended = run(checkout, "scripts/setup.sh", WITHOUT_VENV="1")
    assert ended.returncode == 1
    (line,) = ended.stdout.splitlines()
    assert line.endswith(": python3.13-venv redis-server")


def test_setup_shows_what_pip_does_and_does_it_once(checkout: Path) -> None:
    write(checkout.parent / "bin" / "redis-server", SAYS_ITS_NAME)
    first, second = (run(checkout, "scripts/setup.sh") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stdout + second.stdout
    assert "a minute or two" in first.stdout
    assert "Collecting dicomferry: -m pip install --editable ." in first.stdout
    assert "quiet" not in first.stdout
    assert "Collecting" not in second.stdout


@pytest.mark.parametrize(
    ("words", "minutes", "tests"),
    [((), "a quarter of an hour", ""), (("--quick", "-x"), "5 minutes", "tests/unit tests/contract -x")],
    ids=["all", "quick"],
)
def test_the_tests_say_first_how_long_they_take(
    checkout: Path, words: tuple[str, ...], minutes: str, tests: str
) -> None:
    write(checkout.parent / "bin" / "redis-server", SAYS_ITS_NAME)
    write(checkout.parent / "bin" / "dpkg-query", "#!/bin/sh\necho install ok installed\n")
    for tool in ("ruff", "mypy", "lint-imports"):
        write(checkout / ".venv" / "bin" / tool, SAYS_ITS_NAME)
    write(checkout / ".venv" / "bin" / "python", PYTHON)
    ended = run(checkout, "scripts/test.sh", *words)
    said = ended.stdout.splitlines()
    assert ended.returncode == 0, ended.stdout
    assert said[0].startswith("test.sh: ")
    assert minutes in said[0]
    assert said[-1] == f"pytest: -m pytest {tests}".rstrip()
    for tool in ("ruff", "mypy", "lint-imports"):
        assert f"ran .venv/bin/{tool}" in said
