"""What installing s4s does not bring is behind an extra, and says so in one line."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from s4s.errors import Error, Missing, extra

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HOST = {"comfy", "comfy_api", "folder_paths"}
BASE = {"click", "numpy", "safetensors", "torch", "tqdm"}


def brought(name: str) -> set[str]:
    """Packages that an extra names, with those of the extras it is made of."""
    found: set[str] = set()
    for requirement in map(Requirement, PROJECT["optional-dependencies"][name]):
        inner = [brought(part) for part in requirement.extras] if requirement.name == "s4s" else []
        found |= set().union(*inner) if inner else {canonicalize_name(requirement.name)}
    return found


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Modules of others that a file imports, with the extra named around each."""

    def walk(node: ast.AST, named: str | None) -> Iterator[tuple[str, str | None]]:
        match node:
            case ast.If(test=ast.Name("TYPE_CHECKING")):
                return
            case ast.With(items=[ast.withitem(ast.Call(ast.Name("extra"), [ast.Constant(str(name))]))]):
                named = name
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0], named
        elif isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], named) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, named)

    own = {*sys.stdlib_module_names, "s4s"}
    return ((name, named) for name, named in walk(ast.parse(path.read_text()), None) if name not in own)


def test_the_package_alone_asks_for_five() -> None:
    assert {Requirement(text).name for text in PROJECT["dependencies"]} == BASE


def test_every_import_beyond_them_names_the_extra_that_brings_it() -> None:
    """Around the import, or once in the ``__init__`` of its wing; but for what a host brings, to which s4s comes."""
    known, found = packages_distributions(), set()
    for path in sorted((ROOT / "s4s").rglob("*.py")):
        wing = dict(imports(path.with_name("__init__.py")))
        for module, named in imports(path):
            packages = {canonicalize_name(name) for name in known.get(module, [])}
            if packages & BASE or module in HOST:
                continue
            name = named or wing.get(module)
            assert name, f"{path.relative_to(ROOT)}: {module} is no dependency; import it in `with extra(...)`"
            assert packages & brought(name), f"{path.relative_to(ROOT)}: the extra {name!r} does not bring {module}"
            found.add(name)
    assert found == {"benchmark", "workflow", "diffusers"}


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(Missing) as caught, extra("benchmark"):
        import pandas  # noqa: F401
    assert str(caught.value) == "pandas is not installed; pip install 's4s[benchmark]'"
    assert isinstance(caught.value, Error) and isinstance(caught.value, ImportError)
    with pytest.raises(Missing, match=r"^cannot import name .*; pip install 's4s\[workflow\]'$"), extra("workflow"):
        from click import nothing  # type: ignore[attr-defined]  # noqa: F401
