"""Guidance of a solver's own: two columns, the families that learn them, calls that are left out."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import s4s
from s4s.errors import Error, Notice
from s4s.guidance import guided, merge_guidance, split_guidance
from s4s.learn.distances import distance
from s4s.learn.family import family
from s4s.learn.frozen import Frozen
from s4s.learn.moments import gap
from s4s.learn.objective import Objective, Tried
from s4s.learn.robust import robust_mean
from s4s.learn.skip import budget, fewer_calls, without
from s4s.solver import Denoise, ask, in_order, solver_from_dict

PROCESS = s4s.EDM()
SCALE = 3.0


def with_(x: Tensor, sigma: Tensor) -> Tensor:
    """Data around (1, -1), with a deviation of 0.5."""
    s = sigma.reshape(-1, 1) if sigma.ndim else sigma
    centre = torch.tensor([1.0, -1.0], dtype=x.dtype)
    return centre + (x - centre) * 0.25 / (0.25 + s**2)


def none(x: Tensor, sigma: Tensor) -> Tensor:
    """Data around 0, with a deviation of 1, bent so that no linear solver is exact."""
    s = sigma.reshape(-1, 1) if sigma.ndim else sigma
    return torch.tanh(x / (1 + s**2))


DENOISE = guided(with_, none, SCALE)
x_T = 80 * s4s.noise(0, range(8), (2,))
STARTS = [("ipndm", {"order": 3}), ("dpmpp", {"order": 3}), ("unipc", {"order": 2}), ("ddim", {})]


def start(name: str = "ipndm", nfe: int = 5, **options: object) -> s4s.Solver:
    return s4s.solver(name, s4s.grid("edm", PROCESS, nfe=nfe), **options)


def test_a_constant_scale_is_one_of_them() -> None:
    """Split at the denoiser's scale, a solver gives the same samples, and back again the same numbers."""
    plain = start(order=3)
    own = split_guidance(plain, SCALE)
    assert torch.allclose(s4s.sample(own, DENOISE, x_T), s4s.sample(plain, DENOISE, x_T), atol=1e-12)
    assert own.calls == 10
    merged, scales = merge_guidance(own)
    assert scales == pytest.approx([SCALE] * 5)
    assert torch.allclose(merged.weight, plain.weight)
    assert merged.null is None


@pytest.mark.parametrize(("name", "options"), STARTS)
@pytest.mark.parametrize("kind", ["cfg", "columns"])
@pytest.mark.parametrize("convert", ["eval", "grid"])
def test_families_start_at_their_start(name: str, options: dict[str, object], kind: str, convert: str) -> None:
    """At the constant scale, and at their own numbers moved: in both forms, with levels told apart from the nodes'."""
    plain = start(name, **options)
    made = family(plain, kind, convert=convert, guidance=SCALE)
    assert torch.allclose(made.solver(made.theta).weight, SCALE * plain.weight, atol=1e-9)
    draw = torch.Generator().manual_seed(0)
    moved = made.theta + 0.1 * torch.randn(len(made.theta), generator=draw, dtype=torch.float64)
    other = made.solver(moved)
    again = family(other, kind, convert=convert)
    assert torch.allclose(again.theta, moved, atol=1e-7)
    assert not torch.equal(other.sigma_eval, other.sigma[:-1])


def test_columns_hold_more_than_scales() -> None:
    own = family(start(order=3), "columns", guidance=SCALE)
    other = own.solver(own.theta + torch.linspace(0, 0.1, len(own.theta), dtype=torch.float64))
    with pytest.raises(Error, match="weighs the outputs of evaluation 0 with and without the condition apart"):
        merge_guidance(other)
    with pytest.raises(Error, match="weighs the outputs of evaluation 0"):
        family(other, "cfg")
    with pytest.raises(Error, match="which family 'lms' has not; choose cfg or columns"):
        family(other, "lms")


@pytest.mark.parametrize("scaled", [True, False])
def test_a_call_that_is_left_out_is_not_made(scaled: bool) -> None:
    """The network is not asked; the sum of both columns, and so what a constant denoiser gives, stays."""
    asked: list[str] = []

    def told(name: str, denoise: Denoise) -> Denoise:
        def run(x: Tensor, sigma: Tensor) -> Tensor:
            asked.append(name)
            return denoise(x, sigma)

        return run

    own = split_guidance(start(order=3), SCALE)
    fewer = without(without(own, 2, scaled), 3, scaled)
    assert (fewer.calls, fewer.asks) == (8, (True, True, False, False, True))
    s4s.sample(fewer, guided(told("with", with_), told("none", none), SCALE), x_T)
    assert asked == ["with", "none", "with", "none", "with", "with", "with", "none"]
    assert torch.allclose(fewer.weight + fewer.null, own.weight + own.null)
    assert fewer.null is not None
    assert own.null is not None
    if scaled:
        assert merge_guidance(fewer)[1] == pytest.approx([SCALE, SCALE, 1, 1, SCALE])
    else:
        assert torch.allclose(fewer.null[:, 1], own.null[:, 1:4].sum(1)), "the latest difference stands in"
    kind = "cfg" if scaled else "columns"
    assert torch.allclose(family(fewer, kind).solver(family(fewer, kind).theta).weight, fewer.weight, atol=1e-9)


