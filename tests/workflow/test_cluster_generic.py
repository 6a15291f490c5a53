"""The profile for other schedulers, with programs of three lines that stand in for PBS."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from broken import ROOT, Run

PROFILE = ("--profile", str(ROOT / "workflow" / "profiles" / "cluster-generic"), "--latency-wait", "5")
PROGRAMS = {
    "qsub": 'id=$$; echo "$@" > $QUEUE/$id.asked; for script; do :; done\n'
    '(bash "$script" > /dev/null 2>&1 < /dev/null; echo $? > $QUEUE/$id.status) > /dev/null &\n'
    "echo $id.server",
    "qstat": 'f=$QUEUE/${3%.server}.status; [ -s $f ] || { echo "    job_state = R"; exit; }\n'
    'echo "    job_state = F"; echo "    Exit_status = $(cat $f)"',
    "qdel": 'echo "$@" >> $QUEUE/deleted',
}


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-ins keep their jobs."""
    folder = tmp_path / "pbs"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(folder))
    return folder


def test_another_scheduler_makes_what_this_machine_makes(unbroken: Run, again: Run, queue: Path) -> None:
    status, output = again(*PROFILE, fault="kill:solvers/s4s")
    assert status == 0 and "Trying to restart" in output, output
    assert again.made() == unbroken.made()
    fits = sorted(text for path in queue.glob("*.asked") if "s4s_fit" in (text := path.read_text()))
    assert len(fits) == 2 and "mem=16000mb" in fits[0] and "mem=32000mb" in fits[1], fits
    assert "walltime=86400" in fits[0] and "walltime=172800" in fits[1] and "ngpus=0" in fits[0]
