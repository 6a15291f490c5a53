"""One benchmark, one YAML file, one schema: what it may say, and what it says by default.

Nothing here imports torch: Snakemake reads this on every start. YAML and JSON schemas load where a config is read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from s4s.errors import Error, extra
from s4s.stages import refused
from s4s.stages.cells import require_files
from s4s.stages.possible import require_possible

SCHEMA = Path(__file__).with_name("config.schema.yaml")


def load(path: str | Path) -> dict[str, Any]:
    """Read and check a config file; defaults are filled in from the schema.

    Raises:
        Error: unreadable, not YAML, or a key the schema refuses; one line naming key, value and choices. Or a method
            that is neither built in nor a file that is there.
    """
    from s4s.stages.written import read

    config = read(path)
    try:
        checked = check(config)
        require_files(checked)
        return checked
    except Error as error:
        raise Error(f"{path}: {error}") from error


def check(config: Any) -> dict[str, Any]:
    """Validate a config against the schema and fill in its defaults. Returns a new dict."""
    with extra("benchmark"):
        from jsonschema import Draft202012Validator

    if isinstance(config, Mapping) and "parts" in config:
        raise Error("a list of benchmarks, which `s4s run` and snakemake take; give one of the configs that it names")
    schema = _schema()
    try:
        filled = _filled(schema, config, schema)
        for where, value in _leaves(filled):
            if isinstance(value, float) and not math.isfinite(value):
                raise Error(f"{where}: {value} is no number to work with; give a finite one")
    except RecursionError as error:
        raise Error("the config: nested without end") from error
    errors = sorted(Draft202012Validator(schema).iter_errors(filled), key=refused.order)
    if errors:
        raise Error(refused.line(errors[0], filled, schema))
    require_possible(filled)
    return filled


def digest(value: Any) -> str:
    """SHA-256 of a config or a part of it, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@cache
def _schema() -> Any:
    from s4s.stages.written import read

    return read(SCHEMA)


def _filled(schema: Any, value: Any, root: Mapping[str, Any]) -> Any:
    """A copy of value, all the way down: values of the type the schema asks for, and its defaults for missing keys."""
    with extra("benchmark"):
        from jsonschema import Draft202012Validator

    schema = refused.resolved(schema, root)
    value = _typed(schema.get("type", []), value)
    for case in schema.get("allOf", []):
        if Draft202012Validator(case["if"]).is_valid(value):
            value = _filled(case["then"], value, root)
    if "if" in schema:
        case = "then" if Draft202012Validator(schema["if"]).is_valid(value) else "else"
        value = _filled(schema.get(case, {}), value, root)
    if isinstance(value, list):
        return [_filled(schema.get("items", {}), item, root) for item in value]
    if not isinstance(value, dict):
        return value
    rules = {key: refused.resolved(rule, root) for key, rule in schema.get("properties", {}).items()}
    filled = {key: rule["default"] for key, rule in rules.items() if "default" in rule and key not in value}
    return {key: _filled(rules.get(key, {}), item, root) for key, item in {**value, **filled}.items()}


def _typed(kinds: Any, value: Any) -> Any:
    """A value that says the same in another type, in the type asked for: 1.0e+3 as 1000, and the text of a number.

    YAML reads 1e3 as text, and `snakemake --config` every value inside a list or mapping. What says something else is
    left for the schema to refuse.
    """
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(value, str):
        if "null" in kinds and value.lower() in ("null", "~"):
            return None
        if "boolean" in kinds and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if "number" in kinds or "integer" in kinds:
            for read in (int, float):
                with suppress(ValueError):
                    return _typed(kinds, read(value))
    if isinstance(value, float) and value.is_integer() and "integer" in kinds and "number" not in kinds:
        return int(value)
    return value


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that holds no others, and its dotted place."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield where or "the config", value
        return
    for key, item in items:
        yield from _leaves(item, f"{where}.{key}" if where else str(key))