def test_files_of_it_are_of_version_3(tmp_path: Path) -> None:
    own = without(split_guidance(start(order=2), SCALE), 2)
    own.save(tmp_path / "own.json")
    again = s4s.load_solver(tmp_path / "own.json")
    assert again.to_dict() == own.to_dict()
    assert own.to_dict()["version"] == 3
    assert start().to_dict()["version"] == 1
    assert torch.equal(in_order(again), in_order(own))
    bad = own.to_dict() | {"version": 1}
    with pytest.raises(Error, match="'null' belongs to schema version 3, and 3 needs it"):
        solver_from_dict(bad)


def test_a_denoiser_of_one_output_is_refused() -> None:
    own = split_guidance(start(), SCALE)
    with pytest.raises(Error, match="weighs outputs with and without the condition apart, and the denoiser gives one"):
        s4s.sample(own, with_, x_T)
    with pytest.raises(Error, match="guidance 1 is the conditional network alone"):
        split_guidance(start(), 1)
    with pytest.raises(Error, match="calls = 4 is not possible at 5 evaluations: they take 5 to 10"):
        budget(5, 4)
    assert [budget(nfe, None) for nfe in (4, 5, 6)] == [6, 7, 9]
    assert len(ask(DENOISE, x_T, torch.tensor(1.0), False)) == 1


def test_scales_as_people_have_them() -> None:
    """Of torch and numpy, one for all or one a sample; what is neither is one line."""
    one = s4s.sample(start(), DENOISE, x_T)
    for scale in (torch.tensor(SCALE), np.float32(SCALE), [SCALE] * 8, np.full(8, SCALE)):
        assert torch.equal(s4s.sample(start(), guided(with_, none, scale), x_T), one)
    assert torch.equal(split_guidance(start(), torch.tensor(SCALE)).null, split_guidance(start(), SCALE).null)
    for wrong in ("3", None, math.nan, torch.ones(8, 1)):
        for make in (lambda scale: guided(with_, none, scale), lambda scale: split_guidance(start(), scale)):
            with pytest.raises(Error, match="the guidance scale"):
                make(wrong)
    with pytest.raises(Error, match="a solver's own guidance begins at one scale, got 8"):
        split_guidance(start(), [SCALE] * 8)


def test_finish_is_guided_as_the_last_evaluation() -> None:
    own = split_guidance(start(), SCALE).finish()
    assert own.calls == 12
    last = s4s.sample(split_guidance(start(), SCALE), DENOISE, x_T)
    assert torch.allclose(s4s.sample(own, DENOISE, x_T), DENOISE(last, own.sigma_eval[-1]), atol=1e-12)


@pytest.fixture(scope="module")
def teacher() -> s4s.TeacherSet:
    fine = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, nfe=24), order=3)
    return s4s.teacher_set(fine, DENOISE, n=96, shape=(2,), seed=0, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["cfg", "columns"])
def test_a_fit_learns_guidance_below_the_constant_scale(teacher: s4s.TeacherSet, kind: str) -> None:
    """From the same start, weights and guidance end closer to the teacher than weights alone, in the mean of seeds."""
    begin = [s4s.solver("ipndm", s4s.grid("logsnr", PROCESS, nfe=6), order=2)]
    options: dict[str, Any] = {"distance": "l2", "rounds": 2, "validation": 32}
    ratios = []
    for seed in range(4):
        plain = s4s.fit(begin, DENOISE, teacher, "s4s-alt", seed=seed, **options)
        own = s4s.fit(begin, DENOISE, teacher, "s4s-cfg", family=kind, seed=seed, **options)
        ratios.append(own.val_loss / plain.val_loss)
    assert own.solver.null is not None
    assert geometric_mean(ratios) < 0.85
    assert own.solver.provenance["family"] == kind
    assert own.solver.provenance["guidance"] == SCALE


def test_a_fit_within_a_budget_of_calls(teacher: s4s.TeacherSet) -> None:
    options: dict[str, Any] = {"family": "columns", "rounds": 1, "validation": 32}
    with pytest.warns(Notice, match="still fell in round 2, the last; more rounds would help"):
        made = s4s.fit(start(nfe=4, order=2), DENOISE, teacher, "s4s-cfg-skip", **options)
    assert made.solver.calls == 6
    assert made.val_loss < made.start_loss
    assert made.solver.provenance["calls"] == 6
    kept = [one["start"] for one in made.raced if "both outputs at" in one["start"]]
    assert len(kept) == 6 and len({*kept[:4]}) == 4 and {*kept[4:]} <= {*kept[:4]}, "four ways, two of them half way"


