"""What the documentation names exists: functions, modules, files."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ROOMS = "benchmarks|dicomferry|dispatcher|forwarder|gateway|ingest|workers"
DOTTED = re.compile(rf"`((?:{ROOMS})(?:\.(?!toml)\w+)+)`")
PATH = re.compile(rf"(?<![\w/.])((?:{ROOMS}|docs|docker|scripts|tests)/[\w/.]*)")


def found(dotted: str) -> bool:
    """Whether such a module, class, function or attribute exists."""
    module, names = dotted, []
    while module:
        try:
            value = import_module(module)
        except ModuleNotFoundError:
            module, _, name = module.rpartition(".")
            names.insert(0, name)
            continue
        for name in names:
            if not hasattr(value, name):
                return False
            value = getattr(value, name)
        return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_function_and_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    assert [dotted for dotted in DOTTED.findall(text) if not found(dotted)] == []
    paths = [path.rstrip(".") for path in PATH.findall(text)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
