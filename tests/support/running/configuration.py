"""Configurations: one called AE title, FERRY, whose objects go to all destinations."""

import json
from pathlib import Path
from typing import Any


def destination(name: str, port: int, **keys: Any) -> dict[str, Any]:
    """A destination on loopback; a stock workstation unless told otherwise."""
    keys = {"title": "WS1", "transfer_syntaxes": ["uncompressed"]} | keys
    return {"name": name, "host": "127.0.0.1", "port": port} | keys


def configured(folder: Path, *destinations: dict[str, Any], **tables: Any) -> Path:
    """Write `folder`/dicomferry.toml; `tables` replace or join what it has by default."""
    content = {
        "spool": "spool",
        "ae": [{"title": "FERRY"}],
        "destination": list(destinations),
        "route": [{"to": [each["name"] for each in destinations]}],
    } | tables
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dicomferry.toml"
    path.write_text(_toml(content))
    return path


def _toml(content: dict[str, Any]) -> str:
    """TOML of scalars, tables and arrays of tables: json's spelling of scalars is TOML's too."""
    scalars = {k: v for k, v in content.items() if not _is_table(v)}
    lines = [f"{key} = {_value(value)}" for key, value in scalars.items()]
    for key, value in content.items():
        if isinstance(value, dict):
            lines += [f"[{key}]", *(f"{k} = {_value(v)}" for k, v in value.items())]
        elif _is_table(value):
            for table in value:
                lines += [f"[[{key}]]", *(f"{k} = {_value(v)}" for k, v in table.items())]
    return "\n".join(lines) + "\n"


def _is_table(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and bool(value) and isinstance(value[0], dict))


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value)
