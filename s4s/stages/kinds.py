"""Several benchmarks in one run: a file that lists their configs. Nothing here imports torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s4s.errors import Error
from s4s.stages.artefacts import figures, tables
from s4s.stages.cells import CODE, LATER, cells
from s4s.stages.chain import given, outside
from s4s.stages.config import check

KEYS = {"benchmark", "parts"}
OF_PART = {"config", "change"}


def is_list(config: Any) -> bool:
    """Whether a config lists benchmarks, and is none itself."""
    return isinstance(config, Mapping) and "parts" in config


def place(files: Sequence[str | Path]) -> Path:
    """The folder of the file that lists the benchmarks, of several files of values: the last that names any."""
    from s4s.stages.written import read

    return Path(next((path for path in reversed(files) if is_list(read(path))), files[-1])).parent


def parts(config: Any, folder: Path) -> list[dict[str, Any]]:
    """The checked configs that a list names, each with its changes.

    Args:
        config: what the file holds: ``benchmark``, and ``parts`` of a ``config`` and perhaps its ``change`` each.
        folder: that the configs' names are relative to.

    Raises:
        Error: an unknown key, a config that cannot be read, that ``change`` makes impossible, or that stands twice.
    """
    if unknown := sorted(set(config) - KEYS):
        raise Error(f"the list of benchmarks: unknown key {unknown[0]!r}; it has {' and '.join(sorted(KEYS))}")
    name, listed = config.get("benchmark"), config["parts"]
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,99}", name):
        raise Error(f"benchmark: {name!r} is no name of a results folder: at most 100 small letters, digits, - and _")
    if not isinstance(listed, list) or not listed or not all(map(_is_part, listed)):
        raise Error("parts: needs a list of {config: FILE} or {config: FILE, change: {KEY: VALUE}}")
    made = [_part(part, folder) for part in listed]
    names = [name, *(part["benchmark"] for part in made)]
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise Error(f"parts: two benchmarks of the name {twice!r}; change.benchmark gives one of them another")
    return made


def made_from(part: Mapping[str, Any]) -> dict[str, Any]:
    """What the results of a checked part depend on: config, state of the code, files of one's own; JSON-able."""
    own = sorted({str(cell.file) for cell in cells(part) if cell.file is not None and cell.file.exists()})
    files = given(part, "train") | given(part, "score") | outside(*own)
    return {"config": part, "code": CODE, "later": LATER, "given": files}


def whole(part: Mapping[str, Any], results: Path) -> bool:
    """Whether all that a run of a checked part ends with is there: fid.csv, tables, figures, page."""
    names = ["fid.csv", "report.html"]
    names += [f"tables/{name}.{suffix}" for name in tables(part) for suffix in ("csv", "md", "tex")]
    names += [f"figures/{name}.{suffix}" for name in figures(part) for suffix in ("png", "pdf")]
    return all((results / part["benchmark"] / name).exists() for name in names)


def _is_part(part: Any) -> bool:
    return isinstance(part, Mapping) and set(part) <= OF_PART and isinstance(part.get("config"), str)


def _part(part: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    from s4s.stages.written import read

    path = folder / part["config"]
    try:
        return check(_merged(read(path), part.get("change", {})))
    except Error as error:
        raise Error(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error


def _merged(value: Any, change: Any) -> Any:
    """Mappings key by key, all the way down; anything else is replaced."""
    if not (isinstance(value, Mapping) and isinstance(change, Mapping)):
        return change
    return {**value, **{key: _merged(value.get(key), new) for key, new in change.items()}}
