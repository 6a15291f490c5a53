"""What every test of refused input needs: a payload that tells on itself, and the one line a user should get."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from s4s.cli.main import main

CANARY = "executed"  # what a payload would create in the working directory
TOUCH = f"touch {CANARY}"
CODE = f"open({CANARY!r}, 'w').close()"
Refuse = Callable[..., None]  # the fixture `refused`, or a form of it
HEADROOM = 300 << 20
LIMITED = """
import os, resource, sys
from pathlib import Path
from s4s.cli.main import main
command, headroom, honest, *bombs = sys.argv[1:]
options = ["--allow-unverified"]
if command == "ldm":
    from compvis_layout import TINY
    from s4s.models.ldm import KINDS, networks
    KINDS["tiny"] = TINY
    networks(TINY)
    options += ["--kind", "tiny"]
else:
    import s4s.models.convert
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def status(path, out):
    try:
        main(["import", command, path, "--out", out, *options])
    except SystemExit as error:
        return error.code

before = used()
if honest:
    assert status(honest, "honest.safetensors") == 0
    print(used() - before, file=sys.stderr)
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(headroom)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in bombs:
    assert status(path, "out/net.safetensors") == 1
sys.stderr.flush()
os._exit(0)  # without the seconds that Python takes to forget its modules
"""


class Gadget:
    """Runs a shell command when Python's own unpickler reads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (TOUCH,)


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    """The message of an error, which must be one short printable line."""
    line = str(caught.value)
    assert line.isprintable() and len(line) < 700
    return line


def assert_bounded(folder: Path, command: str, bombs: Iterable[bytes], honest: bytes = b"") -> int:
    """Under a hard limit of 300 MiB more than the interpreter has, ``s4s import`` refuses every bomb for what it is.

    Returns:
        KiB by which importing ``honest`` first made the process grow.
    """
    if not Path("/proc/self/statm").exists():
        pytest.skip("measures memory through /proc")
    files = [honest, *bombs]
    paths = [folder / f"{i}.bomb" for i in range(len(files))]
    for path, data in zip(paths, files, strict=True):
        path.write_bytes(data)
    here = Path(__file__).resolve().parent
    environment = os.environ | {"PYTHONPATH": f"{here.parents[1]}{os.pathsep}{here}", "OMP_NUM_THREADS": "1"}
    arguments = [command, str(HEADROOM), str(paths[0]) if honest else "", *map(str, paths[1:])]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        capture_output=True, text=True, env=environment, cwd=folder, timeout=100,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and not (folder / "out").exists(), done.stderr
    grown = int(lines.pop(0)) if honest else 0
    assert len(lines) == len(paths) - 1 and all(line.startswith("s4s: ") for line in lines), done.stderr
    assert "MemoryError" not in done.stderr and "alloc" not in done.stderr, done.stderr
    return grown


def main_returns(arguments: list[str]) -> None:
    """Run the command line, which ends by SystemExit even when all went well."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert not caught.value.code
