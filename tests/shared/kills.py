"""Kill a run of the tiny benchmark at random, again and again; in the end nothing may differ from an unbroken run.

python tests/shared/kills.py [NUMBER, by default 200] [SEED]

Victims are drawn among the processes of a running job and Snakemake itself; a run that gets to its end is compared, and
another begins. Prints one line a run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from broken import Run

SNAKEMAKE = 0.1  # share of the kills that hit Snakemake itself


def children(parent: int) -> list[int]:
    """Processes below one, at any depth."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    below, parents = {parent}, [tuple(map(int, line.split())) for line in found.splitlines()]
    while more := {pid for pid, above in parents if above in below} - below:
        below |= more
    return sorted(below - {parent})


def is_job(pid: int) -> bool:
    try:
        return b"s4s\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def strike(process: subprocess.Popen[str], dice: random.Random) -> bool:
    """Kill something; whether there was something to kill."""
    if dice.random() < SNAKEMAKE:
        return kill(process.pid)
    jobs = [pid for pid in children(process.pid) if is_job(pid)]
    return bool(jobs) and kill(dice.choice(jobs))


def broken_run(run: Run, kills: int, dice: random.Random) -> int:
    """One run, killed at random until it is complete or the kills are used up; how many there were."""
    done = 0
    while True:
        process = run.start("--retries", "100")
        while done < kills and process.poll() is None:
            time.sleep(dice.expovariate(1 / 2.5))
            done += strike(process, dice)
        if process.wait() == 0:
            return done
        unlock = run("--unlock", output="unlock")
        assert unlock[0] == 0, unlock[1]
        if process.returncode != -signal.SIGKILL and done >= kills:
            run.finish()
            return done


def differs(a: Any, b: Any, where: str = "") -> str:
    """The first place where two results differ, empty if they do not."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return next((found for key in a if (found := differs(a[key], b[key], f"{where}/{key}"))), "")
    return "" if a == b else f"{where}: {str(a)[:500]} for {str(b)[:500]}"


def main() -> None:
    kills, seed = (*map(int, sys.argv[1:]), *(200, 0)[len(sys.argv) - 1 :])
    dice, left, started = random.Random(seed), kills, time.monotonic()
    folder = Path(tempfile.mkdtemp())
    unbroken = Run(folder / "unbroken")
    unbroken.folder.mkdir()
    unbroken.finish()
    expected, n = unbroken.made(), 0
    while left:
        run = Run(folder / str(n := n + 1))
        run.folder.mkdir()
        done = broken_run(run, left, dice)
        left -= done
        if difference := differs(run.made(), expected):
            sys.exit(f"run {n}, {done} kills, kept in {folder}: {difference}")
        print(f"run {n}: {done} kills, the same results; {left} to go, {time.monotonic() - started:.0f} s", flush=True)

    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
