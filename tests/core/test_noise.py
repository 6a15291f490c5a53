"""Starting noise with a mean and a scale: in the value, in files, in ``x_T``. And solvers taken on to level 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import TwoPoints

import s4s
from s4s.noise import philox
from s4s.show import describe
from s4s.solver import ARRAYS, solver_from_dict

GRID = [4.0, 2.5, 1.4, 0.9, 0.5]
SOLVER = s4s.solver("unipc", GRID)
MEAN, SCALE = [0.25, -1.0], 4.123456789012345
MOVED = SOLVER.replace(noise=s4s.Start(MEAN, SCALE))
denoise = TwoPoints().denoise


DRAWN = {(0, 0): 0.15929546600623282, (7, 3): -2.3662085691511003, (2**63 - 1, 5): -0.6560799156620869}


@pytest.mark.parametrize(("seed", "index"), DRAWN)
def test_a_seed_and_an_index_are_the_same_noise_for_ever(seed: int, index: int) -> None:
    assert s4s.noise(seed, [index], (2,))[0, 0] == DRAWN[seed, index]


def test_every_seed_and_index_has_noise_of_its_own() -> None:
    words = [0, 1, 2**53, 2**53 + 1, 2**63, 2**63 + 1, 2**63 + 1000, 2**64 - 1]
    drawn = [s4s.noise(seed, words, (2,)) for seed in words]
    assert len(torch.cat(drawn).unique(dim=0)) == len(words) ** 2
    assert torch.equal(s4s.noise(np.uint64(2**63 + 1), np.array(words, dtype=np.uint64), (2,)), drawn[5])


def test_draws_for_other_uses_keep_theirs() -> None:
    assert [philox(7, i, 0x636C6173).integers(1000) for i in range(4)] == [814, 496, 301, 424]
    assert philox(3, 0, counter=[0, 0, 0, 1]).integers(1000) != philox(3, 0).integers(1000)


def test_x_T() -> None:
    normal = s4s.noise(0, range(5), (2,))
    assert torch.equal(SOLVER.x_T(normal), 4.0 * normal)
    torch.testing.assert_close(MOVED.x_T(normal), torch.tensor(MEAN, dtype=torch.float64) + SCALE * normal)
    assert MOVED.x_T(normal.float()).dtype == torch.float32


def test_files_with_a_starting_noise_are_exact_and_of_schema_2(tmp_path: Path) -> None:
    path = tmp_path / "solver.json"
    MOVED.save(path)
    again = s4s.load_solver(path)
    assert json.loads(path.read_text())["version"] == 2
    assert again.noise is not None and again.noise.same(MOVED.noise) and not s4s.Start(0.0, SCALE).same(again.noise)
    assert all(torch.equal(getattr(again, key), getattr(SOLVER, key)) for key in ARRAYS)
    again.save(tmp_path / "again.json")
    assert path.read_bytes() == (tmp_path / "again.json").read_bytes()


def test_files_without_are_as_before(tmp_path: Path) -> None:
    s4s.solver("ddim", [2.0, 1.0]).save(tmp_path / "solver.json")
    assert (
        (tmp_path / "solver.json").read_text()
        == """{
  "schema": "s4s-solver",
  "version": 1,
  "name": "ddim",
  "nfe": 1,
  "sigma": [2.0, 1.0],
  "sigma_eval": [2.0],
  "start": [1.0, 0.5],
  "weight": [
    [0.0],
    [0.5]
  ],
  "provenance": {
    "options": {},
    "solver": "ddim"
  }
}
"""
    )


def test_show_says_it() -> None:
    assert "starting noise: mean -1 to 0.25, scale 4.12346" in describe(MOVED)
    assert "starting noise" not in describe(SOLVER)


@pytest.mark.parametrize(("change", "message"), [
    ({"version": 1}, "'noise' belongs to schema version 2"),
    ({"version": 3}, "'null' belongs to schema version 3"),
    ({"version": 4}, "version 4 is not supported; this s4s reads 1, 2 and 3"),
    ({"noise": {"mean": 0.0}}, "'noise' must be an object with 'mean' and 'scale'"),
    ({"noise": None}, "'noise' must be an object"),
    ({"noise": {"mean": 0.0, "scale": 0.0}}, "scale of the starting noise must be positive"),
    ({"noise": {"mean": float("nan"), "scale": 1.0}}, "mean of the starting noise must be finite"),
    ({"noise": {"mean": "x", "scale": 1.0}}, "mean of the starting noise is not a rectangular array of numbers"),
])  # fmt: skip
def test_bad_files(change: dict[str, Any], message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        solver_from_dict(MOVED.to_dict() | change)


def test_schema_2_needs_the_noise() -> None:
    data = MOVED.to_dict()
    del data["noise"]
    with pytest.raises(s4s.Error, match="2 needs it"):
        solver_from_dict(data)


def test_a_mean_of_another_shape_is_one_line() -> None:
    for shape in ((3,), (2, 3)):
        with pytest.raises(s4s.Error, match=r"\[2\] and \[\], do not fit samples of shape") as caught:
            MOVED.x_T(torch.zeros(1, *shape))
        assert "\n" not in str(caught.value)


# --- finish ---

X_T = torch.tensor([[3.0, -2.0], [0.5, 6.0]], dtype=torch.float64)


@pytest.mark.parametrize("solver", [SOLVER, s4s.solver("heun", GRID), MOVED], ids=lambda solver: solver.name)
def test_finish_with_one_more_evaluation(solver: s4s.Solver) -> None:
    done = solver.finish()
    last = s4s.sample(solver, denoise, X_T)
    torch.testing.assert_close(s4s.sample(done, denoise, X_T), denoise(last, solver.sigma[-1]))
    assert done.nfe == solver.nfe + 1 and done.sigma[-1] == 0 and done.name == f"{solver.name}+finish"
    assert done.noise is solver.noise and done.provenance["finish"] == "one more evaluation"


def test_a_finish_is_guided_as_the_last_evaluation() -> None:
    solver = s4s.solver("dpmpp", GRID, order=2)
    first, then = s4s.split_guidance(solver, 3.0).finish(), s4s.split_guidance(solver.finish(), 3.0)
    for key, array in then.arrays.items():
        torch.testing.assert_close(first.arrays[key], array)


def test_finish_without_an_evaluation_follows_the_line() -> None:
    ddim = s4s.solver("ddim", GRID)
    seen: list[torch.Tensor] = []

    def record(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(denoise(x, sigma))
        return seen[-1]

    done = ddim.finish(evaluate=False)
    torch.testing.assert_close(s4s.sample(done, record, X_T), seen[-1])
    assert done.nfe == ddim.nfe and done.sigma[-1] == 0 and done.provenance["finish"] == "none"


@pytest.mark.parametrize("name", ["ddim", "unipc", "heun", "dpmpp"])
@pytest.mark.parametrize("evaluate", [True, False])
def test_a_finished_solver_is_exact_on_a_constant(name: str, evaluate: bool) -> None:
    done = s4s.solver(name, GRID).finish(evaluate=evaluate)
    x = s4s.sample(done, lambda x, sigma: torch.full_like(x, 0.7), X_T)
    torch.testing.assert_close(x, torch.full_like(x, 0.7))
    again = solver_from_dict(json.loads(json.dumps(done.to_dict())))
    assert torch.equal(again.weight, done.weight)


def test_nothing_to_finish() -> None:
    with pytest.raises(s4s.Error, match=r"ddim ends at level 0 already"):
        s4s.solver("ddim", [1.0, 0.0]).finish()
