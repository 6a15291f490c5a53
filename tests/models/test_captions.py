"""Prompts: the first of a list in file order, under a hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from s4s.errors import Error
from s4s.files import sha256
from s4s.models import captions


def test_captions_are_the_first_in_file_order_and_have_a_hash(tmp_path: Path) -> None:
    data = {"annotations": [{"image_id": 9 - i, "caption": f"caption {i}\n"} for i in range(5)]}
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(data))
    found = captions.prompts(str(path), 3)
    assert found == ["caption 0 ", "caption 1 ", "caption 2 "]
    text = tmp_path / "list.txt"
    text.write_bytes(b"caption 0 \ncaption 1 \ncaption 2 \n")
    assert captions.prompts(str(text), 3) == found
    assert captions.sha256(found) == sha256(text)
    assert captions.facts("x", found)["sha256"] == sha256(text)


def test_the_coco_list_is_fetched_and_checked(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("S4S_CACHE", str(tmp_path))
    with pytest.raises(Error, match=r"coco_captions\.txt: cannot fetch https://.*edabd2a5"):
        captions.prompts("coco", 5, offline=True)
    (tmp_path / "coco_captions.txt").write_text("not it\n")
    with pytest.raises(Error, match="has SHA-256"):
        captions.prompts("coco", 5, offline=True)
    known = captions.CaptionList("https://localhost/list.txt", captions.sha256(["a", "b"]), 2)
    monkeypatch.setattr(captions, "COCO_30K", known)
    (tmp_path / "list.txt").write_text("a\nb\n")
    assert captions.prompts("coco", 2, offline=True) == ["a", "b"]
    assert captions.facts("coco", ["a", "b"])["known_as"]


def test_damaged_caption_files_are_refused(tmp_path: Path) -> None:
    for name, data, message in (
        ("a.json", b"{", "not a COCO caption file"),
        ("b.json", b'{"annotations": [{"caption": 3}]}', "not a COCO caption file"),
        ("c.txt", b"caf\xe9", "not UTF-8"),
        ("d.txt", b"a\n", "holds 1 captions; 2 are asked for"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Error, match=message):
            captions.prompts(str(tmp_path / name), 2)
    with pytest.raises(Error, match="cannot read the prompts"):
        captions.prompts(str(tmp_path / "none.txt"), 1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_files_of_other_programs_hold_the_same_prompts(tmp_path: Path, encoding: str, end: str, last: bool) -> None:
    wanted = ["a cat", "chère Zoé ", "a\tdog\x0b", "a\u2028b"]
    text = end.join(wanted) + end * last
    (tmp_path / "p.txt").write_bytes(text.encode(encoding))
    assert captions.prompts(str(tmp_path / "p.txt"), 4) == wanted
    (tmp_path / "c.json").write_bytes(json.dumps({"annotations": [{"caption": c} for c in wanted]}).encode(encoding))
    assert captions.prompts(str(tmp_path / "c.json"), 4) == wanted


def test_a_published_list_keeps_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4S_CACHE", str(tmp_path))
    (tmp_path / "list.txt").write_bytes(b"a\r\nb\n")
    known = captions.CaptionList("https://localhost/list.txt", sha256(tmp_path / "list.txt"), 2)
    monkeypatch.setattr(captions, "COCO_30K", known)
    found = captions.prompts("coco", 2, offline=True)
    assert captions.facts("coco", found)["known_as"]


def test_an_empty_list_holds_no_prompt(tmp_path: Path) -> None:
    for name in ("e.txt", "e.json"):
        (tmp_path / name).write_text("" if name == "e.txt" else '{"annotations": []}')
        with pytest.raises(Error, match="holds 0 captions; 1 are asked for"):
            captions.prompts(str(tmp_path / name), 1)


def test_a_blank_prompt_among_the_first_n_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\n\na dog\n")
    with pytest.raises(Error, match="caption 2 is blank"):
        captions.prompts(str(tmp_path / "p.txt"), 3)
    assert captions.prompts(str(tmp_path / "p.txt"), 1) == ["a cat"]


def test_the_ending_of_a_name_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "C.JSON").write_text(json.dumps({"annotations": [{"caption": "a cat"}]}))
    assert captions.prompts(str(tmp_path / "C.JSON"), 1) == ["a cat"]


def test_a_fraction_of_a_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    with pytest.raises(Error, match=r"n_prompts = 1\.5 must be a whole number"):
        captions.prompts(str(tmp_path / "p.txt"), 1.5)  # type: ignore[arg-type]
