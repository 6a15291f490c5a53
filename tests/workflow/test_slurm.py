"""The cluster profile on a real SLURM of one node, and what breaks there. `make test-slurm` starts the SLURM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from broken import ROOT, Run, wait_for

PROFILE = ("--profile", str(ROOT / "workflow" / "profiles" / "slurm"))
QUICK = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5")

pytestmark = pytest.mark.skipif("S4S_SLURM" not in os.environ, reason="`make test-slurm` starts a SLURM for these")


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def jobs(rule: str = "") -> list[str]:
    """Our jobs in the queue, those of a rule or all."""
    lines = slurm("squeue", "--me", "-h", "-o", "%A %j %k").splitlines()
    return [line.split()[0] for line in lines if line.split()[1].startswith("s4s_") and rule in line]


def test_a_cluster_makes_what_this_machine_makes(unbroken: Run, tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.finish(*PROFILE, *QUICK)
    assert run.made() == unbroken.made()
    assert not list(run.results.rglob("samples")), "images are not kept"
    assert "Nothing to be done" in run()[1], "nor does this machine find anything to do"


def test_cancelled_late_drained_and_orphaned_jobs(unbroken: Run, again: Run) -> None:
    again.forget("features/classical_*/*", "metrics/classical_*")
    first = again.start(*PROFILE, *QUICK, fault="hang:features/classical")
    wait_for(again.marker.exists, first)
    first.kill()  # and its jobs stay in the queue
    first.wait()
    assert jobs()
    status, output = again(*PROFILE, *QUICK)
    assert status != 0 and "LockException" in output
    slurm("scancel", *jobs())
    assert again("--unlock")[0] == 0
    again.marker.unlink()
    for path in again.results.glob("solvers/s4s_*"):
        path.unlink()

    (node,) = set(slurm("sinfo", "-h", "-N", "-o", "%N").split())
    slurm("scontrol", "update", f"nodename={node}", "state=drain", "reason=test")
    # A minute for the fit, which hangs the first time; two minutes the second time.
    limits = ("--set-resources", "fit:runtime=attempt", "--default-resources", "runtime=9", "mem_mb=500 * attempt")
    second = again.start(*PROFILE, *QUICK, *limits, fault="hang:solvers/s4s")
    said = lambda text: text in (again.folder / "output").read_text()
    wait_for(lambda: len(jobs()) >= 2, second)
    assert slurm("squeue", "-h", "-t", "R") == "", "jobs wait for the node"
    slurm("scancel", jobs("features")[0])
    wait_for(lambda: said("CANCELLED"), second)
    slurm("scontrol", "update", f"nodename={node}", "state=resume")
    assert second.wait() == 0, (again.folder / "output").read_text()
    assert said("TIMEOUT") and said("Trying to restart") and again.marker.exists()
    assert again.made() == unbroken.made()


def test_jobs_of_a_gpu_model_share_the_gpus_of_a_node(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text('''
rule all:
    input: expand("{n}.txt", n=range(2))
rule fit:
    output: "{n}.txt"
    resources: gpu=1
    shell: """
        touch {wildcards.n}.here
        timeout 100 sh -c 'until [ -e 0.here ] && [ -e 1.here ]; do sleep 0.2; done'
        echo $CUDA_VISIBLE_DEVICES > {output}
        """
''')
    (tmp_path / "profiles").symlink_to(ROOT / "workflow" / "profiles")
    snakemake = [sys.executable, "-m", "snakemake", *PROFILE, *QUICK]
    done = subprocess.run(snakemake, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {(tmp_path / f"{n}.txt").read_text() for n in range(2)} == {"0\n", "1\n"}, "one each, while both run"
