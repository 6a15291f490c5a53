"""The command line without its start: what ``warm.py`` serves, and how tests and jobs ask for it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WARM = Path(__file__).with_name("warm.py")


@dataclass(frozen=True)
class Commands:
    """A process that has imported everything, by its socket."""

    socket: Path

    def call(self, program: str) -> list[str]:
        """What to put before the arguments of ``s4s`` or ``snakemake``."""
        return [sys.executable, "-S", "-E", str(WARM), "call", str(self.socket), program]

    @property
    def variables(self) -> dict[str, str]:
        """An environment in which ``s4s`` is a function of bash, which runs the jobs of Snakemake."""
        return {"BASH_FUNC_s4s%%": f'() {{ {" ".join(self.call("s4s"))} "$@"; }}'}

    def run(self, where: Path, *command: str) -> subprocess.CompletedProcess[str]:
        """A program and its arguments, in a folder."""
        call = [*self.call(command[0]), *command[1:]]
        return subprocess.run(call, capture_output=True, text=True, cwd=where, env={**os.environ, **self.variables})

    def s4s(self, where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command in a folder."""
        return self.run(where, "s4s", *arguments)

    def snakemake(self, where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The workflow in a folder: tests never touch the checkout's results."""
        return self.run(where, "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2", *arguments)


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    folder = Path(tempfile.mkdtemp())  # the name of a socket must be short
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, str(WARM), "serve", str(folder / "socket")], text=True, **pipes) as server:
        assert server.stdout is not None and server.stdin is not None
        assert server.stdout.readline() == "ready\n"
        yield Commands(folder / "socket")
        server.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            server.wait(60)
        server.kill()
    shutil.rmtree(folder)


@contextmanager
def once(factory: pytest.TempPathFactory, name: str) -> Iterator[tuple[Path, bool]]:
    """A folder for all test processes, filled by the first of them; whether that is this one."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    with folder.with_suffix(".made").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder, os.fstat(lock.fileno()).st_size == 0  # now: where it was opened another may have had the lock
        lock.write("yes")
