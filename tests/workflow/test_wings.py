"""What `make check` runs."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "wings.py"
WINGS = [path.name for path in sorted((ROOT / "tests").iterdir()) if list(path.glob("test_*.py"))]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s4s/solver.py", ["core"]),
        ("s4s/learn/fit.py", ["learn"]),
        ("s4s/cli/main.py", ["workflow"]),
        ("s4s/models/new/unet.py", ["models"]),
        ("tests/score/test_metrics.py", ["score"]),
        ("tests/shared/problems.py", WINGS),
        ("tests/conftest.py", WINGS),
        ("workflow/rules/fit.smk", ["workflow"]),
        ("pyproject.toml", ["workflow"]),
        ("docs/fitting.md", ["workflow"]),
    ],
)
def test_a_changed_file_has_its_tests(path: str, expected: list[str]) -> None:
    assert runpy.run_path(str(TOOL))["tested_by"](path) == expected


def test_every_package_has_a_wing() -> None:
    packages = {path.parent.name for path in ROOT.glob("s4s/*/__init__.py")}
    assert packages - {*WINGS} == {"cli"}, "its tests are the workflow's"


def test_a_wing_that_is_not_there_is_refused() -> None:
    done = subprocess.run([sys.executable, str(TOOL), "learning"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"make check: unknown wing 'learning'; choose one of: {', '.join(WINGS)}\n"


def test_what_changed_since_main(tmp_path: Path) -> None:
    """Committed on a branch, uncommitted and new files count; what came to main meanwhile does not."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "wings.py").write_text(TOOL.read_text())
    for wing in WINGS:
        (tmp_path / "tests" / wing).mkdir(parents=True)
        (tmp_path / "tests" / wing / "test_x.py").touch()

    def git(*arguments: str) -> None:
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x", *arguments], cwd=tmp_path, check=True)

    def change(path: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")

    def asked() -> str:
        tool = [sys.executable, str(tmp_path / "tools" / "wings.py")]
        return subprocess.run(tool, capture_output=True, text=True, check=True).stdout.strip()

    def commit() -> None:
        git("add", ".")
        git("commit", "-qm", "x")

    git("init", "-qb", "main")
    change("s4s/learn/fit.py")
    commit()
    assert asked() == ""
    git("switch", "-qc", "branch")
    change("s4s/solver.py")
    commit()
    git("switch", "-q", "main")
    change("s4s/score/metrics.py")
    commit()
    git("switch", "-q", "branch")
    (tmp_path / "s4s/learn/fit.py").write_text("y")
    change("s4s/models/new.py")
    assert asked() == "tests/core tests/learn tests/models"


def test_no_test_file_imports_another() -> None:
    for path in ROOT.glob("tests/*/*.py"):
        assert not re.search(r"^\s*(from|import) (tests|test_)", path.read_text(), re.MULTILINE), path
