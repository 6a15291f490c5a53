"""Config files as people save them: encodings, line ends, keys given twice, numbers in other spellings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from s4s.errors import Error
from s4s.stages import cells as asked
from s4s.stages.config import check, digest, load
from s4s.stages.written import read

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "tests" / "tiny" / "config.yaml").read_text()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_unicode_encoding_with_its_mark_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "c.yaml").write_bytes((mark + "# modèle\n" + TEXT).replace("\n", end).encode(encoding))
    assert load(tmp_path / "c.yaml") == check(yaml.safe_load(TEXT))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("# modèle\n".encode("latin-1") + TEXT.encode(), "not UTF-8 text: byte 0xe8 at position 5; save it as UTF-8"),
        (TEXT.encode("utf-16-le"), "not YAML"),
        (TEXT.encode("utf-16")[:-1], "not UTF-16 text"),
        (b"\x89PNG\r\n\x1a\n\x00", "not UTF-8 text"),
        (b"PK\x03\x04\x00\x00", "not YAML"),
        (b"a: 2024-13-45\n", "not YAML: month must be in 1..12"),
        (b"benchmark: &x {a: *x}\n", "nested without end"),
        (b"? {a: 1}\n: 2\n", "not YAML: while constructing a mapping"),
        (b"[" * 4000, "nested without end"),
    ],
)
def test_what_is_no_text_or_no_yaml_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(data)
    with pytest.raises(Error) as caught:
        load(tmp_path / "c.yaml")
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'c.yaml'}: ") and message in line and "\n" not in line
    assert line.count("c.yaml") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT + "nfe: [6]\n", "key 'nfe' stands twice, in lines 5 and 18"),
        (TEXT.replace("steps: 60", "steps: 60, steps: 61"), "key 'steps' stands twice, in lines 2 and 2"),
        (TEXT + '"nfe": [6]\n', "key 'nfe' stands twice"),
        (TEXT.replace("{name: ddim}, {name", "{name: ddim, name: ipndm}, {name"), "key 'name' stands twice"),
        ('{"benchmark": "a", "benchmark": "a"}', "key 'benchmark' stands twice, in lines 1 and 1"),
        (TEXT.replace("n: 200", "n: 0200"), "line 17: YAML reads 0200 as another number"),
        (TEXT.replace("steps: 60", "steps: 3:20"), "line 2: YAML reads 3:20 as another number"),
        ("sample:\n  n: 10\n  seed: 1\n  n: 10\n", "key 'n' stands twice, in lines 2 and 4"),
    ],
)
def test_what_yaml_reads_as_something_else_is_refused_at_any_depth(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(Error, match=message):
        load(tmp_path / "c.yaml")


def test_anchors_may_be_merged_and_overridden(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3}\nc: {<<: *b, y: 4}\n")
    assert read(tmp_path / "c.yaml") == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 3, "y": 4}}


def test_a_config_at_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.yaml").write_text(TEXT)
    assert load("~/c.yaml") == load(tmp_path / "c.yaml")


SPELLED: list[tuple[list[Any], Any, Any]] = [
    (["sample", "n"], 1.0e3, 1000),
    (["sample", "n"], "1e3", 1000),
    (["sample", "n"], "300", 300),
    (["sample", "shard_size"], 50.0, 50),
    (["sample", "keep_images"], "false", False),
    (["nfe"], ["4", 6.0], [4, 6]),
    (["teacher", "nfe"], "8", 8),
    (["teacher", "nfe"], 8.0, 8),
    (["teacher", "train"], "9.6e1", 96),
    (["learned", "rounds"], "2", 2),
    (["learned", "seeds"], ["0", "1"], [0, 1]),
    (["learned", "radius"], "0.5", 0.5),
    (["learned", "radius"], ["0", "1e-1"], [0, 0.1]),
    (["learned", "distance"], {"l2": "1", "l1": "0.5"}, {"l2": 1, "l1": 0.5}),
    (["learned", "methods"], [{"name": "s4s", "order": "3"}], [{"name": "s4s", "order": 3}]),
    (["learned", "starts", 0, "solver", "order"], "3", 3),
    (["classical", "solvers"], [{"name": "dpmpp", "order": "2", "singlestep": "true"}],
     [{"name": "dpmpp", "order": 2, "singlestep": True}]),
    (["process", "sigma_max"], "80", 80),
    (["score"], {"protocol": "digits", "data": "digits", "bootstrap": "50"}, 50),
]  # fmt: skip


def changed(path: list[Any], value: Any) -> Any:
    made = target = copy.deepcopy(yaml.safe_load(TEXT))
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return made


@pytest.mark.parametrize(("path", "value", "meaning"), SPELLED)
def test_numbers_are_numbers_however_they_are_spelled(path: list[Any], value: Any, meaning: Any) -> None:
    """As in a config, where YAML reads 1e3 as text, and in --config, where Snakemake leaves text in lists."""
    found: Any = check(changed(path, value))
    for key in path:
        found = found[key]
    found = found["bootstrap"] if path == ["score"] else found
    assert found == meaning and type(found) is type(meaning) and repr(found) == repr(meaning)
    names = [cell.name for cell in asked.cells(check(changed(path, value)))]
    assert not any(".0" in name for name in names), names


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan", ".inf", "-inf", "1e999"])
@pytest.mark.parametrize(
    "path", [["process", "sigma_max"], ["learned", "radius"], ["learned", "moments"], ["learned", "distance", "l2"],
             ["sample", "n"], ["nfe", 0]])  # fmt: skip
def test_what_is_no_number_is_refused(path: list[Any], value: Any) -> None:
    made = changed(["learned", "distance"], {"l2": 1.0})
    target = made
    for key in path[:-1]:
        target = target[key] if isinstance(target, list) else target.setdefault(key, {})
    target[path[-1]] = value
    where = ".".join(map(str, path)).replace("[", r"\[")
    with pytest.raises(Error, match=where) as caught:
        check(made)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["4.5", "four", "", "0x10", True, [4], {"a": 4}, None])
def test_what_says_something_else_is_left_to_the_schema(value: Any) -> None:
    with pytest.raises(Error, match=r"sample\.n: .*; it takes a whole number|sample\.n: 4.5"):
        check(changed(["sample", "n"], value))


def test_a_word_stays_a_word() -> None:
    """No key of words, such as a layer's number or a path, becomes a number."""
    score = {"protocol": "digits", "data": "digits", "extractor": {"name": "digits", "layer": "64"}}
    assert check(changed(["score"], score))["score"]["extractor"]["layer"] == "64"


def test_other_spellings_have_the_same_hash() -> None:
    one, other = (check(changed(["sample", "n"], n)) for n in (1000, "1.0e+3"))
    assert digest(one) == digest(other)