def test_calls_are_left_out_where_they_buy_least(teacher: s4s.TeacherSet) -> None:
    """Of all ways to leave out two, the four after which the loss is least, the least first."""
    objective = Objective(Frozen(DENOISE, None, 1e-3), distance("l2"), teacher, 32, Tried(1.0, False))
    whole = split_guidance(start(nfe=4, order=2), SCALE)
    ways = fewer_calls(whole, 6, objective, scaled=True)
    every = [without(without(whole, a, True), b, True) for a, b in combinations(range(4), 2)]
    loss = {way.asks: robust_mean(objective.distances(way, objective.held_out)) for way in every}
    assert [way.asks for way in ways] == sorted(loss, key=lambda asks: loss[asks])[:4]
    assert all(way.calls == 6 for way in ways)


def test_the_loss_within_a_budget_counts_moments(teacher: s4s.TeacherSet) -> None:
    options = {"family": "columns", "rounds": 1, "validation": 32, "moments": 30.0, "distance": "l2"}
    made = s4s.fit(start(nfe=4, order=2), DENOISE, teacher, "s4s-cfg-skip", **options)
    d, x = distance("l2"), s4s.sample(made.solver, DENOISE, teacher.x_T[-32:])
    pair = d.features(x), d.features(teacher.y[-32:])
    assert made.val_loss == pytest.approx(d.between(*pair).mean().item() + 30 * gap([pair]))


def test_a_killed_fit_within_a_budget_goes_on(teacher: s4s.TeacherSet, tmp_path: Path) -> None:
    """In either of its two parts; rounds are counted through, and so are seconds."""
    options: dict[str, Any] = {"family": "columns", "rounds": 2, "validation": 32}
    where, calls, limit, parts = tmp_path / "a", [0], 10**9, list[int]()

    def mortal(x: Tensor, sigma: Tensor) -> Tensor:
        calls[0] += 1
        if calls[0] > limit:
            raise KeyboardInterrupt
        return with_(x, sigma)

    def fit(**more: Any) -> s4s.FitResult:
        calls[0] = 0
        return s4s.fit(start(nfe=4, order=2), guided(mortal, none, SCALE), teacher, "s4s-cfg-skip", **options, **more)

    whole, again = fit(), None
    limit = calls[0] // 6
    while again is None and len(parts) < 20:
        try:
            again = fit(resume=where)
        except KeyboardInterrupt:
            parts.append(len([*tmp_path.iterdir()]))
    assert again is not None and min(parts.count(1), parts.count(2)) >= 2 and not [*tmp_path.iterdir()]
    assert again.solver.to_dict() == whole.solver.to_dict() and again.evaluations == whole.evaluations
    assert [one["round"] for one in again.history] == [0, 1, 2, 3] and again.history == whole.history


def test_what_a_fit_of_guidance_needs(teacher: s4s.TeacherSet) -> None:
    with pytest.raises(Error, match="method 's4s-cfg' learns guidance, and the denoiser has none that it tells apart"):
        s4s.fit(start(), with_, teacher, "s4s-cfg")
    with pytest.raises(Error, match="calls is the budget of s4s-cfg-skip alone"):
        s4s.fit(start(), DENOISE, teacher, "s4s-cfg", calls=6)
    with pytest.raises(Error, match=r"cannot learn family 'lms'.*may be chosen for s4s, s4s-alt, joint"):
        s4s.fit(start(), DENOISE, teacher, "s4s-cfg", family="lms")


def test_one_solver_for_a_range_of_scales() -> None:
    """Every sample at a scale of its own: each gets what a batch at that scale alone gives, and a fit improves all."""
    scales = 1 + 1.5 * (37 * torch.arange(100) % 100).double() / 99

    def denoise(condition: Tensor) -> Denoise:
        return guided(with_, none, condition)

    few = s4s.sample(start(), denoise(scales[[0, 40, 95]]), x_T[:3])
    for k, scale in enumerate(scales[[0, 40, 95]].tolist()):
        assert torch.allclose(few[k], s4s.sample(start(), guided(with_, none, scale), x_T[k : k + 1])[0])
    fine = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, nfe=24), order=3)
    data = s4s.teacher_set(
        fine,
        denoise,
        n=96,
        shape=(2,),
        seed=0,
        dtype=torch.float64,
        condition=lambda rows: scales[rows.start : rows.stop],
    )
    made = s4s.fit([start(nfe=4, order=2)], denoise, data, "s4s", rounds=1, validation=32)
    assert made.val_loss < 0.5 * made.start_loss
    with pytest.raises(Error, match="guidance scales of 3 samples do not fit a batch of 4"):
        denoise(scales[:3])(x_T[:4], torch.tensor(1.0))
    with pytest.raises(Error, match="the denoiser has none that it tells apart"):
        s4s.fit(start(), denoise, data, "s4s-cfg")
