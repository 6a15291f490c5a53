"""The profile for other schedulers, with programs of three lines that stand in for PBS."""

from __future__ import annotations

import os
import subprocess
import sys
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


STATUS = PROFILE[1] + "/status"
ANSWERS = {
    "runs": ('echo "    job_state = R"', "running"),
    "waits": ('echo "    job_state = Q"', "running"),
    "is held": ('echo "    job_state = H"', "running"),
    "ended well": ('echo "    job_state = F"; echo "    Exit_status = 0"', "success"),
    "ended badly": ('echo "    job_state = F"; echo "    Exit_status = 271"', "failed"),
    "was removed before it began": ('echo "    job_state = F"', "failed"),
    "ended well, in XML": ("echo '<Job><job_state>C</job_state><exit_status>0</exit_status></Job>'", "success"),
    "runs, in XML": ("echo '<Job><job_state>R</job_state></Job>'", "running"),
    "unknown, by its words": ('echo "qstat: Unknown Job Id 12.server" >&2; exit 1', "failed"),
    "unknown, by its status": ("exit 153", "failed"),
    "no server": ('echo "qstat: cannot connect to server pbs (errno=111)" >&2; exit 255', "running"),
    "no time": ('echo "pbs_iff: error returned: 15031" >&2; echo "qstat: End of File" >&2; exit 1', "running"),
    "says nothing": ("exit 0", "running"),
    "ended badly itself": ("kill -9 $$", "running"),
    "cut short": ('printf "Job Id: 12.server\\n    Job_Name = s4s"', "running"),
}


@pytest.mark.parametrize(("answer", "meaning"), ANSWERS.values(), ids=ANSWERS)
def test_a_job_has_failed_only_when_the_server_says_so(queue: Path, answer: str, meaning: str) -> None:
    (queue / "qstat").write_text(f"#!/usr/bin/env bash\n{answer}\n")
    asked = subprocess.run([sys.executable, STATUS, "12.server"], capture_output=True, text=True)
    assert (asked.returncode, asked.stdout) == (0, f"{meaning}\n"), asked.stderr


def test_a_machine_without_qstat_says_nothing_of_a_job(tmp_path: Path) -> None:
    asked = subprocess.run([sys.executable, STATUS, "12"], capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert (asked.returncode, asked.stdout) == (0, "running\n") and "qstat" in asked.stderr
