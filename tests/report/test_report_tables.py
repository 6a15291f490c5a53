"""fid.csv and the tables, on made-up results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import NFES, Results, fill, small_results
from matplotlib.figure import Figure

from s4s import report
from s4s.errors import Error
from s4s.report.curves import _teacher as draw_teacher
from s4s.report.data import COLUMNS, read_records, scores, to_frame
from s4s.report.labels import solver_label
from s4s.report.published import published_frame, published_numbers
from s4s.report.render import Cell, Table, escape_tex, markdown, tex
from s4s.report.style import drawing
from s4s.report.table import fid_frame, fid_table, headline, summary_frame, summary_table, winners


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return fill(Results(tmp_path_factory.mktemp("report")))


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
        report.collect(small_results(tmp_path, **changes).metrics)


def test_damaged_metrics_files_are_named(tmp_path: Path) -> None:
    small = small_results(tmp_path)
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
    small = small_results(tmp_path)
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


@pytest.mark.parametrize(
    ("teachers", "own", "expected"),
    [
        ((40, 5, 20), (5, 20), {4: 40, 6: 40}),  # entries with one evaluation more, and more samples by chance
        ((8, 5, 7), (5, 7), {4: 8, 6: 8}),
        ((8, 40), (40,), {4: 8, 6: 8}),
        ((5, 7), (), {4: 5, 6: 7}),  # student+1
        ((5, 7, 40), (40,), {4: 5, 6: 7}),
        ((5, 7), (7,), {4: 5, 6: 7}),
        ((40,), (), {4: 40, 6: 40}),
        ((), (), {4: None, 6: None}),
    ],
)
def test_the_teacher_is_the_benchmarks_own(
    tmp_path: Path, teachers: tuple[int, ...], own: tuple[int, ...], expected: dict[int, int | None]
) -> None:
    """Not one that a method's entry asks for, even one of lower FID: in tables, the headline and the figure."""
    made = Results(tmp_path)
    for nfe in teachers:
        made.add("teacher", "dpmpp3", "logsnr", nfe, 1.0 if nfe in own else 2.0 + nfe / 100)
    for nfe in (4, 6):
        made.add("classical", "ipndm3", "edm", nfe, 30.0)
        made.add("s4s", "ipndm3", "edm", nfe, 10.0)
        for asked in own:
            more: dict[str, Any] = {"settings": {"teacher_nfe": asked}, "cell": f"s4s-teacher{asked}_{nfe}"}
            made.add("s4s", "ipndm3", "edm", nfe, 9.0, **more)
    found = scores(report.collect(made.metrics))
    assert {winner.nfe: winner.teacher and winner.teacher.nfe for winner in winners(found)} == expected
    assert headline(found).endswith(f"at {expected[4]} NFE." if expected[4] else "(30.00).")
    fids = {nfe: next(s.fid for s in found if (s.method, s.nfe) == ("teacher", nfe)) for nfe in teachers}
    ratios = {nfe: (9.0 if own else 10.0) / fids[of] for nfe, of in expected.items() if of}
    frame = summary_frame(found).set_index("nfe")["ratio S4S / teacher"].dropna()
    assert frame.to_dict() == pytest.approx(ratios)
    with drawing():
        axes = Figure().add_subplot()
        draw_teacher(axes, found, "nfe")
    drawn = {fid for line in axes.lines for fid in np.ravel(line.get_ydata())}
    assert drawn == {fids[nfe] for nfe in expected.values() if nfe}


def test_rows_with_several_families_say_which(tmp_path: Path) -> None:
    small = small_results(tmp_path)
    small.add("s4s", "ipndm3", "edm", 4, 11.0, family="pc", cell="pc")
    records = read_records(small.metrics)
    names = [row[0].text for group in fid_table(scores(to_frame(records)), records).groups for row in group]
    assert names == ["Classical", "S4S (LMS)", "S4S (PC)"]
    best = {cell.text: cell.remark for cell in summary_table(scores(to_frame(records)), records).groups[0][0]}
    assert best["11.00"] == "PC; iPNDM 3, EDM"
    choice = report.choose(small.metrics)
    assert choice.label("s4s") == "S4S (LMS)" and choice.label("classical") == "iPNDM 3, EDM"


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
    assert re.search(r"\| S4S-Alt \| 6.40 \(\+0.05\) \| 6.35 \([a-z]\) \|", text) and "arXiv:2510.17699 Table 2" in text
    assert "FID on fewer samples is biased upwards" in text and "not comparable" not in text


def test_benchmarks_without_published_numbers_get_no_such_table(results: Results, tmp_path: Path) -> None:
    written = report.write_tables(results.metrics, tmp_path)
    assert [path.name for path in written] == [
        f"{n}.{s}" for n in ("fid", "summary", "gains", "claims") for s in ("csv", "md", "tex")
    ]
    assert len(published_numbers("ms-coco")) == 0 and len(published_numbers("lsun-bedroom")) > 0


def test_gains_set_each_learned_solver_beside_its_start(tmp_path: Path) -> None:
    small = Results(tmp_path)
    small.add("classical", "ipndm3", "edm", 4, 30.0)
    small.add("classical", "ipndm3", "logsnr", 4, 3.0)
    for seed, fid in enumerate((9.0, 11.0)):
        small.add("s4s", "ipndm3", "edm", 4, fid, seed=seed)
    small.add("s4s", "ipndm3", "logsnr", 4, 5.0)
    small.add("s4s", "unipc3", "edm", 4, 5.0)  # whose start was not scored
    report.write_tables(small.metrics, tmp_path / "tables")
    text = (tmp_path / "tables" / "gains.md").read_text()
    assert "| S4S | iPNDM 3 | EDM | **30.00 → 10.00** |" in text and "| logSNR | 3.00 → 5.00 |" in text
    assert "S4S is below its start in 1 of 2 cells." in text and "UniPC" not in text
    frame = pd.read_csv(tmp_path / "tables" / "gains.csv")
    assert list(frame["ratio"]) == [10 / 30, 5 / 3] and list(frame["start_fid"]) == [30.0, 3.0]


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


def test_a_number_that_a_curve_is_not_fitted_on_is_marked(tmp_path: Path) -> None:
    made = Results(tmp_path)
    for nfe, fid, more in ((4, 5.0, {}), (5, 3.2, {"unseen": 1}), (6, 2.1, {})):
        made.add("s4s-any", "ipndm3", "edm", nfe, fid, **more)
    records = read_records(made.metrics)
    frame = to_frame(records)
    assert list(frame)[-1] == "unseen" and [score.unseen for score in scores(frame)] == [False, True, False]
    text = markdown(fid_table(scores(frame), records))
    assert "| S4S-any | iPNDM 3 | EDM | **5.00** | **3.20\\***" in text
    assert "\\*: a number of evaluations that the curve is not fitted on." in text
    open_marks = [path.read_bytes() for path in report.draw_fid(made.metrics, tmp_path / "open")]
    made.add("s4s-any", "ipndm3", "edm", 5, 3.2)
    made.metrics.pop()  # the same file, now without the mark
    assert [path.read_bytes() for path in report.draw_fid(made.metrics, tmp_path / "filled")] != open_marks
