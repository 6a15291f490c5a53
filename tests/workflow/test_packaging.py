"""The environment, the metadata and the start of the command line."""

from __future__ import annotations

import ast
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import s4s

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"diffusers", "matplotlib", "pandas", "scipy", "seaborn", "sklearn", "snakemake", "torch", "transformers"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))["project"]


def groups() -> list[list[str]]:
    """What the package needs, its extras bring, and working on it takes; extras made of others without those."""
    found = [project()["dependencies"], *project()["optional-dependencies"].values()]
    found += tomllib.loads(read("pyproject.toml"))["dependency-groups"].values()
    return [[text for text in group if not text.startswith("s4s[")] for group in found]


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "tools" / "environment.py"))


@pytest.fixture(scope="module")
def pins(environment: dict[str, Any]) -> dict[str, set[Version]]:
    """Versions the lock may install, by package: more than one where they depend on the Python version."""
    found: dict[str, set[Version]] = {}
    for requirement in environment["requirements"](read("requirements.lock")):
        (pin,) = requirement.specifier
        assert pin.operator == "==", requirement
        found.setdefault(canonicalize_name(requirement.name), set()).add(Version(pin.version))
    return found


def test_every_lock_entry_has_hashes_and_none_a_location() -> None:
    entries = re.split(r"\n(?=[a-zA-Z])", read("requirements.lock").replace("\\\n", ""))[1:]
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.]+", entry), entry.splitlines()[0]
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
    assert "make lock" in read("requirements.lock").splitlines()[1]


def test_environment_file_is_the_lock(environment: dict[str, Any], pins: dict[str, set[Version]]) -> None:
    text = read("environment.yml")
    assert text == environment["render"](read("requirements.lock")), "environment.yml is stale: run `make lock`"
    *conda, pip = yaml.safe_load(text)["dependencies"]
    assert conda == ["python=3.11", "pip"]
    for name, version in (pin.split("==") for pin in pip["pip"]):
        assert Version(version) in pins[canonicalize_name(name)]


def test_direct_dependencies_are_locked_within_their_ranges(pins: dict[str, set[Version]]) -> None:
    for requirement in (Requirement(text) for group in groups() for text in group):
        locked = pins.get(canonicalize_name(requirement.name), set())
        assert locked, f"{requirement.name} is not in requirements.lock: run `make lock`"
        assert all(version in requirement.specifier for version in locked), f"{requirement} but locked: {locked}"


def test_no_tracked_file_names_a_package_registry() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    hosts = ["pypi" + ".org", "python" + "hosted.org", "conda." + "anaconda.org", "pytorch.org/" + "whl"]
    options = ["--extra-" + "index-url ", "--find-" + "links "]
    for path in (ROOT / name for name in listing.stdout.split("\0") if name):
        data = path.read_bytes() if path.is_file() else b""
        for word in (*hosts, *options):
            assert word.encode() not in data, f"{path.relative_to(ROOT)} contains {word!r}"


def test_versions_agree() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == s4s.__version__
    assert f"({s4s.__version__})" in read("CHANGELOG.md") or f"## {s4s.__version__}" in read("CHANGELOG.md")
    assert project()["dynamic"] == ["version"], "the version is written once, in s4s/__init__.py"
    assert project()["license"] == citation["license"]


def test_help_does_not_import_the_heavy_libraries() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "s4s", "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-500:]
    assert "Usage" in run.stdout
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in run.stderr.splitlines() if "|" in line}
    assert "s4s" in imported
    assert not imported & HEAVY


def test_readme_examples_use_public_names() -> None:
    blocks = re.findall(r"```python\n(.*?)```", read("README.md"), flags=re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)
    used = set(re.findall(r"\bs4s\.(\w+)", "".join(blocks)))
    assert used <= set(s4s.__all__)
