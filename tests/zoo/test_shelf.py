"""The solvers that come with the package: their files, their cards, the commands, and how they are made anew."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

import s4s
from s4s.cli.main import main
from s4s.zoo import shelf

TOOL = Path(__file__).parents[2] / "tools" / "zoo.py"
CARD = {
    *("model", "weights_sha256", "process", "prediction", "guidance", "resolution", "sigma"),
    *("fitted by", "s4s", "score", "fid", "textbook_fid", "licence"),
}


@pytest.mark.parametrize("name", shelf.names())
def test_a_bundle_of_the_shelf(name: str) -> None:
    path, found = shelf.HERE / f"{name}.json", shelf.bundle(name)
    assert path.stat().st_size < 10_000
    facts = shelf.card(found)
    judged = "fid_to_teacher" if "fid_to_teacher" in facts else "fid"  # of other kinds of model
    assert {*facts} == CARD | {judged, f"textbook_{judged}"}
    for score in (facts[key] for key in facts if key.endswith(("fid", "to_teacher"))):
        assert {*score} == {str(nfe) for nfe in found}
    assert all(facts[judged][nfe] < facts[f"textbook_{judged}"][nfe] for nfe in facts["fid"])
    assert len(facts["weights_sha256"]) == 64
    for each in found.values():
        assert facts["sigma"] == f"{each.sigma[0]:.6g} to {each.sigma[-1]:.6g}"
        assert each.start[-1].abs() < 3e-3 and each.weight[-1].sum() == pytest.approx(1, abs=0.05)


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> Any:
    try:
        main(["zoo", *arguments])
    except SystemExit as done:
        if done.code:
            return capsys.readouterr().err
    return capsys.readouterr().out


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = run("list", capsys=capsys)
    assert {"digits-s4s", "digits-s4s-alt"} <= {*shelf.names()}
    assert [line.split(":")[0] for line in listed.splitlines()[:-1:2]] == shelf.names()
    shown = run("show", "digits-s4s-alt", capsys=capsys)
    assert "fitted by: s4s run config/digits.yaml" in shown
    assert "s4s-alt(ipndm3): 6 evaluations, sigma 80 to 0.002" in shown
    assert run("save", "digits-s4s", str(tmp_path / "mine.json"), capsys=capsys) == f"{tmp_path / 'mine.json'}\n"
    mine, theirs = s4s.load_bundle(tmp_path / "mine.json"), shelf.bundle("digits-s4s")
    assert mine.to_dict() == theirs.to_dict()
    (tmp_path / "script.py").write_text("mine")
    assert "script.py: " in run("save", "digits-s4s", str(tmp_path / "script.py"), capsys=capsys)
    assert (tmp_path / "script.py").read_text() == "mine"
    said = run("show", "x", capsys=capsys)
    assert said == f"s4s: unknown solver of the zoo 'x'; choose one of: {', '.join(shelf.names())}\n"


def a_run(results: Path) -> None:
    """What the tool reads of a finished run: of each method two fits; the one with the lower loss scored worse."""
    found = [("classical", "ddim", 9.0, ""), ("classical", "heun", 7.0, "")]
    found += [(method, *each) for method in ("s4s", "s4s-alt") for each in (("a", 3.0, 0.2), ("b", 4.0, 0.1))]
    made = {"versions": {"s4s": "1"}, "model": {"weights_sha256": "a", "guidance": 2.0, "classes": {"plan": "uniform"}}}
    kept = dict.fromkeys(("family", "distance", "radius", "seed", "teacher_samples", "source", "schedule"), 0)
    solver, rows = s4s.solver("ddim", s4s.grid("edm", s4s.EDM(), 4)), []
    for folder in ("metrics", "solvers"):
        (results / folder).mkdir(parents=True)
    for method, start, fid, loss in found:
        name = f"{method}_{start}.json"
        rows.append({"method": method, "nfe": 4, "fid": fid, "val_loss": loss, "metrics_file": f"metrics/{name}"})
        record = kept | {"method": method, "start": start, "val_loss": loss, "made_from": {}}
        solver.replace(provenance=record).save(results / "solvers" / name)
        (results / "metrics" / name).write_text(json.dumps({"provenance": made, "fid_label": "FID@5000"}))
    (results / "config.yaml").write_text("process: {type: flow}")
    with (results / "fid.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_they_are_made_anew_from_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the fits the one with the lowest validation loss, whatever its FID."""
    a_run(tmp_path / "digits")
    tool = runpy.run_path(str(TOOL))
    monkeypatch.setitem(tool["pack"].__globals__, "ZOO", tmp_path)
    tool["pack"](tmp_path / "digits")
    bundle = s4s.load_bundle(tmp_path / "digits-s4s-alt.json")
    assert bundle[4].provenance["start"] == "b" and "made_from" not in bundle[4].provenance
    facts = bundle.provenance["card"]
    assert {*facts} == CARD and facts["fid"] == {"4": 4.0} and facts["textbook_fid"] == {"4": 7.0}
    assert facts["model"].endswith("8x8, flow, by class") and facts["prediction"] == "flow" and facts["guidance"] == 2.0
