"""``s4s-any`` in the pipeline: one fit for all cells of a curve, its records, its costs, and what configs may ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small
import torch

import s4s
from s4s.curve import NUMBERS
from s4s.errors import Error
from s4s.stages import any_nfe, costs
from s4s.stages.cells import cells, curves
from s4s.stages.fit import fit_cell
from s4s.stages.fit_costs import fit_evaluations
from s4s.stages.plan import job_counts
from s4s.stages.transfer import evaluate_solver
from s4s.stages.verify import report

METHOD = {"name": "s4s-any", "fitted": [4, 5]}
START = {"solver": {"name": "ipndm", "order": 3}, "schedule": "edm"}


def learned(**changes: Any) -> dict[str, Any]:
    return {"methods": [METHOD], "starts": [START]} | changes


def test_one_fit_for_all_cells_of_a_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = small.bench(tmp_path, nfe=[4, 5, 7], learned=learned(), model={"steps": 2})
    small.train(made)
    small.teach(made)
    ((name, members),) = curves(made.config).items()
    assert name == "s4s-any_ipndm3_edm_seed0" and [cell.unseen for cell in members] == [False, False, True]
    for cell in members:
        solver = s4s.load_solver(fit_cell(made, cell))
        monkeypatch.setattr("s4s.stages.fit.fit_curve", None)  # the first cell has fitted it
        file = s4s.load_curve(made.folder.curve(cell))
        assert torch.equal(solver.weight, file.at(cell.nfe).weight) and solver.provenance["curve"] == name
        spent = json.loads(made.folder.fit(cell).read_text())
        assert spent["evaluations"] == file.provenance["evaluations"] and spent["val_loss"] > 0
        assert made.chain.follows(made.folder.solver(cell)) and made.chain.follows(made.folder.curve(cell))
    assert not file.provenance["losses"]["7"]["fitted"] and not made.folder.unfinished(members[0]).exists()
    counted = costs.curve_evaluations(made.config, members)
    spent = file.provenance["evaluations"] + file.provenance["reported"]
    assert counted == pytest.approx(spent, rel=0.25), "but for further trials"
    other = small.bench(tmp_path, nfe=[4, 5, 7], learned=learned(distance="l2"), model={"steps": 2})
    assert not other.chain.follows(made.folder.curve(members[0])), "another distance is another curve"
    fewer = small.bench(tmp_path, nfe=[4, 5], learned=learned(), model={"steps": 2})
    assert not fewer.chain.follows(made.folder.curve(members[0])), "its record has losses of other numbers"


def test_a_polished_cell_goes_on_from_its_curve(tmp_path: Path) -> None:
    made = small.bench(tmp_path, nfe=[4, 5], learned=learned(methods=[METHOD | {"polish": [5]}]), model={"steps": 2})
    small.train(made)
    small.teach(made)
    assert [cell.name for cell in cells(made.config) if cell.fitted] == [
        "s4s-any_ipndm3_edm_nfe4_seed0", "s4s-any_ipndm3_edm_nfe5_seed0", "s4s-any-polished_ipndm3_edm_nfe5_seed0",
    ]  # fmt: skip
    first, _, polished = (cell for cell in cells(made.config) if cell.fitted)
    with pytest.raises(Error, match=r"curves/s4s-any_ipndm3_edm_seed0.json: .* run `s4s fit` first"):
        fit_cell(made, polished)
    fit_cell(made, first)
    solver = s4s.load_solver(fit_cell(made, polished))
    begun = s4s.load_curve(made.folder.curve(polished))
    spent, loss = json.loads(made.folder.fit(polished).read_text()), begun.provenance["losses"]["5"]["val_loss"]
    assert spent["start_loss"] == loss > spent["val_loss"] == solver.provenance["val_loss"]
    assert not torch.equal(solver.weight, begun.at(5).weight) and solver.provenance["curve"] == polished.curve
    assert spent["evaluations"] < begun.provenance["evaluations"] / 2
    counted = fit_evaluations(made.config, polished)
    assert counted == pytest.approx(spent["evaluations"], rel=0.25), "but for further trials, and the report"
    made.folder.curve(polished).write_text("{}")
    assert not made.chain.follows(made.folder.solver(polished)), "another curve is another start"


def test_a_curve_of_another_model_is_polished_on_a_config_s(tmp_path: Path) -> None:
    made = small.bench(tmp_path, nfe=[4], learned=learned(methods=["s4s"]), model={"steps": 2})
    small.train(made)
    small.teach(made)
    curve = s4s.curve(lambda nfe: s4s.solver("ipndm", s4s.grid("edm", made.process, nfe), order=3))
    curve.replace(theta=torch.full_like(curve.theta, 0.05)).save(tmp_path / "curve.json")
    before_path, before = evaluate_solver(made, tmp_path / "curve.json", 4)
    path, after = evaluate_solver(made, tmp_path / "curve.json", 4, polish=True)
    assert after["polish"]["robust"] < after["polish"]["start"] and after["fid"] != before["fid"]
    assert path.name.startswith("curve-nfe4-polished-") and made.chain.follows(path)
    polished = path.parent / "solvers" / path.name
    _, again = evaluate_solver(made, polished)
    assert again["fid"] == after["fid"] and again["solver_provenance"]["fitted"] == [4]
    with pytest.raises(Error, match="holds no curve, which is what --polish goes on from"):
        evaluate_solver(made, polished, polish=True)
    assert report(made.folder.root)[1], "every number there follows"
    other = small.bench(tmp_path, nfe=[4], learned=learned(methods=["s4s"], distance="l1"), model={"steps": 2})
    assert not other.chain.follows(path) and other.chain.follows(before_path)


def test_cells_and_jobs() -> None:
    both = {"methods": ["s4s", "s4s-any"], "starts": [START], "seeds": [0, 1]}
    made = small.bench(nfe=[4, 6], learned=both).config
    assert [cell.name for cell in cells(made) if cell.fitted][:2] == [
        "s4s-any_ipndm3_edm_nfe4_seed0", "s4s-any_ipndm3_edm_nfe4_seed1",
    ]  # fmt: skip
    assert [cell.fitted for cell in cells(made) if cell.fitted] == [(4, 6)] * 4
    assert len(curves(made)) == 2 and job_counts(made)["fit"] == 4 + 2
    both["methods"] = [{"name": "s4s-any", "polish": True}]
    made = small.bench(nfe=[4, 6], learned=both).config
    assert [len(members) for members in curves(made).values()] == [2, 2] and job_counts(made)["fit"] == 2 + 4


def test_the_numbers_are_those_of_the_curve() -> None:
    assert any_nfe.NUMBERS == NUMBERS


@pytest.mark.parametrize(("changes", "message"), [
    ({"nfe": [4, 21], "learned": learned(methods=["s4s-any"])}, "solvers of 3 to 20 evaluations, not of 21"),
    ({"nfe": [4]}, "fitted names 5, which is not in nfe; add it there"),
    ({"learned": learned(methods=[METHOD | {"polish": [6]}])}, "polish names 6, which is not in nfe; add it there"),
    ({"learned": learned(methods=[METHOD | {"polish": False}])}, "learned.methods.0.polish: False is not possible; tr"),
    ({"learned": learned(methods=[{"name": "s4s", "polish": True}])}, "polish is of s4s-any alone; s4s is fitted at"),
    ({"learned": learned(moments=1.0)}, "a curve is fitted by the distance alone; set moments and radius to 0"),
    ({"learned": learned(radius=[0.0, 0.1])}, "a curve is fitted by the distance alone"),
    ({"learned": learned(methods=[METHOD | {"family": "pc"}])}, "a curve has its own family; leave out family"),
    ({"learned": learned(methods=[{"name": "s4s", "fitted": [4]}])}, "fitted is of s4s-any alone; s4s is fitted at"),
    ({"learned": learned(starts=[START | {"solver": {"name": "ipndm", "order": 4}}])}, "an order of at most 3"),
    ({"learned": learned(convert="grid")}, "learned.convert: it has no effect"),
    ({"teacher": {"nfe": "student+1"}}, "a curve imitates one teacher"),
])  # fmt: skip
def test_what_a_config_cannot_ask_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Error, match=message) as caught:
        small.bench(**({"nfe": [4, 5], "learned": learned()} | changes))
    assert "\n" not in str(caught.value)


def test_a_single_fit_of_it_is_refused() -> None:
    grid = s4s.grid("edm", s4s.EDM(), 4)
    denoise = lambda x, sigma: x / (1 + sigma**2)
    teacher = s4s.teacher_set(s4s.solver("ddim", grid), denoise, n=8, shape=(2,), seed=0)
    with pytest.raises(Error, match=r"'s4s-any' is one fit for all numbers of evaluations: call s4s\.fit_curve"):
        s4s.fit(s4s.solver("ddim", grid), denoise, teacher, method="s4s-any")
