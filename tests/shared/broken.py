"""Running a tiny benchmark in a folder of its own, breaking it, and comparing what it ends with."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, Commands, once

from s4s.files import sha256

CONFIG = ROOT / "tests" / "faults" / "config.yaml"
TIMES = ("fit_seconds", "sample_seconds")  # the columns of fid.csv that two equal runs differ in


@dataclass(frozen=True)
class Run:
    """The benchmark of ``tests/faults/config.yaml`` in a folder, run by processes of their own or by forks of one."""

    folder: Path
    commands: Commands | None = None

    @property
    def results(self) -> Path:
        return self.folder / "results" / "faults"

    def command(self, *arguments: str) -> list[str]:
        snakemake = self.commands.call("snakemake") if self.commands else [sys.executable, "-m", "snakemake"]
        start = [*snakemake, "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(CONFIG)]
        target = () if "--unlock" in arguments else ("results/faults/fid.csv",)
        return [*start, *(() if "--profile" in arguments else ("--cores", "1")), *arguments, "--", *target]

    def environment(self, fault: str | None = None) -> dict[str, str]:
        """Ours and that of the run; with a fault, that of ``tests/faults/sitecustomize.py``, once."""
        ours = {**os.environ, **(self.commands.variables if self.commands else {})}
        if fault is None:
            return ours
        path = os.pathsep.join([str(ROOT / "tests" / "faults"), ours.get("PYTHONPATH", "")])
        return ours | {"PYTHONPATH": path, "S4S_FAULT": f"{fault}:{self.marker}"}

    @property
    def marker(self) -> Path:
        """There once the fault has happened."""
        return self.folder / "fault"

    def start(self, *arguments: str, fault: str | None = None, output: str = "output") -> subprocess.Popen[str]:
        """Snakemake, running, its output in a file of that name."""
        with (self.folder / output).open("w") as file:
            return subprocess.Popen(self.command(*arguments), cwd=self.folder, env=self.environment(fault), text=True,
                                    stdout=file, stderr=subprocess.STDOUT)  # fmt: skip

    def __call__(self, *arguments: str, fault: str | None = None, output: str = "output") -> tuple[int, str]:
        """Run to the end: exit status and output."""
        status = self.start(*arguments, fault=fault, output=output).wait()
        return status, (self.folder / output).read_text()

    def finish(self, *arguments: str, output: str = "output") -> None:
        """Run to the end, which must be a good one."""
        status, said = self(*arguments, output=output)
        assert status == 0, said

    def copy(self, folder: Path) -> Run:
        """Everything in another folder, times of files and Snakemake's records too."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Run(folder, self.commands)

    def forget(self, *patterns: str) -> None:
        """Remove results."""
        for pattern in patterns:
            found = list(self.results.glob(pattern))
            assert found, pattern
            for path in found:
                path.unlink()

    def made(self) -> dict[str, Any]:
        """All that two equal runs share: networks, teacher and solvers to the byte, scores, the table; no times."""
        with (self.results / "fid.csv").open() as file:
            rows = [{key: row[key] for key in row if key not in TIMES} for row in csv.DictReader(file)]
        scores = {path.name: json.loads(path.read_text()) for path in sorted(self.results.glob("metrics/[!.]*.json"))}
        for score in scores.values():
            for key in (*TIMES, "fit_peak_bytes", "provenance"):
                score.pop(key, None)
        solvers = {path.name: path.read_bytes() for path in sorted(self.results.glob("solvers/[!.]*.json"))}
        assert len(rows) == len(scores) == len(solvers) == 3
        tensors = {path.name: sha256(path) for path in sorted(self.results.glob("[mt]*/[!.]*.safetensors"))}
        assert len(tensors) == 4, tensors
        return {"table": rows, "scores": scores, "solvers": solvers, "tensors": tensors}


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, commands: Commands) -> Run:
    """A run to its end; on a SLURM its jobs are processes of their own, which can be cancelled."""
    with once(tmp_path_factory, "unbroken") as (folder, new):
        run = Run(folder, None if "S4S_SLURM" in os.environ else commands)
        if new:
            run.finish()
    return run


@pytest.fixture
def again(unbroken: Run, tmp_path: Path) -> Run:
    """A copy of it in which a fit and all that follows are still to be done."""
    run = unbroken.copy(tmp_path / "again")
    run.forget("solvers/s4s_*", "fits/*", "features/s4s_*/*", "metrics/s4s_*", "fid.csv")
    return run


def truncate(path: Path) -> Path:
    """Half of a file left."""
    os.truncate(path, path.stat().st_size // 2)
    return path


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Until something is so, while a process runs."""
    while not condition():
        assert process.poll() is None, "it ended before"
        time.sleep(0.1)
