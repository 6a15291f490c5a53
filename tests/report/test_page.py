"""The page as a reviewer reads it: from every number to its command, seeds, samples, extractor and reference."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from made_up import Results, fill

from s4s import records, report
from s4s.cli.main import cli
from s4s.files import sha256
from s4s.report.origin import links
from s4s.stages.cells import CODE
from s4s.stages.chain import MAKERS


class Page(HTMLParser):
    """Anchors of a page: what each holds, where links lead, and how often each name is given."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if given.get("id") else []  # type: ignore[list-item]
        self.links += [given["href"]] if given.get("href") else []  # type: ignore[list-item]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, str]:
    results = fill(Results(tmp_path_factory.mktemp("page")))
    chain(results)
    path = results.root / "report.html"
    report.write_report(results.metrics, [], path)
    return results, path.read_text()


def chain(results: Results) -> None:
    """Records of the scores, of their solvers, and of a network that is made of nothing."""
    network = results.root / "models" / "denoiser.safetensors"
    network.parent.mkdir()
    network.write_bytes(b"weights")
    records.Record("train", sha256(network)).write(results.root, "models/denoiser.safetensors")
    for path in results.metrics:
        solver = f"solvers/{path.name}"
        reads = {"models/denoiser.safetensors": sha256(network)}
        records.Record("fit", sha256(results.root / solver), reads=reads).write(results.root, solver)
        made = records.Record(
            "score", sha256(path), reads={solver: sha256(results.root / solver)}, outside={"ref": "a" * 64}
        )
        made.write(results.root, f"metrics/{path.name}")


def block(page: str, cell: str) -> str:
    """What the link of a number opens."""
    return page.partition(f'<details class="origin" id="{cell}">')[2].partition('<details class="origin"')[0]


def test_ten_numbers_at_random_lead_to_all_that_a_reviewer_asks(made: tuple[Results, str]) -> None:
    results, page = made
    numbers = re.findall(r'<t[dh][^>]*><a href="#([^"]+)">(.*?)</a>', page)
    assert len(numbers) > 2 * len(results.metrics) / 3
    for cell, number in random.Random(0).sample(numbers, 10):
        said = block(page, cell)
        assert f"<dt>Command</dt><dd>s4s evaluate --cell {cell}</dd>" in said
        assert "<dt>Commit</dt><dd>0123456789abcdef</dd>" in said and "<dt>Samples</dt><dd>5,000</dd>" in said
        assert "<dt>Seeds</dt><dd>noise 1" in said and "<dt>Extractor</dt><dd>digits, layer 64, SHA-256 abab" in said
        assert "<dt>Reference</dt><dd>1797 images, SHA-256 cdcd" in said
        solver = results.root / "solvers" / f"{cell}.json"
        assert re.search(rf"solvers/{cell}.json</th><td>s4s fit</td><td class=\"hash\">{sha256(solver)}", said)
        assert said.count("models/denoiser.safetensors") == 1 and "not made here" in said
        if "<dt>Other seeds</dt>" not in said and "×" not in number:  # else a mean over seeds stands in the table
            fid = float(re.findall(r"<dt>FID@5000</dt><dd>([\d.]+)", said)[0])
            assert any(abs(float(shown) - fid) < 0.0051 for shown in re.findall(r"\d+\.\d+", number))


def test_anchors_are_there_once_and_nothing_is_requested(made: tuple[Results, str]) -> None:
    results, page = made
    read = Page(page)
    assert len(set(read.ids)) == len(read.ids)
    for link in read.links:
        if link.startswith("#"):
            assert unquote(link[1:]) in read.ids, link
        else:
            assert (results.root / unquote(link)).exists(), link
    assert "http" not in page.replace("http-equiv", "") and not re.search(
        r"<script[^>]|src=\"(?!data:)|fetch\(|import", page
    )


def test_the_box_says_what_all_cells_share_and_what_they_do_not(tmp_path: Path) -> None:
    small = Results(tmp_path)
    small.add("classical", "ipndm3", "edm", 4, 31.1)
    small.add("s4s", "ipndm3", "edm", 4, 12.7, n_samples=100)
    report.write_report(small.metrics, [], tmp_path / "report.html")
    box = (tmp_path / "report.html").read_text().partition('<div class="box">')[2].partition("</div>")[0]
    assert "<dt>Score</dt><dd>FID@5000, lower is better</dd>" in box
    assert "<dt>Samples</dt><dd>2 different ones, see each number</dd>" in box
    assert "<dt>Commit</dt><dd>0123456789abcdef</dd>" in box


def test_a_command_of_many_cells_is_that_of_one(tmp_path: Path) -> None:
    small = Results(tmp_path)
    for nfe in (4, 6):
        provenance = {"command": "s4s evaluate c.yaml classical_ddim_edm_4 classical_ddim_edm_6"}
        small.add("classical", "ddim", "edm", nfe, 31.1, provenance=provenance)
    report.write_report(small.metrics, [], tmp_path / "report.html")
    said = block((tmp_path / "report.html").read_text(), "classical_ddim_edm_6")
    assert "s4s evaluate c.yaml classical_ddim_edm_6 (typed with 1 other cells)" in said
    assert "Nothing says what it was made from" in said


def test_a_link_names_a_command_that_there_is(tmp_path: Path) -> None:
    """Of every stage that leaves a record."""
    (tmp_path / "made").write_text("")
    for stage in sorted({*CODE, *MAKERS.values(), *records.COMMANDS, "config", "table", "figure", "transfer"}):
        records.Record(stage, sha256(tmp_path / "made")).write(tmp_path, "made")
        (link,) = links(tmp_path, "made")
        assert link.command.removeprefix("s4s ") in cli.commands, stage
