"""Files are written whole, once, and with the same bytes every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

import s4s
from s4s.errors import Error
from s4s.files import replacing, sha256, write_tensors


def test_tensors_have_the_same_bytes_every_time(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(3), "a": torch.arange(5), "half": torch.ones(2, 2, dtype=torch.bfloat16)}
    metadata = {"config": '{"name": "\\u00e9\\n"}', "record": '{"x": [1, 2]}', "class": "é", "z": ""}
    path = tmp_path / "x.safetensors"
    found = set()
    for _ in range(20):
        write_tensors(path, tensors, metadata)
        found.add(sha256(path))
    assert len(found) == 1, "the library's own order is random"
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == metadata
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.txt"
    for text, fails in (("first", False), ("second", True), ("third", False)):
        try:
            with replacing(path) as temporary:
                temporary.write_text(text)
                if fails:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            assert path.read_text() == "first"
        assert list(path.parent.iterdir()) == [path], "no temporary file is left"
    assert path.read_text() == "third"
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(Error, match=r"file/x.txt: cannot write it \(Not a directory|File exists\)"),
        replacing(tmp_path / "file" / "x.txt"),
    ):
        pass


@pytest.mark.parametrize(("path", "given"), [
    (None, "None"), (3, "a int"), ("", "''"), (b"", "b''"), ("a\0b", r"'a\\x00b'"),
    (s4s.solver("ddim", [2.0, 1.0]), "a Solver"),
])  # fmt: skip
def test_what_is_no_path_is_one_line(path: Any, given: str) -> None:
    made = s4s.solver("ddim", [2.0, 1.0])
    for call in (made.save, s4s.Bundle({1: made}).save, s4s.load_solver, s4s.load_bundle, s4s.load_curve):
        with pytest.raises(Error, match=f"the path of a file or folder is needed, such as 'solver.json', got {given}$"):
            call(path)


def test_paths_in_bytes(tmp_path: Path) -> None:
    made = s4s.solver("ddim", [2.0, 1.0])
    made.save(bytes(tmp_path / "a.json"))  # type: ignore[arg-type]
    assert torch.equal(s4s.load_solver(bytes(tmp_path / "a.json")).weight, made.weight)  # type: ignore[arg-type]
