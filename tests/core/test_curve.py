"""Curves: exact starts at every number of evaluations, levels that fall, one file, and what reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jacrev

import s4s
from s4s.cli.main import cli
from s4s.curve import NUMBERS, curve_from_dict
from s4s.learn.family import family
from s4s.solver import ARRAYS

PROCESS = s4s.EDM()
STARTS: list[tuple[str, str, dict[str, Any]]] = [
    ("ipndm", "edm", {"order": 3}),
    ("ipndm", "logsnr", {"order": 2}),
    ("ddim", "edm", {}),
    ("deis", "edm", {"order": 3}),
    ("dpmpp", "logsnr", {"order": 3}),
    ("unipc", "edm", {"order": 3}),
    ("unipc", "logsnr", {"order": 2, "variant": "bh1"}),
]


def through(name: str = "ipndm", schedule: str = "edm", **options: Any) -> s4s.Curve:
    return s4s.curve(lambda nfe: s4s.solver(name, s4s.grid(schedule, PROCESS, nfe), **options))


def moved(size: float = 0.5, seed: int = 0) -> s4s.Curve:
    """A curve with random coefficients."""
    start = through()
    draw = torch.Generator().manual_seed(seed)
    theta = size * torch.randn(start.theta.shape, generator=draw, dtype=torch.float64)
    return start.replace(theta=theta, provenance={"model": "digits"})


@pytest.mark.parametrize(("name", "schedule", "options"), STARTS)
def test_starts_exactly_at_the_textbook_solver(name: str, schedule: str, options: dict[str, Any]) -> None:
    made = through(name, schedule, **options)
    assert list(made) == list(range(3, 21))
    for nfe in made:
        target = s4s.solver(name, s4s.grid(schedule, PROCESS, nfe), **options)
        for key in ARRAYS:
            torch.testing.assert_close(getattr(made.at(nfe), key), getattr(target, key), rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 2**31), size=st.sampled_from([0.1, 3.0, 300.0]))
@settings(max_examples=15, deadline=None)
def test_levels_fall_whatever_the_coefficients(seed: int, size: float) -> None:
    made = moved(size, seed)
    for nfe in (3, 7, 20):
        sigma, told = made.arrays(nfe, made.theta)[:2]
        assert sigma.diff().max() < 0 and sigma[0] == 80 and sigma[-1] == 0.002
        half = (sigma[:-1] * sigma[1:]).sqrt()  # in log level, between two nodes
        assert (told[1:] <= half[:-1] * (1 + 1e-9)).all() and (told[1:] >= half[1:] * (1 - 1e-9)).all()


def test_the_functions_by_hand() -> None:
    """Of one coefficient each: what a step, a shift and a weight become."""
    start, base = through(), through().at(5)
    theta = torch.zeros_like(start.theta)
    theta[2, 3, 1] = 1.0  # the weight of the latest output, middle knot, times 3 / nfe
    made = start.replace(theta=theta).at(5)
    assert torch.equal(made.sigma, base.sigma) and torch.equal(made.sigma_eval, base.sigma_eval)
    change = family(made, "lms").theta[:12] - family(base, "lms").theta[:12]  # of steps 0, 1 and 2 on: 1, 2, 3 weights
    expected = torch.zeros(12, dtype=torch.float64)
    expected[3] = 3 / 5  # step 2 of 5 is at place 1/2
    torch.testing.assert_close(change, expected, rtol=0, atol=1e-10)
    theta = torch.zeros_like(start.theta)
    theta[0, 0, 0] = 1.0  # the first step's share of the log range, e times as large as it was against the last's
    steps = [solver.sigma.log().diff() for solver in (base, start.replace(theta=theta).at(5))]
    ratios = [lam / lam[-1] for lam in steps]
    expected = torch.tensor([torch.e, 1.0, 1.0, 1.0, 1.0], dtype=torch.float64)  # step 1 of 5 is beyond the next knot
    torch.testing.assert_close(ratios[1] / ratios[0], expected, rtol=1e-4, atol=0)


def test_differentiable_in_the_coefficients() -> None:
    made = moved()
    assert torch.autograd.gradcheck(lambda theta: made.arrays(4, theta)[3], made.theta.clone().requires_grad_())
    assert jacrev(lambda theta: made.arrays(4, theta)[0])(made.theta.flatten()).shape == (5, made.theta.numel())


def test_one_file_exact_small_and_the_same_bytes(tmp_path: Path) -> None:
    made = moved().replace(noise=s4s.Start([0.5], 79.0))
    made.save(tmp_path / "a.json")
    again = s4s.load_curve(tmp_path / "a.json")
    again.save(tmp_path / "b.json")
    text = (tmp_path / "a.json").read_text()
    assert text == (tmp_path / "b.json").read_text() and len(text) < 12000
    assert json.loads(text)["schema"] == "s4s-solver-curve"
    assert again.noise is not None and again.noise.same(made.noise)
    for nfe in (3, 20):
        assert again[nfe].provenance == {"model": "digits"} and again[nfe].noise is again.noise
        assert all(torch.equal(getattr(again[nfe], key), getattr(made[nfe], key)) for key in ARRAYS)


def test_a_number_s_own_values_move_its_solver_alone() -> None:
    made, theta = through(), moved().theta
    smooth = theta.clone()
    smooth[..., len(made.powers) :] = 0
    alone = smooth.clone()
    alone[..., len(made.powers) + made.own.index(4)] = theta[..., -1]
    assert made.smooth.tolist()[:6] == [0, 1, 2, 3, 4, 7] and len(made.smooth) == 5 * 7 * 5
    for nfe in (3, 4, 5, 7, 20):
        same = torch.equal(made.replace(theta=alone).at(nfe).weight, made.replace(theta=smooth).at(nfe).weight)
        assert same == (nfe != 4), nfe


def test_a_file_without_own_values_is_read(tmp_path: Path) -> None:
    data = through().to_dict()
    data |= {key: [knot[:5] for knot in data[key]] for key in ("step", "shift")}
    data["weight"] = [[knot[:5] for knot in lag] for lag in data["weight"]]
    del data["own"]
    assert curve_from_dict(data).own == () and curve_from_dict(data).at(4).nfe == 4


def test_a_curve_is_read_wherever_a_bundle_is(tmp_path: Path) -> None:
    made = moved()
    made.save(tmp_path / "curve.json")
    found = s4s.load_bundle(tmp_path / "curve.json")
    assert isinstance(found, s4s.Curve) and len(found) == 18 and 20 in found and 2 not in found
    assert found.get(21) is None and torch.equal(found[7].weight, made.at(7).weight)
    assert s4s.Bundle({nfe: found[nfe] for nfe in (4, 6)}).numbers == "4, 6"
    with pytest.raises(s4s.Error, match=r"curve.json: a curve of solvers; take one of them: s4s.load_curve"):
        s4s.load_solver(tmp_path / "curve.json")
    with pytest.raises(s4s.Error, match="'schema' must be 's4s-solver-curve'"):
        s4s.curve(lambda nfe: made.textbook(nfe)).at(3).save(tmp_path / "solver.json")
        s4s.load_curve(tmp_path / "solver.json")


@pytest.mark.parametrize("nfe", [2, 21, 0, -3])
def test_other_numbers_are_one_line(nfe: int) -> None:
    with pytest.raises(s4s.Error, match=f"no solver makes {nfe} evaluations here, a curve has those from 3 to 20"):
        through().at(nfe)


def test_a_whole_number_of_another_kind() -> None:
    assert torch.equal(through()[7.0].weight, through().at(7).weight)  # type: ignore[index]


def test_show_prints_the_functions_and_one_solver(tmp_path: Path) -> None:
    made = moved()
    made.save(tmp_path / "curve.json")
    shown = CliRunner().invoke(cli, ["show", str(tmp_path / "curve.json")]).output.splitlines()
    assert shown[0].startswith("ipndm3-curve: 3 to 20 evaluations; what it adds to ipndm3")
    row = next(line.split() for line in shown if line.split()[:2] == ["shift", "8"])
    expected = made.theta[1] @ torch.tensor([*((3 / 8) ** m for m in (0, 1, 2, 3, 6)), 0, 0], dtype=torch.float64)
    assert [float(value) for value in row[2:]] == pytest.approx(expected.tolist(), abs=1e-4)
    one = CliRunner().invoke(cli, ["show", str(tmp_path / "curve.json"), "--nfe", "6"]).output
    assert one.startswith("ipndm3-curve: 6 evaluations, sigma 80 to 0.002")
    refused = CliRunner().invoke(cli, ["show", str(tmp_path / "curve.json"), "--sigmas"])
    assert "give --nfe, one of: 3 to 20" in str(refused.exception)


@pytest.mark.parametrize(("change", "message"), [
    ({"schema": "x"}, "s4s-solver-curve"),
    ({"version": 2}, "curve schema version 2 is not supported; this s4s reads 1"),
    ({"solver": "euler"}, "unknown solver 'euler'"),
    ({"options": {"order": 9}}, "order of solver 'ipndm'"),
    ({"options": {"order": 3, "x": 1}}, "has no option 'x'"),
    ({"powers": [0.5, 1]}, "'powers' of a curve must be whole numbers"),
    ({"powers": [0]}, "have shape"),
    ({"own": [3, 4.5]}, "'own' of a curve must be whole numbers"),
    ({"own": 3}, "'own' of a curve must be whole numbers"),
    ({"own": [3]}, "of 5 powers and 1 own values each"),
    ({"step": [[0.0] * 6 + [float("nan")]] * 7}, "NaN"),
    ({"step": [[0.0] * 7] * 6}, "the coefficients of a curve"),
    ({"weight": []}, "have shape"),
    ({"weight": [[[0.0] * 7] * 7]}, "looks back on 3 outputs at 20 evaluations, the curve has weights for 1"),
    ({"levels": {"3": [80.0, 9.0, 1.0, 0.1]}}, "a curve has a grid for every number from 3 to 20"),
    ({"levels": {str(nfe): [80.0, 1.0] for nfe in NUMBERS}}, "the grid of 3 evaluations needs 4 levels"),
    ({"levels": {"few": []}}, "a key that is no number of evaluations"),
    ({"provenance": 3}, "'provenance' of a curve must be an object"),
])  # fmt: skip
def test_bad_files(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = moved().to_dict() | change
    with pytest.raises(s4s.Error, match=message):
        curve_from_dict(data)
    (tmp_path / "curve.json").write_text(json.dumps(data))
    with pytest.raises(s4s.Error, match=f"curve.json: .*{message}"):
        s4s.load_bundle(tmp_path / "curve.json")


@pytest.mark.parametrize(("start", "message"), [
    (lambda nfe: s4s.solver("heun", s4s.grid("edm", PROCESS, nfe)), "one a step"),
    (lambda nfe: s4s.solver("ipndm", s4s.grid("edm", PROCESS, nfe), order=4), "order 4 needs a grid of at least 4"),
    (lambda nfe: s4s.solver("ipndm" if nfe > 9 else "ddim", s4s.grid("edm", PROCESS, nfe)), "a curve corrects one"),
    (lambda nfe: s4s.solver("ddim", s4s.grid("edm", PROCESS, 4)), "start\\(3\\) is ddim of 4 evaluations"),
    (lambda nfe: s4s.solver("ddim", s4s.grid("edm", PROCESS, nfe, end_at_zero=True)), "down to one above 0"),
    (lambda nfe: None, "a solver is needed, got a NoneType"),
    (lambda nfe: moved().at(nfe), "a curve needs a textbook solver"),
    (s4s.solver("ddim", s4s.grid("edm", PROCESS, 4)), "a curve starts from a function of the number of evaluations"),
])  # fmt: skip
def test_what_cannot_be_a_curve_is_one_line(start: Any, message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        s4s.curve(start)
