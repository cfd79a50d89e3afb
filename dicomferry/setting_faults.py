"""Faults in the configuration, in the words of who wrote it, in place of pydantic's."""

import difflib
import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

VARIABLE_PREFIX = "DICOMFERRY_"
Model = type[BaseModel]

_WORDS = {
    "greater_than_equal": "must be {ge:.10g} or more",
    "less_than_equal": "must be {le:.10g} or less",
    "greater_than": "must be more than {gt:g}",
    "less_than": "must be less than {lt:g}",
    "literal_error": "must be {expected}",
    "too_short": "needs at least {min_length}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "finite_number": "must be a number, and finite",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text in quotes",
    "string_pattern_mismatch": "must be one word, without a colon",
    "path_type": "must be a path in quotes",
    "list_type": "must be a list: [...]",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
}


def described(error: ValidationError, root: Model, tables: Mapping[str, Model]) -> list[str]:
    """What is wrong, one line a fault; `root` is the model of the whole, `tables` has those of its tables."""
    faults = error.errors()
    # For a union with a literal pydantic reports both branches; the other one says what is wrong.
    explained = {_key_path(fault) for fault in faults if fault["type"] != "literal_error"}
    return [
        _describe(fault, _model_at(_key_path(fault)[:-1], root, tables))
        for fault in faults
        if fault["type"] != "literal_error" or _key_path(fault) not in explained
    ]


def _key_path(fault: Any) -> tuple[str, ...]:
    return tuple(str(part) for part in fault["loc"] if not _is_union_branch(str(part)))


def _describe(fault: Any, table: Model) -> str:
    where = _key_path(fault)
    given = fault["input"]
    if fault["type"] == "extra_forbidden":
        message = f"unknown key; {_nearest(where[-1], table)}{_known_keys(where[:-1], table)}"
    elif fault["type"] == "missing":
        message = f"is missing; {_known_keys(where[:-1], table)}"
    elif fault["type"] == "value_error":
        message = fault["msg"].removeprefix("Value error, ")
    else:
        message = _plain_words(fault, where)
        if isinstance(given, str | int | float | bool):
            message = f"{message}, not {given!r}"
    variable = VARIABLE_PREFIX + "__".join(where).upper()
    source = f" (from {variable})" if variable in os.environ else ""
    return f"{'.'.join(where)}: {message}{source}" if where else message


def _plain_words(fault: Any, where: tuple[str, ...]) -> str:
    """What is wanted, in place of pydantic's words for it."""
    limits = fault.get("ctx", {})
    kind = fault["type"]
    table = where[-1] if where else ""
    if kind == "list_type" and table in {"ae", "destination", "route"}:
        return f"[{table}] is one table of many; write [[{table}]]"
    if kind == "too_short" and table in {"ae", "destination", "route"}:
        return f"there has to be at least one [[{table}]]"
    return _WORDS[kind].format(**limits) if kind in _WORDS else str(fault["msg"])


def _nearest(key: str, table: Model) -> str:
    matches = difflib.get_close_matches(key, table.model_fields, n=1, cutoff=0.6)
    return f"did you mean {matches[0]!r}? " if matches else ""


def _is_union_branch(part: str) -> bool:
    # pydantic adds the branch of a union that it tried to the path; the operator wrote no such key.
    return part.startswith(("literal[", "function-", "constrained-", "list[")) or part in {"str", "int"}


def _known_keys(where: tuple[str, ...], table: Model) -> str:
    fields = ", ".join(table.model_fields)
    return f"{'[' + '.'.join(where) + ']' if where else 'the top level'} takes {fields}"


def _model_at(where: tuple[str, ...], root: Model, tables: Mapping[str, Model]) -> Model:
    model = root
    for part in where:
        model = tables.get(part, model)
    return model
