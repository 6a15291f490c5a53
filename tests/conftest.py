"""No test reads or writes the user's own cache; every refused file is refused through the command line."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from broken import again as again
from broken import unbroken as unbroken
from commands import commands as commands
from hostile import CANARY
from whole_run import finished as finished
from whole_run import rerun as rerun

from s4s.cli.main import main


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The download cache, empty."""
    monkeypatch.setenv("S4S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def seed() -> None:
    """Draws that name no generator are the same in every order of the tests."""
    torch.manual_seed(0)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """``s4s import`` on a file, or its bytes: exit status 1, one line, no payload run, nothing written."""
    monkeypatch.chdir(tmp_path)

    def run(command: str, file: Path | bytes, message: str, *options: str, out: str = "out/net.safetensors") -> None:
        if isinstance(file, bytes):
            if not {"--sha256", "--allow-unverified"} & {*options}:
                options = (*options, "--sha256", hashlib.sha256(file).hexdigest())
            Path("hostile.file").write_bytes(file)
            file = Path("hostile.file")
        before = sorted(path for path in tmp_path.rglob("*") if path != tmp_path / Path(out).parent)
        with pytest.raises(SystemExit) as caught:
            main(["import", command, str(file), "--out", out, *options])
        printed = capsys.readouterr()
        assert caught.value.code == 1 and printed.out == ""
        line, end = printed.err.split("\n")
        assert line.startswith("s4s: ") and line.isprintable() and len(line) < 700 and end == ""
        assert re.search(message, line), line
        assert not Path(CANARY).exists()
        assert sorted(path for path in tmp_path.rglob("*") if path != tmp_path / Path(out).parent) == before

    return run
