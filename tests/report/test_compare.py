"""Ours against published, two runs against each other, several runs in one table; on made-up results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from made_up import Results, small_results

from s4s import records
from s4s.cli.main import cli
from s4s.errors import Error
from s4s.report.compare import compare, differing
from s4s.report.data import read_records, scores, to_frame
from s4s.report.merge import merge, protocol_key
from s4s.report.published import differences, free_step_table, published_numbers, published_table


def seeds(root: Path, fids: tuple[float, ...], **changes: Any) -> Results:
    made = Results(root)
    made.add("classical", "ipndm3", "edm", 4, 31.1, fid_std=0.3)
    for seed, fid in enumerate(fids):
        made.add("s4s", "ipndm3", "edm", 4, fid, seed=seed, fid_std=0.1, **changes)
    return made


def test_a_move_is_measured_in_deviations_of_samples_and_of_seeds(tmp_path: Path) -> None:
    a, b = seeds(tmp_path / "a", (10.0, 11.0, 12.0)), seeds(tmp_path / "b", (13.0, 11.0, 15.0))
    made = compare((a.root, a.metrics), (b.root, b.metrics))
    assert (made.same, made.unlike, made.made_by) == (2, (), ())
    first, second = made.moved
    assert (first.cell, first.before, first.after) == ("s4s_ipndm3_edm_4_0", 10.0, 13.0)
    pooled = ((1.0 + 4.0) / 2) ** 0.5  # variances 1 and 4, two degrees of freedom each
    assert first.of_sampling == pytest.approx(3 / 0.1 / 2**0.5)
    assert first.of_seeds == pytest.approx(3 / pooled / 2**0.5)
    assert first.far is False and second.cell == "s4s_ipndm3_edm_4_2", "seeds explain it, and it moved less"
    assert "no record" in first.links[0]


def test_runs_that_differ_in_protocol_or_cells_say_so(tmp_path: Path) -> None:
    a = seeds(tmp_path / "a", (10.0,))
    b = seeds(tmp_path / "b", (10.0, 11.0), n_samples=100)
    for path in b.metrics:
        record = json.loads(path.read_text())
        record["protocol"]["uint8"], record["provenance"]["device"] = "ldm", "cuda: other"
        path.write_text(json.dumps(record))
    done = CliRunner().invoke(cli, ["compare", str(a.root), str(b.root)])
    assert "numbers do not compare: uint8: edm: (x * 127.5 + 128).clip(0, 255), truncated -> ldm" in done.output
    assert "made by: device: cpu -> cuda: other" in done.output
    assert f"not in {a.root}: 1 cells (s4s_ipndm3_edm_4_1)" in done.output
    assert "2 cells are the same to the last bit, 0 moved" in done.output
    done = CliRunner().invoke(cli, ["compare", str(a.root), str(tmp_path)])
    assert "holds no numbers (metrics/*.json); give the folder" in str(done.exception)
    only = Results(tmp_path / "c")
    only.add("s4s", "ddim", "edm", 4, 1.0)
    with pytest.raises(Error, match="no cell in common"):
        compare((a.root, a.metrics), (only.root, only.metrics))


@pytest.mark.parametrize(("old", "new", "said"), [
    ({"radius": 0.0}, {"radius": 0.1}, "radius = 0.0 before, 0.1 after"),
    ({"code": 1}, {"code": 2}, "made by another state of the code"),
    ({"code": 1, "model": {"path": "a.b/c.d"}}, {"code": 2, "model": {"path": "e (1).f"}},
     "path = 'a.b/c.d' before, 'e (1).f' after"),
    ({"distance": "l2"}, {"distance": {"l2": 1.0}}, "distance = 'l2' before, {'l2': 1.0} after"),
    ({}, {"moments": 0.5}, "moments = None before, 0.5 after"),
])  # fmt: skip
def test_values_of_the_config_that_differ_are_said_whole(tmp_path: Path, old: Any, new: Any, said: str) -> None:
    for name, made_from in (("a", old), ("b", new)):
        records.Record("fit", name, made_from).write(tmp_path / name, "solvers/x.json")
    assert differing(tmp_path / "a", tmp_path / "b", "solvers/x.json") == (f"solvers/x.json: {said}",)


def test_merged_tables_never_mix_protocols(tmp_path: Path) -> None:
    mine, theirs = seeds(tmp_path / "a", (10.0, 11.0)), seeds(tmp_path / "b", (10.0, 12.0))
    other = Results(tmp_path / "c", extractor="inception-v3-compat")
    other.add("s4s", "ipndm3", "edm", 4, 2.0)
    written = merge({"mine": mine.metrics, "theirs": theirs.metrics, "other": other.metrics}, tmp_path / "out")
    assert written[0].name == "fid.csv" and len(written) == 1 + 2 * 3
    frame = pd.read_csv(tmp_path / "out" / "fid.csv")
    assert len(frame) == 7 and frame.groupby("protocol")["run"].nunique().to_list().count(2) == 1
    keys = {protocol_key(record) for made in (mine, other) for record in read_records(made.metrics)}
    assert set(frame["protocol"]) == keys
    text = (tmp_path / "out" / "tables" / f"fid-{protocol_key(read_records(mine.metrics)[0])}.md").read_text()
    assert "11.00 ± 1.00 (3)" in text, "10 once, for both have it, 11 and 12"
    assert "s4s\\_ipndm3\\_edm\\_4\\_1: 11 in mine, 12 in theirs." in text and "2.00" not in text
    assert "2 numbers are the same in several runs and count once." in text
    with pytest.raises(Error, match="holds results of its own"):
        merge({"mine": mine.metrics}, theirs.root)


def test_merged_fits_of_other_settings_are_no_seeds_of_each_other(tmp_path: Path) -> None:
    """Another teacher, radius or distance is a row of its own; another noise of the teacher's is not."""
    teacher, plain = {"nfe": 8, "seed": 1}, {"radius": 0.0, "distance": "l2", "code": 1}
    changed: dict[str, dict[str, Any]] = {
        "a": {}, "b": {"teacher": teacher | {"nfe": 4}}, "c": {"radius": 0.1, "code": 2},
        "d": {"teacher": teacher | {"seed": 2}}, "e": {"distance": {"l2": 1.0, "feature": 0.5}}}  # fmt: skip
    runs = {}
    for name, change in changed.items():
        made = seeds(tmp_path / name, (13.0 if name == "d" else 10.0,))
        record = records.Record("fit", "", {"teacher": teacher, **plain, **change, "cell": {"seed": 0}})
        record.write(made.root, f"solvers/{made.metrics[-1].name}")
        runs[name] = made.metrics
    merge(runs, tmp_path / "out")
    frame = pd.read_csv(next((tmp_path / "out" / "tables").glob("*.csv")), keep_default_na=False)
    fits = frame[frame["method"] == "s4s"].set_index("settings")["fid_mean"].to_dict()
    of_l2 = "distance l2, radius {}, teacher.nfe {}".format
    summed = "distance.feature 0.5, distance.l2 1.0, radius 0.0, teacher.nfe 8"
    assert fits == {of_l2(0.0, 8): 11.5, of_l2(0.0, 4): 10.0, of_l2(0.1, 8): 10.0, summed: 10.0}
    assert (frame["method"] == "classical").sum() == 1
    assert set(pd.read_csv(tmp_path / "out" / "fid.csv")["settings"].dropna()) == set(fits)


