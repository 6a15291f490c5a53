"""What the schema refuses of a config, in one line: where, what is there, and what may be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from s4s.stages.options import OPTIONS, require_options

KINDS = {"array": "a list", "object": "a mapping", "string": "text", "integer": "a whole number", "number": "a number",
         "boolean": "true or false", "null": "null"}  # fmt: skip


def line(error: Any, config: Any, schema: Mapping[str, Any]) -> str:
    """One line for a violation: the key, the value, the choices.

    Args:
        error: of jsonschema.
        config: that it is in.
        schema: the whole one.

    Raises:
        Error: in place of it, what a solver cannot take, where that is what is wrong.
    """
    _look_at_solver(error, config)
    where = ".".join(str(part) for part in error.absolute_path) or "the config"
    if error.validator == "required":
        return f"{where}: {_missing(error, schema)}"
    said = _SAID[error.validator](error) if error.validator in _SAID else error.message
    hint = "" if error.validator in ("additionalProperties", "enum") else error.schema.get("description", "")
    return f"{where}: {said}" + (f" ({hint})" if hint else "")


def order(error: Any) -> tuple[Any, ...]:
    """Sort key of violations, the one to show first: nearest to the root; a wrong key before one that lacks."""
    return len(error.path), str(list(error.path)), error.validator == "required"


def _look_at_solver(error: Any, config: Any) -> None:
    """Look at the options of the solver that a violation is in, whose own choices are fewer than the schema's."""
    place: list[str] = []
    for key in error.absolute_path:
        config = config[key]
        place.append(str(key))
        if isinstance(config, Mapping) and isinstance(config.get("name"), str) and config["name"] in OPTIONS:
            require_options(".".join(place), config)


def _of_type(error: Any) -> str:
    value, kinds = error.instance, error.validator_value
    kinds, keys = [kinds] if isinstance(kinds, str) else kinds, error.schema.get("required", [])
    wanted = " or ".join(KINDS[kind] for kind in kinds) + (f" with {_listed(keys)}" if keys else "")
    if value is None:
        return f"nothing is there; it takes {wanted}"
    shown = ""
    if kinds == ["array"]:
        shown = ": put a dash before it" if isinstance(value, Mapping) else f": [{value}]"
    if keys == ["name"] and isinstance(value, str):
        shown = f": {{name: {value}}}"
    return f"{value!r} is not possible; it takes {wanted}{shown}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + names[-1:])


def _of_key(error: Any) -> str:
    known = error.schema["properties"]
    unknown = sorted(set(error.instance) - set(known), key=str)
    return f"unknown key {unknown[0]!r}; choose one of: {', '.join(sorted(known))}"


def _missing(error: Any, schema: Mapping[str, Any]) -> str:
    key = next(key for key in error.validator_value if key not in error.instance)
    rule = error.schema.get("properties", {}).get(key, {})
    rule = schema["$defs"][rule["$ref"].rsplit("/", 1)[1]] if "$ref" in rule else rule
    choices = f", one of: {', '.join(map(str, rule['enum']))}" if "enum" in rule else ""
    return f"{key!r} is missing; add it{choices}"


def _of_choice(error: Any) -> str:
    return f"{error.instance!r} is not possible; choose one of: {', '.join(map(str, error.validator_value))}"


def _twice(error: Any) -> str:
    found = next(each for i, each in enumerate(error.instance) if each in error.instance[:i])
    return f"{found!r} stands twice; remove one"


def _too_few(error: Any) -> str:
    least = error.validator_value
    return (f"it is empty; give at least {least}" if not error.instance
            else f"{error.instance!r} is too short; give at least {least}")  # fmt: skip


_SAID: Mapping[str, Callable[[Any], str]] = {
    "type": _of_type,
    "additionalProperties": _of_key,
    "enum": _of_choice,
    "const": lambda error: f"{error.instance!r} is not possible; {json.dumps(error.validator_value)} is all it may be",
    "uniqueItems": _twice,
    "minItems": _too_few,
    "minProperties": _too_few,
    "pattern": lambda error: f"{error.instance!r} is not possible",
    "anyOf": lambda error: f"{error.instance!r} is not possible",
}
