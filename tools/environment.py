"""Write environment.yml, the conda form of requirements.lock. Called by `make lock`."""

from __future__ import annotations

from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# Written by `make lock` from requirements.lock: the same versions, for Linux x86_64. Do not edit.
# `conda env create -f environment.yml`; Snakemake builds it by itself with `--software-deployment-method conda`.
name: s4s
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""
TARGET = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}


def requirements(lock: str) -> list[Requirement]:
    """The ``name==version ; marker`` entries of a lock file, hashes and comments dropped."""
    lines = lock.replace("\\\n", " ").splitlines()
    entries = [line.split("--hash", 1)[0].strip() for line in lines if line and line[0] not in "# "]
    return [Requirement(entry) for entry in entries]


def render(lock: str) -> str:
    """The text of environment.yml for the text of requirements.lock."""
    chosen = [r for r in requirements(lock) if r.marker is None or r.marker.evaluate(TARGET)]
    return HEAD + "".join(f"      - {r.name}{r.specifier}\n" for r in chosen)


if __name__ == "__main__":
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (ROOT / "environment.yml").write_text(render(lock), encoding="utf-8")