def test_ours_against_published_says_in_what_the_protocols_differ(tmp_path: Path) -> None:
    ours = Results(tmp_path, benchmark="cifar10", extractor="inception-v3-compat")
    ours.add("s4s-alt", "ipndm3", "edm", 4, 6.4)
    done = CliRunner().invoke(cli, ["compare", str(ours.root)])
    assert "6.40 (+0.05)" in done.output and "protocols differ: 5,000 samples, not 50,000" in done.output
    records = [{**r, "n_samples": 50_000, "protocol": r["protocol"] | {"protocol": "edm"}} for r in
               read_records(ours.metrics)]  # fmt: skip
    assert differences(records) == []
    own = Results(tmp_path / "own", benchmark="ffhq", extractor="digits")
    own.add("s4s", "ipndm3", "edm", 4, 1.0)
    assert differences(read_records(own.metrics))[0] == "features of digits, not Inception"
    done = CliRunner().invoke(cli, ["compare", str(small_results(tmp_path / "d").root)])
    assert "nothing was published for benchmark 'digits'" in str(done.exception)


def test_numbers_with_a_free_first_step_share_no_column(tmp_path: Path) -> None:
    frame = published_numbers("cifar10")
    assert set(frame["first_step_free"]) == {"yes", "no"}
    assert set(frame[frame["first_step_free"] == "yes"]["method"]) == {"adasde"}
    assert {"bezierflow_ipndm", "bezierflow_unipc", "indis", "adasde"} <= set(frame["method"])
    assert ((frame["method"] == "adasde") & (frame["nfe"] == 5) & (frame["fid"] == 4.18)).any()
    ours = Results(tmp_path, benchmark="cifar10", extractor="inception-v3-compat")
    ours.add("s4s-alt", "ipndm3", "edm", 5, 6.4)
    records = read_records(ours.metrics)
    counted, free = published_table(scores(to_frame(records)), records), free_step_table("cifar10")
    assert counted is not None and free is not None
    assert not any(row[0].text == "AdaSDE" for group in counted.groups for row in group)
    assert [cell.text for cell in free.groups[0][0]] == ["AdaSDE", "12.62 (a)", "4.18 (a)", "2.88 (a)", "2.56 (a)"]
    assert free_step_table("digits") is None
