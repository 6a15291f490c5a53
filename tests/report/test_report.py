"""Figures and the report page, on made-up results."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import Results, fill, small_results
from matplotlib.colors import to_rgb

from s4s import report
from s4s.errors import Error
from s4s.report.anatomy import read_numbers
from s4s.report.data import scores
from s4s.report.labels import METHODS
from s4s.report.samples import read_images, samples_file
from s4s.report.style import METHOD_COLOR, method_colors
from s4s.report.table import headline


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return fill(Results(tmp_path_factory.mktemp("report")))


@pytest.fixture(scope="module")
def figures(results: Results) -> list[Path]:
    """Every figure, as the command line draws them."""
    folder = results.root / "figures"
    choice = report.choose(results.metrics)
    written = report.draw_fid(results.metrics, folder / "fid")
    written += report.draw_solvers(choice, results.root / "solvers", folder / f"solvers-nfe{choice.nfe}")
    written += report.draw_samples(choice, results.root / "samples", folder / f"samples-nfe{choice.nfe}")
    return written + report.draw_loss(results.metrics, folder / "loss")


def test_choice_takes_one_start_and_the_first_seed(results: Results) -> None:
    choice = report.choose(results.metrics)
    assert (choice.nfe, choice.start) == (4, ("ipndm3", "edm"))
    assert list(choice.cells) == ["teacher", "classical", "ld3", "s4s", "s4s-alt"]
    assert choice.cells["s4s-alt"]["seed"] == 0 and sorted(choice.grids) == ["edm", "logsnr", "quadratic"]
    other = report.choose(results.metrics, nfe=8, start=("dpmpp3", "logsnr"))
    assert (
        other.cells["s4s"]["cell"] == "s4s_dpmpp3_logsnr_8_0" and other.label("classical") == "DPM-Solver++ 3, logSNR"
    )
    with pytest.raises(Error, match="nothing was learned at NFE 8 from ddim/edm"):
        report.choose(results.metrics, nfe=8, start=("ddim", "edm"))


def test_figures_are_png_and_pdf_with_the_same_bytes_every_time(results: Results, figures: list[Path]) -> None:
    assert {path.suffix for path in figures} == {".png", ".pdf"} and len(figures) == 8
    again = results.root / "again"
    choice = report.choose(results.metrics)
    report.draw_fid(results.metrics, again / "fid")
    report.draw_solvers(choice, results.root / "solvers", again / "solvers-nfe4")
    report.draw_samples(choice, results.root / "samples", again / "samples-nfe4")
    for path in again.iterdir():
        assert path.read_bytes() == (results.root / "figures" / path.name).read_bytes(), path.name
    for path in figures:
        assert not re.search(rb"CreationDate|Matplotlib|20\d\d-\d\d-\d\d", path.read_bytes()), path.name


def test_figures_survive_unusual_results(tmp_path: Path) -> None:
    """A teacher that follows the student, a last level of 0, one NFE only, colour images."""
    small = small_results(tmp_path)
    small.add("teacher", "ipndm2", "gits", 5, 3.0)
    small.add("teacher", "ipndm2", "gits", 6, 2.5)
    small.add_files()
    choice = report.choose(small.metrics)
    assert choice.cells["teacher"]["nfe"] == 5
    for record in choice.cells.values():
        path = small.root / "solvers" / f"{record['cell']}.json"
        data = json.loads(path.read_text())
        data["sigma"][-1] = 0
        path.write_text(json.dumps(data))
        images = np.zeros((3, 8, 8, 3), np.uint8)
        np.savez(small.root / "samples" / f"{record['cell']}.npz", images=images)
    report.draw_fid(small.metrics, tmp_path / "fid")
    report.draw_solvers(choice, small.root / "solvers", tmp_path / "solvers")
    report.draw_samples(choice, small.root / "samples", tmp_path / "samples")
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize("draw", [report.draw_fid, report.draw_imitation, report.draw_gains])
@pytest.mark.parametrize("nfes", [(4,), (4, 6)])
def test_a_legend_tells_apart_what_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draw: Callable[..., Any], nfes: tuple[int, ...]
) -> None:
    """Variations by their dashes; at one NFE, where there are no lines, they are left to their own figure."""
    made = Results(tmp_path)
    for nfe in nfes:
        near: dict[str, Any] = {"fid_to_teacher": 1.0, "distance_to_teacher": 1.0}
        made.add("classical", "ipndm3", "edm", nfe, 30.0, **near)
        made.add("s4s", "ipndm3", "edm", nfe, 10.0, **near)
        made.add("s4s", "ipndm3", "edm", nfe, 9.0, settings={"train": 100}, cell=f"s4s-train100_{nfe}", **near)
    monkeypatch.setattr("s4s.report.curves.save", lambda figure, stem: figure)
    figure = draw(made.metrics, tmp_path / "figure")
    drawn = [line for line in figure.axes[0].lines if line.get_color() == METHOD_COLOR["s4s"]]
    said = [text.get_text() for text in figure.legends[0].get_texts() if text.get_text().startswith("S4S")]
    dashes = {line.get_linestyle() for line in drawn} - {"None"}  # caps of error bars
    assert said == ["S4S", "S4S (train 100)"][: len(nfes)] and len(dashes) == len(said)


def test_every_method_has_a_colour_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five of one's own beside all that are built in; in the figure of radii too."""
    own = [f"own{i}" for i in range(5)]
    colors = method_colors([*METHODS, *own])
    assert len(set(colors.values())) == len(colors) == len(METHODS) + 5
    for color in set(colors.values()):
        light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
        assert 1.05 / (np.dot(light, [0.2126, 0.7152, 0.0722]) + 0.05) > 1.9, f"{color} is too pale on white"
    made = Results(tmp_path)
    for method in own:
        file = {"file": f"methods/{method}.py", "sha256": "0" * 64}
        made.add(method, "ipndm3", "edm", 4, 9.0, radius=0.1, method_file=file)
    monkeypatch.setattr("s4s.report.radius.save", lambda figure, stem: figure)
    figure: Any = report.draw_radius(made.metrics, tmp_path / "radius")
    drawn = {text.get_text(): line.get_color() for text, line in
             zip(figure.legends[0].get_texts(), figure.legends[0].get_lines(), strict=True)}  # fmt: skip
    assert {drawn[method] for method in own} == {colors[method] for method in own}


