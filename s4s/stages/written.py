"""Config files as text: YAML read without what it misreads, and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s4s.errors import Error, extra
from s4s.files import at_home, read_text, write_text

with extra("benchmark"):
    import yaml

MISREAD = re.compile(r"[-+]?(0[0-9_]+$|[0-9_]+:)")  # as octal, or in base 60


def read(path: str | Path) -> Any:
    """A config file as it is written: nothing checked but that it is YAML and no key stands in it twice.

    Raises:
        Error: as ``load``.
    """
    try:
        loader = yaml.SafeLoader(read_text(at_home(path)))
        try:
            node = loader.get_single_node()
            _require_clear(node, set())
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except OSError as error:
        raise Error(f"{path}: cannot read the config: {error.strerror}") from error
    except Error as error:
        raise Error(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except RecursionError as error:
        raise Error(f"{path}: not a config: nested without end") from error
    except (yaml.YAMLError, ValueError) as error:
        raise Error(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def _require_clear(node: Any, seen: set[int]) -> None:
    """Raise for what YAML reads as something else: a key that stands twice in one mapping, of which it takes the last,
    and numbers that it takes for octal (010 is 8) or for minutes and seconds (3:20 is 200)."""
    if node is None or id(node) in seen:
        return
    if isinstance(node, yaml.ScalarNode):
        if node.tag.endswith((":int", ":float")) and MISREAD.match(node.value):
            raise Error(f"line {node.start_mark.line + 1}: YAML reads {node.value} as another number; write it without"
                        " leading zeros and colons, or as text in quotes")  # fmt: skip
        return
    seen.add(id(node))
    keys: dict[str, int] = {}
    for child in node.value:
        key, value = child if isinstance(node, yaml.MappingNode) else (None, child)
        if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
            line = key.start_mark.line + 1
            if key.value in keys:
                raise Error(f"key {key.value!r} stands twice, in lines {keys[key.value]} and {line}; remove one")
            keys[key.value] = line
        _require_clear(value, seen)


def save(config: Mapping[str, Any], path: str | Path) -> None:
    """Write the effective config, unless the file already says the same."""
    text = yaml.safe_dump(dict(config), sort_keys=False)
    if not Path(path).exists() or Path(path).read_text(encoding="utf-8") != text:
        write_text(Path(path), text)
