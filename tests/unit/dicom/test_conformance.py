"""docs/conformance.md says what the tables say."""

import subprocess
import sys
from pathlib import Path

from dicomferry.dicom.syntaxes import TABLE

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "conformance.md"


def test_the_conformance_document_is_what_the_tables_give() -> None:
    written = subprocess.run(
        [sys.executable, ROOT / "scripts" / "conformance.py"], capture_output=True, text=True, check=True
    ).stdout
    assert written == DOCUMENT.read_text(), "python scripts/conformance.py > docs/conformance.md"


def test_every_transfer_syntax_and_who_verifies_each_that_is_made_are_in_it() -> None:
    lines = DOCUMENT.read_text().splitlines()
    for syntax in TABLE:
        rows = [line for line in lines if line.startswith(f"| {syntax.keyword} ")]
        assert any(f"`{syntax.uid}`" in row for row in rows), syntax.keyword
        if syntax.encoded and not syntax.native:
            assert len(rows) == 3, f"{syntax.keyword}: syntax, what it can hold, who verifies it"
