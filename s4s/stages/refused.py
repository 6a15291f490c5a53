"""What the schema refuses of a config, in one line: where, what is there, and what may be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from s4s.stages.options import OPTIONS, require_options

KINDS = {"array": "a list", "object": "a mapping", "string": "text", "integer": "a whole number", "number": "a number",
         "boolean": "true or false", "null": "null"}  # fmt: skip
LISTED = ("additionalProperties", "enum", "required")  # whose lines say all that may be

Schema = Mapping[str, Any]


def line(error: Any, config: Any, schema: Schema) -> str:
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
    said = _SAID[error.validator](error, schema) if error.validator in _SAID else error.message
    hint = "" if error.validator in LISTED else error.schema.get("description", "")
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
        is_solver = place[-1] == "solver" or place[:-1] == ["classical", "solvers"]  # a method may be called heun
        if is_solver and isinstance(config, Mapping) and config.get("name") in [*OPTIONS]:
            require_options(".".join(place), config)


def _of_type(error: Any, schema: Schema) -> str:
    value, kinds, keys = error.instance, error.validator_value, error.schema.get("required", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    wanted = " or ".join(KINDS[kind] for kind in kinds) + (f" with {_listed(keys)}" if keys else "")
    entry = resolved(error.schema.get("items", {}), schema)
    entries = entry.get("required", []) if entry.get("type") == "object" else []
    wanted += f" of mappings with {_listed(entries)}" if entries else ""
    if value is None:
        return f"nothing is there; it takes {wanted}"
    shown = ""
    if keys == ["name"] and isinstance(value, str):
        shown = f": {{name: {value}}}"
    elif kinds == ["array"] and isinstance(value, Mapping):
        shown = ": put a dash before it" if "object" in entry.get("type", []) else ""
    elif kinds == ["array"]:
        shown = f": [{{name: {value}}}]" if entries == ["name"] else "" if entries else f": [{value}]"
    return f"{value!r} is not possible; it takes {wanted}{shown}"


def _of_key(error: Any, _: Schema) -> str:
    known = error.schema["properties"]
    unknown = sorted(set(error.instance) - set(known), key=str)
    return f"unknown key {unknown[0]!r}; choose one of: {', '.join(sorted(known))}"


def _missing(error: Any, schema: Schema) -> str:
    key = next(key for key in error.validator_value if key not in error.instance)
    rule = resolved(error.schema.get("properties", {}).get(key, {}), schema)
    choices = f", one of: {', '.join(map(str, rule['enum']))}" if "enum" in rule else ""
    return f"{key!r} is missing; add it{choices}"


def _of_choice(error: Any, _: Schema) -> str:
    return f"{error.instance!r} is not possible; choose one of: {', '.join(map(str, error.validator_value))}"


def _of_const(error: Any, _: Schema) -> str:
    return f"{error.instance!r} is not possible; {json.dumps(error.validator_value)} is all it may be"


def _twice(error: Any, _: Schema) -> str:
    found = next(each for i, each in enumerate(error.instance) if each in error.instance[:i])
    return f"{found!r} stands twice; remove one"


def _too_few(error: Any, _: Schema) -> str:
    what = f"{error.instance!r} is too short" if error.instance else "it is empty"
    return f"{what}; give at least {error.validator_value}"


def _other(error: Any, _: Schema) -> str:
    return f"{error.instance!r} is not possible"


def resolved(rule: Any, schema: Schema) -> Schema:
    """The rule behind a reference; one that allows anything is empty."""
    if not isinstance(rule, Mapping):
        return {}
    return schema["$defs"][rule["$ref"].rsplit("/", 1)[1]] if "$ref" in rule else rule


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + [*names[-1:]])


_SAID: Mapping[str, Callable[[Any, Schema], str]] = {
    "type": _of_type,
    "additionalProperties": _of_key,
    "required": _missing,
    "enum": _of_choice,
    "const": _of_const,
    "uniqueItems": _twice,
    "minItems": _too_few,
    "minProperties": _too_few,
    "pattern": _other,
    "anyOf": _other,
}
