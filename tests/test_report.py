"""Tables, figures and the report page, on made-up results of realistic size and shape."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from s4s import report
from s4s.errors import Error
from s4s.report.anatomy import read_numbers
from s4s.report.data import COLUMNS, read_records, scores, to_frame
from s4s.report.labels import solver_label
from s4s.report.published import published_frame, published_numbers
from s4s.report.render import Cell, Table, escape_tex, markdown, tex
from s4s.report.samples import read_images, samples_file
from s4s.report.table import fid_frame, fid_table, headline, summary_frame, winners

NFES = (4, 6, 8)
SCHEDULES = ("logsnr", "edm", "quadratic")
CLASSICAL = {
    "ddim": (120.0, 55.0, 28.0),
    "dpmpp3": (23.1, 5.9, 4.2),
    "unipc3": (26.0, 7.4, 3.9),
    "ipndm3": (31.1, 5.5, 3.3),
}
LEARNED = {"ld3": (7.0, 2.55, 2.10), "s4s": (12.7, 4.2, 2.6), "s4s-alt": (3.15, 2.14, 2.02)}
STARTS = (("ipndm3", "edm", 1.0), ("dpmpp3", "logsnr", 1.35))
GRID_FACTOR = {"logsnr": 1.0, "edm": 0.97, "quadratic": 1.6}


class Results:
    """A results folder: metrics, solvers and samples of a benchmark."""

    def __init__(self, root: Path, benchmark: str = "digits", extractor: str = "digits") -> None:
        self.root, self.benchmark, self.extractor = root / "results" / benchmark, benchmark, extractor
        self.metrics: list[Path] = []

    def add(self, method: str, solver: str, schedule: str, nfe: int, fid: float, /, **changes: Any) -> Path:
        learned = method not in ("teacher", "classical")
        seed = changes.pop("seed", 0 if learned else None)
        cell = "_".join(map(str, [method, solver, schedule, nfe, *([seed] if learned else [])]))
        order = int(re.sub(r"\D", "", solver) or 1)
        record = {
            "cell": cell,
            "benchmark": self.benchmark,
            "method": method,
            "solver": solver,
            "schedule": schedule,
            "family": "lms" if learned else "",
            "order": order,
            "nfe": nfe,
            "seed": seed,
            "fid": fid,
            "fid_label": "FID@5000",
            "n_samples": 5000,
            "val_loss": fid**0.5 / 300 if learned else None,
            "fit_seconds": 31.25 if learned else None,
            "fit_nfe": 102400 if learned else None,
            "sample_seconds": 4.5,
            "protocol": {
                "uint8": "edm: (x * 127.5 + 128).clip(0, 255), truncated",
                "features": {"extractor": self.extractor, "layer": "64", "weights_sha256": "ab" * 32},
                "reference": {"set": "1797 images", "sha256": "cd" * 32},
                "class_sampling": "uniform",
            },
            "provenance": {
                "git_commit": "0123456789abcdef",
                "git_dirty": False,
                "config_sha256": "ef" * 32,
                "command": f"s4s evaluate --cell {cell}",
                "versions": {"python": "3.11.9", "torch": "2.13.0"},
                "device": "cpu",
                "dtype": "float32",
                "seeds": {"noise": 1, "fit": seed},
            },
        } | changes
        path = self.root / "metrics" / f"{record['cell']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
        self.metrics.append(path)
        return path

    def add_files(self) -> None:
        """Solver and sample files for every cell."""
        digits = _digits()
        for path in self.metrics:
            record = json.loads(path.read_text())
            solver = _solver(record["method"], record["solver"], record["schedule"], record["nfe"])
            (self.root / "solvers").mkdir(exist_ok=True)
            (self.root / "solvers" / path.name).write_text(json.dumps(solver))
            (self.root / "samples").mkdir(exist_ok=True)
            blur = 0.0 if record["method"] == "teacher" else min(60.0, 4 * record["fid"])
            noisy = digits + np.random.default_rng(0).normal(0, blur, digits.shape)
            np.savez(self.root / "samples" / path.with_suffix(".npz").name, images=noisy.clip(0, 255).astype(np.uint8))


def _digits() -> np.ndarray:
    from sklearn.datasets import load_digits

    return load_digits().images[:16] * (255 / 16)


def _solver(method: str, solver: str, schedule: str, nfe: int) -> dict[str, Any]:
    u = np.linspace(0, 1, nfe + 1)
    power = {"logsnr": None, "edm": 7.0, "quadratic": 2.0}.get(schedule, 3.0)
    ends = 20.0, 0.01
    sigma = ends[0] * (ends[1] / ends[0]) ** u if power is None else _between(ends, u, power)
    if method in ("ld3", "s4s-alt"):
        sigma = ends[0] * (ends[1] / ends[0]) ** (u**0.8)
    sigma_eval = sigma[:-1] * (1 + 0.12 * np.cos(np.arange(nfe))) if method in ("ld3", "s4s-alt") else sigma[:-1]
    weight = np.zeros((nfe + 1, nfe))
    for n in range(1, nfe + 1):
        row = (-0.45) ** np.arange(n)[::-1] * (1 if solver.startswith("ipndm") else 0.8)
        if method.startswith("s4s"):
            row = row + 0.1 * np.sin(np.arange(n) + n)
        weight[n, :n] = row / row.sum() * (1 - sigma[n] / sigma[0])
    arrays = {"sigma": sigma, "sigma_eval": sigma_eval, "start": sigma / sigma[0], "weight": weight}
    meta = {"schema": "s4s-solver", "version": 1, "name": method, "provenance": {}}
    return meta | {key: value.tolist() for key, value in arrays.items()}


def _between(ends: tuple[float, float], u: np.ndarray, power: float) -> np.ndarray:
    first, last = (end ** (1 / power) for end in ends)
    return (first + u * (last - first)) ** power


def fill(results: Results) -> Results:
    """Teacher, 4 classical solvers on 3 grids, 3 learned methods from 2 starts (S4S and S4S-Alt with 3 seeds)."""
    results.add("teacher", "dpmpp3", "logsnr", 40, 1.95)
    for i, nfe in enumerate(NFES):
        for solver, fids in CLASSICAL.items():
            for schedule in SCHEDULES:
                own = {("dpmpp3", "logsnr"): 1.0, ("ipndm3", "edm"): 1.0}.get((solver, schedule), GRID_FACTOR[schedule])
                results.add("classical", solver, schedule, nfe, fids[i] * own)
        for solver, schedule, factor in STARTS:
            for method, learned in LEARNED.items():
                for seed in (0,) if method == "ld3" else (0, 1, 2):
                    fid = learned[i] * factor * (1 + 0.02 * (seed - 1) * (method != "ld3"))
                    results.add(method, solver, schedule, nfe, fid, seed=seed)
    results.add_files()
    return results


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


def _write(tmp_path: Path, **changes: Any) -> Results:
    """A small benchmark: a classical solver and an S4S fit."""
    small = Results(tmp_path)
    small.add("classical", "ipndm3", "edm", 4, 31.1)
    small.add("s4s", "ipndm3", "edm", 4, 12.7, **changes)
    return small


def test_fid_csv_has_the_contract_columns_and_full_precision(results: Results, tmp_path: Path) -> None:
    frame = report.collect(results.metrics)
    contract = "benchmark, method, solver, schedule, family, order, nfe, seed, fid, n_samples, val_loss, fit_seconds, "
    assert ", ".join(frame) == contract + "fit_nfe, sample_seconds, metrics_file"
    path = results.root / "fid.csv"
    report.write_fid_csv(frame, path)
    lines = path.read_text().splitlines()
    assert lines[0] == ",".join(COLUMNS) and len(lines) == len(results.metrics) + 1
    assert lines[1].startswith("digits,teacher,dpmpp3,logsnr,,3,40,,1.95,5000,,,,4.5,metrics/teacher")
    back = pd.read_csv(path, dtype={"fid": str})
    assert [float(text) for text in back["fid"]] == list(frame["fid"])
    assert all((path.parent / file).exists() for file in back["metrics_file"])


def test_fid_csv_does_not_depend_on_the_order_of_the_files(results: Results, tmp_path: Path) -> None:
    for name, files in (("a.csv", results.metrics), ("b.csv", results.metrics[::-1])):
        report.write_fid_csv(report.collect(files), results.root / name)
    assert (results.root / "a.csv").read_bytes() == (results.root / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fid": float("nan")}, "'fid' is NaN, needs a finite number"),
        ({"fid": "12"}, "needs a finite number"),
        ({"fid": None}, "'fid' is null"),
        ({"nfe": 4.5}, "'nfe' is 4.5, needs a whole number"),
        ({"seed": True}, "'seed' is true, needs a whole number or null"),
        ({"protocol": []}, "'protocol' is"),
        ({"method": "magic"}, "unknown method 'magic'; choose one of: bns, classical"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Error, match=re.escape(message)):
        report.collect(_write(tmp_path, **changes).metrics)


def test_damaged_metrics_files_are_named(tmp_path: Path) -> None:
    small = _write(tmp_path)
    whole = small.metrics[1].read_text()
    for text, message in ((whole[:100], "truncated"), ("[]", "one JSON object"), ('{"cell": "a"}', "lacks benchmark")):
        small.metrics[1].write_text(text)
        with pytest.raises(Error, match=f"{small.metrics[1].name}.*{message}"):
            report.collect(small.metrics)
    with pytest.raises(Error, match="cannot read the metrics file"):
        report.collect([tmp_path / "missing.json"])
    with pytest.raises(Error, match="no metrics files"):
        report.collect([])


def test_duplicates_mixed_benchmarks_and_misnamed_files_are_errors(tmp_path: Path) -> None:
    small = _write(tmp_path)
    with pytest.raises(Error, match="same row, NFE and seed"):
        report.collect([*small.metrics, small.add("s4s", "ipndm3", "edm", 4, 12.6, cell="other")])
    other = Results(tmp_path, benchmark="cifar10").add("s4s", "ipndm3", "edm", 4, 1.0)
    with pytest.raises(Error, match="several benchmarks in one report: cifar10, digits"):
        report.collect([small.metrics[0], other])
    moved = small.metrics[0].rename(small.metrics[0].with_name("moved.json"))
    with pytest.raises(Error, match="its name must be classical_ipndm3_edm_4"):
        report.collect([moved])


def test_mean_and_deviation_over_fit_seeds(results: Results) -> None:
    found = scores(report.collect(results.metrics))
    score = next(s for s in found if (s.method, s.solver, s.nfe) == ("s4s-alt", "ipndm3", 4))
    assert score.fid == pytest.approx(3.15)
    assert score.std == pytest.approx(0.02 * 3.15)
    assert len(score.cells) == 3 and score.cells[0].endswith("_0")
    assert next(s for s in found if s.method == "classical").std is None


def test_best_is_bold_and_best_classical_underlined_per_column(results: Results) -> None:
    frame = fid_frame(scores(report.collect(results.metrics)))
    best = frame[frame["best"]]
    assert list(zip(best["nfe"], best["method"], best["solver"], strict=True)) == [
        (nfe, "s4s-alt", "ipndm3") for nfe in NFES
    ]
    classical = frame[frame["best_classical"]]
    assert set(classical["method"]) == {"classical"} and set(classical["nfe"]) == set(NFES)
    assert not frame[frame["method"] == "teacher"][["best", "best_classical"]].to_numpy().any()


def test_fid_table_reads_as_in_the_paper(results: Results) -> None:
    records = read_records(results.metrics)
    table = fid_table(scores(to_frame(records)), records)
    assert [group[0][0].text for group in table.groups] == ["Teacher", "Classical", "LD3", "S4S", "S4S-Alt"]
    text = markdown(table)
    assert "| S4S-Alt | iPNDM 3 | EDM | **3.15 ± 0.06 (3)** |" in text
    assert "FID@5000 on 5,000 samples" in text and "not comparable to Inception FID" in text
    latex = tex(table)
    assert r"\textbf{3.15 $\pm$ 0.06 (3)}" in latex and r"\underline{22.41}" in latex
    assert latex.count(r"\midrule") == 5 and r"\toprule" in latex and r"\bottomrule" in latex


def test_summary_compares_with_the_start_the_best_classical_and_the_teacher(results: Results) -> None:
    found = scores(report.collect(results.metrics))
    first = winners(found)[0]
    assert first.classical and first.classical.start == ("dpmpp3", "edm")
    assert first.start and first.start.fid == 31.1
    line = summary_frame(found).iloc[0]
    assert line["ratio S4S-Alt / start"] == pytest.approx(3.15 / 31.1)
    assert line["ratio S4S-Alt / best classical"] == pytest.approx(3.15 / (23.1 * 0.97))
    assert line["ratio S4S-Alt / teacher"] == pytest.approx(3.15 / 1.95)
    assert headline(found).startswith(
        "At 4 NFE S4S-Alt reaches FID 3.15, 0.14× that of the best classical solver (22.41)"
    )


def test_rows_with_several_families_say_which(tmp_path: Path) -> None:
    small = _write(tmp_path)
    small.add("s4s", "ipndm3", "edm", 4, 11.0, family="pc", cell="pc")
    records = read_records(small.metrics)
    names = [row[0].text for group in fid_table(scores(to_frame(records)), records).groups for row in group]
    assert names == ["Classical", "S4S (LMS)", "S4S (PC)"]


def test_only_classical_results_still_make_tables(tmp_path: Path) -> None:
    small = Results(tmp_path)
    small.add("classical", "ddim", "edm", 4, 82.0)
    assert len(report.write_tables(small.metrics, tmp_path / "tables")) == 6
    assert headline(scores(report.collect(small.metrics))) == "Lowest FID: 82.00 at 4 NFE (Classical, DDIM, EDM)."
    with pytest.raises(Error, match="nothing was learned"):
        report.choose(small.metrics)


def test_published_numbers_stand_beside_ours_with_their_source(tmp_path: Path) -> None:
    ours = Results(tmp_path, benchmark="cifar10", extractor="inception-v3-compat")
    ours.add("teacher", "unipc3", "logsnr", 20, 2.1)
    ours.add("classical", "ipndm3", "edm", 4, 36.0)
    ours.add("classical", "ipndm3", "logsnr", 4, 34.0)
    ours.add("classical", "ipndm3", "gits", 4, 15.0)
    ours.add("s4s-alt", "ipndm3", "edm", 4, 6.4)
    records = read_records(ours.metrics)
    frame = published_frame(scores(to_frame(records)), records).set_index(["method", "nfe"])
    assert frame.loc[("ipndm_3m", 4), "ours"] == 34.0  # the plain grids only, and the better of them
    assert frame.loc[("ipndm+gits", 4), "ours"] == 15.0
    assert frame.loc[("s4s_alt", 4), "published"] == 6.35
    assert frame.loc[("teacher", 20), "ours"] == 2.1
    written = report.write_tables(ours.metrics, tmp_path / "tables")
    text = (tmp_path / "tables" / "published.md").read_text()
    assert tmp_path / "tables" / "published.md" in written
    assert re.search(r"\| S4S-Alt \| 6.40 \| 6.35 \([a-z]\) \|", text) and "arXiv:2510.17699 Table 2" in text
    assert "FID on fewer samples is biased upwards" in text and "not comparable" not in text


def test_benchmarks_without_published_numbers_get_no_such_table(results: Results, tmp_path: Path) -> None:
    written = report.write_tables(results.metrics, tmp_path)
    assert [path.name for path in written] == [f"{n}.{s}" for n in ("fid", "summary") for s in ("csv", "md", "tex")]
    assert len(published_numbers("ms-coco")) == 0 and len(published_numbers("lsun-bedroom")) > 0


def test_tex_is_escaped() -> None:
    assert escape_tex(r"50% of A_1 & {x} \ ~ ± #$^") == (
        r"50\% of A\_1 \& \{x\} \textbackslash{} \textasciitilde{} $\pm$ \#\$\textasciicircum{}"
    )
    table = Table("A & B", ("a_b", "%"), (((Cell("x_1"), Cell("3 ± 1", remark="50%", bold=True)),),))
    text = tex(table)
    assert r"\caption{A \& B}" in text and r"a\_b & \%" in text
    assert r"x\_1 & \textbf{3 $\pm$ 1} {\footnotesize (50\%)} \\" in text


def test_solver_labels() -> None:
    assert [solver_label(name) for name in ("ddim", "dpmpp3", "unipc-2", "deis3-tab", "mine")] == [
        "DDIM",
        "DPM-Solver++ 3",
        "UniPC 2",
        "DEIS 3 tab",
        "mine",
    ]


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
    small = _write(tmp_path)
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


def test_damaged_inputs_of_figures_are_named(tmp_path: Path) -> None:
    small = _write(tmp_path, val_loss=None)
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
    assert "<script" not in page and "@import" not in page and "url(" not in page
    references = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sum(reference.startswith("data:image/png;base64,") for reference in references) == len(pngs)
    for reference in references:
        assert reference.startswith("data:") or (path.parent / reference).is_file(), reference[:80]
    assert headline(scores(report.collect(results.metrics))) in page
    assert "not comparable to Inception FID" in page and "ab" * 32 in page and "0123456789abcdef" in page
    assert str(results.root) not in page
    report.write_report(results.metrics[::-1], pngs, results.root / "again.html", links=tables)
    assert (results.root / "again.html").read_text() == page


def test_report_warns_of_what_makes_cells_incomparable(tmp_path: Path) -> None:
    small = _write(
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
    small = _write(tmp_path, schedule="<script>alert(1)</script>", cell="odd")
    report.write_report(small.metrics, [], tmp_path / "report.html")
    assert "<script" not in (tmp_path / "report.html").read_text()
    (tmp_path / "fid.png").write_bytes(b"not a png")
    with pytest.raises(Error, match="not a PNG figure"):
        report.write_report(small.metrics, [tmp_path / "fid.png"], tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_reporting_does_not_import_torch() -> None:
    code = "import sys, s4s.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
