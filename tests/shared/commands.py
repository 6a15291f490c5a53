"""The command line without its start: what ``warm.py`` serves, and how tests and jobs ask for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

WARM = Path(__file__).with_name("warm.py")


@dataclass(frozen=True)
class Commands:
    """A process that has imported everything, by its socket."""

    socket: Path

    @property
    def call(self) -> list[str]:
        """What to put before the arguments of ``s4s``."""
        return [sys.executable, "-S", "-E", str(WARM), "call", str(self.socket)]

    @property
    def variables(self) -> dict[str, str]:
        """An environment in which ``s4s`` is a function of bash, which runs the jobs of Snakemake."""
        return {"BASH_FUNC_s4s%%": f'() {{ {" ".join(self.call)} "$@"; }}'}

    def s4s(self, where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command in a folder."""
        return subprocess.run([*self.call, *arguments], capture_output=True, text=True, cwd=where)


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
