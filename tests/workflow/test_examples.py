"""The examples run: adapters equal to the libraries' own predictions, learned solvers nearer than their samplers."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples"
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("compare", "table"))
PREDICTION, MANY, SHARE = 1e-6, 1e-3, 0.5


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Import by name, as it is from the folder of the examples; skipped where its library is not installed."""
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)  # sbi writes its logs to where one stands

    def named(name: str) -> Any:
        for module in imported(FOLDER / f"{name}.py") - {"compare", "s4s", "torch", *sys.stdlib_module_names}:
            pytest.importorskip(module)
        return importlib.import_module(name)

    return named


def imported(path: Path) -> set[str]:
    """Top names of the modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
        found |= {name.split(".")[0] for name in names}
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FILES)
def test_a_learned_solver_beats_the_library_s_own(name: str, example: Any, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    (row,) = example("compare").show(example(name).HOMES[:1], tmp_path)
    assert row.prediction <= PREDICTION and row.many <= MANY
    assert row.learned <= SHARE * row.own
    assert len([*tmp_path.glob("*.png")]) == 1
    documented = table(example)[row.home]
    assert row.learned < 2 * float(documented[4]) and row.best == documented[3].rsplit(" ", 1)[0]


def table(example: Any) -> dict[str, list[str]]:
    module = example("table")
    rows = module.lines((ROOT / "docs/homes.md").read_text())
    return {home: [cell.strip() for cell in row.strip("| ").split(" | ")] for home, row in rows.items()}


def test_the_table_has_every_model_within_the_bounds(example: Any) -> None:
    assert {*example("table").EXAMPLES} == {*FILES}
    found = table(example)
    for home, (_, prediction, many, own, learned, _) in found.items():
        assert float(prediction) <= PREDICTION and float(many) <= MANY, home
        assert float(learned) <= SHARE * float(own.rsplit(" ", 1)[1]), home
    assert len(found) == 16
    assert all(f"{name}.py" in (ROOT / "docs/homes.md").read_text() for name in FILES)


def test_adapters_are_two_lines() -> None:
    """From the comment to the next blank line; a function's two lines count as they stand."""
    for name in FILES:
        text = (FOLDER / f"{name}.py").read_text()
        assert "# The adapter" in text, name
        for part in text.split("# The adapter")[1:]:
            lines = part.split("\n\n")[0].splitlines()[1:]
            assert len(lines) <= 2, (name, lines)
