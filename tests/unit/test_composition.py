"""docker-compose.yml, read as text: who builds, and who waits for whom.

tests/e2e/test_containers.py runs it.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PARTS = {"ingest", "dispatcher", "worker", "forwarder", "flower"}


def blocks(text: str, indent: int) -> dict[str, str]:
    """What stands below each key of that indentation."""
    keys = re.split(rf"^ {{{indent}}}([\w-]+):", text, flags=re.MULTILINE)
    return dict(zip(keys[1::2], keys[2::2], strict=True))


TOP = blocks((ROOT / "docker-compose.yml").read_text(), 0)
COMMON, SERVICES = TOP["x-dicomferry"], blocks(TOP["services"], 2)


def test_one_service_builds_the_image() -> None:
    assert not re.search(r"^ +build:", COMMON, re.MULTILINE)
    building = [name for name, block in SERVICES.items() if re.search(r"^ +build:", block, re.MULTILINE)]
    assert building == ["check-config"]


def test_every_part_waits_until_the_configuration_was_found_right_once() -> None:
    assert SERVICES.keys() == PARTS | {"redis", "check-config"}
    assert "check-config: {condition: service_completed_successfully}" in COMMON
    for part in PARTS:
        assert "<<: *dicomferry\n" in SERVICES[part]
        assert "depends_on:" not in SERVICES[part], "it would replace that of all"
    assert "command: check-config\n" in SERVICES["check-config"]
    assert 'restart: "no"\n' in SERVICES["check-config"]


def test_the_readme_says_how_to_check_the_configuration_of_containers() -> None:
    assert "docker compose run --rm dispatcher check-config" in (ROOT / "README.md").read_text()
