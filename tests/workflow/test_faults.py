"""What breaks on the way, on one machine: every run ends with the same solvers, scores and table as an unbroken one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from broken import Run, truncate, wait_for

S4S = "s4s_ipndm3_edm_nfe4_seed0"


@pytest.fixture
def small_disk(again: Run) -> Iterator[Run]:
    """The same with its results on a disk of their own, 8 MB of memory."""
    kept = again.results.rename(again.folder / "kept")
    again.results.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(again.results)]
    done = subprocess.run(mount, capture_output=True, text=True) if os.geteuid() == 0 else None
    if done is None or done.returncode:
        pytest.skip(f"needs to mount a disk: {done.stderr.strip() if done else 'not root'}")
    shutil.copytree(kept, again.results, dirs_exist_ok=True)
    yield again
    subprocess.run(["umount", "-l", str(again.results)], check=True)


def fill(folder: Path, left: int) -> Path:
    """A file that leaves so many bytes of a disk."""
    path = folder / "filler"
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(path, path.stat().st_size - left)
    return path


def test_killed_jobs_and_files_that_are_damaged(unbroken: Run, again: Run) -> None:
    """Sums of features are made again by who needs them; for the rest one line names the file to remove."""
    status, output = again(fault="kill:solvers/s4s")
    assert status != 0 and "Exiting because a job execution failed" in output, output
    assert list(again.results.glob("solvers/.*")), "half of a file, under a name of its own"
    again.marker.unlink()
    refused_and_removed(again, "teacher/000000-*", "has changed since it was made")
    (sums,) = again.results.glob("features/classical_*/000060-*")
    truncate(sums)
    again.forget("metrics/classical_*")
    status, output = again("--retries", "1", fault="kill:features/s4s")
    assert status == 0 and "Trying to restart" in output, output
    assert again.made() == unbroken.made()


def refused_and_removed(run: Run, victim: str, message: str) -> None:
    """A truncated file ends the run, which says so."""
    (path,) = run.results.glob(victim)
    status, output = (truncate(path), run())[1]
    assert status != 0 and f"{path.relative_to(run.folder)}: {message}" in output, output
    path.unlink()


def test_clocks_that_differ_and_a_damaged_network(unbroken: Run, again: Run) -> None:
    """Files of a machine whose clock is a day ahead, and of one a day behind."""
    now, ahead = time.time(), next(again.results.glob("models/denoiser*"))
    for path in again.results.glob("teacher/*"):
        os.utime(path, (now, now - 86400))
    os.utime(ahead, (now, now + 86400))
    status, output = again()
    assert status != 0 and "could indicate a clock skew problem" in output, output
    ahead.touch()
    refused_and_removed(again, "models/denoiser*", "has changed since it was made")
    again.finish()
    assert again.made() == unbroken.made()


def test_a_second_snakemake_is_refused_and_a_killed_one_leaves_its_lock(unbroken: Run, again: Run) -> None:
    first = again.start(fault="hang:solvers/s4s")
    wait_for(again.marker.exists, first)
    for _ in "ab":  # while the first one runs, and when it is dead
        status, output = again(output="second")
        assert status != 0 and "LockException" in output and "--unlock" in output, output
        first.kill()
        first.wait()
    assert again("--unlock", output="second")[0] == 0
    again.finish(output="second")
    assert again.made() == unbroken.made()
    solver = next(again.results.glob("solvers/s4s_*"))
    before = solver.stat().st_ino
    again.marker.with_name("go").touch()  # the job of the dead run was still there, and ends now
    while solver.stat().st_ino == before:
        time.sleep(0.1)
    assert again.made() == unbroken.made()
    again.finish()
    assert again.made() == unbroken.made()


def test_a_disk_that_is_full_or_cannot_be_written(unbroken: Run, small_disk: Run) -> None:
    run = small_disk
    no_space(run, 0, "solvers/s4s_")

    subprocess.run(["mount", "-o", "remount,ro", str(run.results)], check=True)
    status, output = run()
    assert status != 0 and "Write-protected output files for rule table" in output, output
    command = [sys.executable, "-m", "s4s", "fit", "results/faults/config.yaml", S4S]
    done = subprocess.run(command, cwd=run.folder, capture_output=True, text=True)
    assert done.returncode == 1 and "cannot write it (Read-only file system)" in done.stderr.splitlines()[-1]
    subprocess.run(["mount", "-o", "remount,rw", str(run.results)], check=True)

    run.finish("--until", "fit")
    no_space(run, 8192, "features/s4s_*/")
    run.finish()
    assert run.made() == unbroken.made()


def no_space(run: Run, left: int, where: str) -> None:
    """A run on a disk with so many bytes left ends where it needs more, and leaves nothing there."""
    filler = fill(run.results, left)
    status, output = run()
    said = [line for line in output.splitlines() if "No space left on device" in line]
    assert status != 0 and said and all(line.strip().startswith("s4s: results/faults/") for line in said), output
    assert not list(run.results.glob(f"{where}*"))
    assert not list(run.results.rglob(".*")), "what was half written is gone"
    filler.unlink()