def test_damaged_inputs_of_figures_are_named(tmp_path: Path) -> None:
    small = small_results(tmp_path, val_loss=None)
    small.add_files()
    choice = report.choose(small.metrics)
    with pytest.raises(Error, match="no cell has a validation loss"):
        report.draw_loss(small.metrics, tmp_path / "loss")
    path = small.root / "samples" / "s4s_ipndm3_edm_4_0.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Error, match=r"s4s_ipndm3_edm_4_0\.npz"):
        report.draw_samples(choice, small.root / "samples", tmp_path / "samples")
    np.savez(path, images=np.zeros((2, 9, 9), np.uint8))
    with pytest.raises(Error, match="different shapes"):
        report.draw_samples(choice, small.root / "samples", tmp_path / "samples")
    np.savez(path, images=np.zeros((2, 8, 8)))
    with pytest.raises(Error, match=r"float64 \[2, 8, 8\], needs uint8"):
        report.draw_samples(choice, small.root / "samples", tmp_path / "samples")
    solver = tmp_path / "solver.json"
    for text in ("{", "{}", '{"sigma": [1, 0], "sigma_eval": [1, 2], "weight": [[0]]}'):
        solver.write_text(text)
        with pytest.raises(Error, match=r"solver\.json"):
            read_numbers(solver)
    assert not list(tmp_path.glob("*.png"))


def test_samples_are_found_in_shards_and_channel_first(tmp_path: Path) -> None:
    images = np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8)
    np.savez(tmp_path / "single.npz", images=images)
    for i, shard in enumerate(("000000-000002", "000002-000004")):
        (tmp_path / "sharded").mkdir(exist_ok=True)
        np.savez(tmp_path / "sharded" / f"{shard}.npz", images=images[:, None] + i)
    (tmp_path / "sharded" / ".000000-000002.left.npz").write_bytes(b"half a fi")
    assert (read_images(samples_file(tmp_path, "single")) == images).all()
    assert (read_images(samples_file(tmp_path, "sharded"))[..., 0] == images).all()
    with pytest.raises(Error, match=r"absent\.npz: cannot read the samples"):
        read_images(samples_file(tmp_path, "absent"))


def test_report_is_one_self_contained_page(results: Results, figures: list[Path]) -> None:
    path = results.root / "report.html"
    pngs = [figure for figure in figures if figure.suffix == ".png"]
    tables = report.write_tables(results.metrics, results.root / "tables")
    report.write_report(results.metrics, pngs, path, links=tables)
    page = path.read_text()
    assert page.count("<script") == 1 and "@import" not in page and "url(" not in page
    references = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sum(reference.startswith("data:image/png;base64,") for reference in references) == len(pngs)
    for reference in references:
        if not reference.startswith(("data:", "#")):
            assert (path.parent / reference).is_file(), reference[:80]
    assert headline(scores(report.collect(results.metrics))) in page
    assert "not comparable to Inception FID" in page and "ab" * 32 in page and "0123456789abcdef" in page
    assert str(results.root) not in page
    report.write_report(results.metrics[::-1], pngs, results.root / "again.html", links=tables)
    assert (results.root / "again.html").read_text() == page


def test_report_warns_of_what_makes_cells_incomparable(tmp_path: Path) -> None:
    small = small_results(
        tmp_path, n_samples=1000, protocol={"uint8": "ldm"}, provenance={"git_commit": "x", "git_dirty": True}
    )
    report.write_report(small.metrics, [], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for words in (
        "different numbers of samples",
        "&#39;uint8&#39; differs",
        "2 different commits",
        "uncommitted changes",
    ):
        assert words in page


def test_report_escapes_names_and_refuses_broken_figures(tmp_path: Path) -> None:
    small = small_results(tmp_path, schedule="<script>alert(1)</script>", cell="odd")
    report.write_report(small.metrics, [], tmp_path / "report.html")
    assert "<script>alert" not in (tmp_path / "report.html").read_text()
    (tmp_path / "fid.png").write_bytes(b"not a png")
    with pytest.raises(Error, match="not a PNG figure"):
        report.write_report(small.metrics, [tmp_path / "fid.png"], tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_reporting_does_not_import_torch() -> None:
    code = "import sys, s4s.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
