"""``s4s import`` of either format: what it prints, the hash, the kind of file, the output, memory."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import compvis_layout as compvis
import nvidia_pickle
import pytest
from compvis_layout import TINY
from hostile import Refuse, main_returns

from s4s.models import checkpoint, convert, source
from s4s.models.ldm import KINDS


@pytest.fixture(params=["edm", "ldm"])
def command(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(KINDS, "tiny", TINY)
    return str(request.param)


@pytest.fixture
def options(command: str) -> list[str]:
    return ["--kind", "tiny"] if command == "ldm" else []


@pytest.fixture
def honest(command: str, tmp_path: Path) -> bytes:
    return compvis.honest() if command == "ldm" else nvidia_pickle.honest()


@pytest.fixture
def refuse(refused: Refuse, command: str, options: list[str]) -> Refuse:
    return lambda file, message, *more, **out: refused(command, file, message, *options, *more, **out)


def test_an_honest_file(
    command: str, options: list[str], honest: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.file").write_bytes(honest)
    out, digest = tmp_path / "new" / "net.safetensors", hashlib.sha256(honest).hexdigest()
    main_returns(["import", command, str(tmp_path / "net.file"), "--out", str(out), "--sha256", digest, *options])
    printed = capsys.readouterr()
    record = json.loads(out.with_suffix(".json").read_text())
    assert printed.out.splitlines()[0] == str(out) and printed.err == ""
    assert record["source"]["sha256"] == digest
    assert record["weights"]["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert sorted(path.name for path in out.parent.iterdir()) == ["net.json", "net.safetensors"]


def test_hashes(refuse: Refuse, honest: bytes, tmp_path: Path) -> None:
    actual = hashlib.sha256(honest).hexdigest()
    (tmp_path / "net.file").write_bytes(honest)
    missing = f"no SHA-256 .*this file's is {actual}: .* pass it with --sha256, or pass --allow-unverified"
    refuse(tmp_path / "net.file", missing)
    refuse(honest, f"has SHA-256 {actual}, not {'0' * 64}", "--sha256", "0" * 64)
    refuse(honest, "has SHA-256", "--sha256", "0" * 64, "--allow-unverified")
    refuse(honest, "takes 64 hexadecimal digits", "--sha256", actual[:-1])
    refuse(honest, "takes 64 hexadecimal digits", "--sha256", actual + "\n")


def test_the_hash_is_checked_before_anything_is_read(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "read_pickle", lambda data: pytest.fail("parsed"))
    monkeypatch.setattr(checkpoint, "_pickles", lambda *_: pytest.fail("parsed"))
    refuse(b"anything", "has SHA-256", "--sha256", "0" * 64)


def test_things_that_are_not_regular_files(refuse: Refuse, honest: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.file").write_bytes(honest)
    (tmp_path / "link.file").symlink_to("net.file")
    (tmp_path / "dangling.file").symlink_to("nowhere")
    (tmp_path / "folder.file").mkdir()
    os.mkfifo(tmp_path / "pipe.file")
    with (tmp_path / "huge.file").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    for name, message in (
        ("link.file", "link.file: is a symbolic link"),
        ("dangling.file", "is a symbolic link"),
        ("folder.file", "Is a directory|not a regular file"),
        ("pipe.file", "is not a regular file"),
        ("huge.file", "has 1,099,511,627,776 bytes"),
        ("missing.file", "cannot read the file"),
        ("/dev/zero", "is not a regular file"),
    ):
        refuse(tmp_path / name, message, "--allow-unverified")


def test_outputs_that_cannot_be_written(refuse: Refuse, honest: bytes, tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("")
    for out in ("net.pt", "folder.safetensors"):
        refuse(b"anything", "must be a file name that ends in .safetensors", out=out)
    refuse(honest, "file/net.json: cannot write it", out="file/net.safetensors")


def test_a_failing_write_leaves_nothing(refuse: Refuse, honest: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(source, "save_file", full)
    refuse(honest, "out/net.safetensors: cannot write it .No space left")
