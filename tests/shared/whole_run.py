"""The tiny benchmark, run to its end once for all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import ROOT, Commands, once

TINY = ROOT / "tests" / "tiny" / "config.yaml"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Path:
    """A folder in which the tiny benchmark has run to its end: to read, since all test processes share it."""
    with once(tmp_path_factory, "tiny") as (where, new):
        if new:
            done = commands.snakemake(where, "--configfile", str(TINY))
            assert done.returncode == 0, done.stdout + done.stderr
    return where


@pytest.fixture
def rerun(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, times of files and Snakemake's records too: to run Snakemake in."""
    return shutil.copytree(finished, tmp_path / "copy")
