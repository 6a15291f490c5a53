"""``s4s.fit_curve``: one fit for all numbers of evaluations, seen and unseen, to the byte; what it refuses."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import s4s
from s4s.errors import Notice
from s4s.learn import visits
from s4s.learn.frozen import Frozen
from s4s.learn.held_out import HeldOut
from s4s.learn.kept import Kept, together
from s4s.learn.objective import Objective, Tried
from s4s.learn.schedule import OWN_STEPS
from s4s.learn.visits import Descent, Visit, rows_at

PROCESS = s4s.EDM()
BLOBS = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """Of three narrow blobs, exact."""
    sigma = sigma.to(x).reshape(-1, *[1] * 3) if sigma.ndim else sigma.to(x)
    variance = 0.01 + sigma**2
    offset = x[:, None] - BLOBS
    weight = (-offset.square().flatten(2).sum(-1) / (2 * variance.reshape(-1, 1))).softmax(-1)
    mean = (weight[..., None, None, None] * BLOBS).sum(1)
    return mean + 0.01 / variance * (x - mean)


TEACHER = s4s.teacher_set(s4s.solver("unipc", s4s.grid("logsnr", PROCESS, 40)), denoise, n=200, shape=(1, 2, 2), seed=0)


def start(nfe: int) -> s4s.Solver:
    return s4s.solver("ipndm", s4s.grid("edm", PROCESS, nfe), order=3)


def fit(nfes: tuple[int, ...] = (3, 4, 6), **options: Any) -> s4s.CurveResult:
    return s4s.fit_curve(start, nfes, denoise, TEACHER, **{"sweeps": (3, 1)} | options)


def test_one_fit_brings_seen_and_unseen_numbers_near_the_teacher() -> None:
    found = fit((3, 4, 5, 6, 8, 10), unseen=[7], sweeps=(14, 3))
    assert list(found.losses) == [3, 4, 5, 6, 7, 8, 10] and not found.losses[7]["fitted"]
    for nfe, loss in found.losses.items():
        assert loss["robust"] < (0.2 if loss["fitted"] else 1.0) * loss["start"], nfe
    assert {*found.history[-1]["loss"]} == {"3", "4", "5", "6", "8", "10"}, "7 is never fitted"
    made = s4s.sample(found.curve.at(7), denoise, TEACHER.x_T[150:])
    distance = s4s.distance("l2")(made, TEACHER.y[150:]).double().mean().item()
    assert distance == pytest.approx(found.losses[7]["val_loss"], rel=1e-5)
    record = found.curve.at(7).provenance
    assert found.curve.provenance["sweeps"] and found.curve.provenance["derivatives"] == "reverse mode"
    assert record["method"] == "s4s-any" and record["fitted"] == [3, 4, 5, 6, 8, 10] and record["distance"] == "l2"


def test_its_evaluations_are_what_the_network_was_asked() -> None:
    asked = 0

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        nonlocal asked
        asked += len(x)
        return denoise(x, sigma)

    found = s4s.fit_curve(start, [3, 5], counted, TEACHER, sweeps=(1, 1), unseen=[4])
    # forward once and back twice for every batch: what is asked forward is less than what is counted
    batches = sum((2 * min(rows_at(32, nfe), 150) + min(rows_at(128, nfe), 150)) * 2 * (nfe - 1) for nfe in (3, 5))
    batches += OWN_STEPS * 64 * 2 * 4  # of 5 alone, at the end
    assert asked < found.evaluations + found.reported <= asked + batches + 100, "two descents begin"
    assert found.reported == 50 * (2 + 3 + 4) + 50 * 3 + 2 * 50 * (2 + 4), "losses, the unseen's start, and notes"


def test_sweeps_that_end_while_the_loss_falls_are_told() -> None:
    with pytest.warns(Notice, match=r"still fell, at last by \d\d%, when the sweeps were spent; more would help"):
        spent = fit((3,), sweeps=(2, 4))
    assert spent.curve.provenance["notes"] == spent.notes and len(spent.notes) == 1
    enough = fit((3,), sweeps=(4, 20))
    assert enough.notes == [] and enough.losses[3]["robust"] < 0.1 * spent.losses[3]["robust"]


def test_the_same_seed_gives_the_same_curve() -> None:
    whole, other = fit(), fit(seed=1)
    assert torch.equal(fit().curve.theta, whole.curve.theta) and not torch.equal(other.curve.theta, whole.curve.theta)


@pytest.mark.parametrize(("nfes", "sweeps", "at"), [((3, 4, 6), (2, 1), 5), ((3, 4), (1, 1), 5), ((4,), (1, 6), 6)])
def test_a_killed_fit_goes_on_to_the_byte(
    nfes: tuple[int, ...], sweeps: tuple[int, int], at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its first, small batches; where a number goes on alone; between two looks of a polish."""
    whole = fit(nfes, sweeps=sweeps)
    file, calls = tmp_path / "unfinished.safetensors", 0
    advance: Callable[..., None] = visits.advance

    def killed(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        advance(*args)

    monkeypatch.setattr(sys.modules["s4s.learn.any_nfe"], "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(nfes, resume=file, sweeps=sweeps)
    assert file.exists()
    monkeypatch.setattr(sys.modules["s4s.learn.any_nfe"], "advance", advance)
    again = fit(nfes, resume=file, sweeps=sweeps)
    assert torch.equal(again.curve.theta, whole.curve.theta) and again.evaluations == whole.evaluations
    assert again.history == whole.history and not file.exists()


def test_a_descent_whose_samples_are_not_finite_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two numbers are judged at the start, then in each of two descents."""
    module = sys.modules["s4s.learn.any_nfe"]
    judge: Callable[[Tensor], float] = module.robust_mean  # type: ignore[attr-defined]

    def fitted(*broken: int) -> s4s.CurveResult:
        calls = itertools.count()
        monkeypatch.setattr(module, "robust_mean", lambda d: math.nan if next(calls) in broken else judge(d))
        return fit((3, 5))

    first, second = fitted(4, 5).curve.theta, fitted(2, 3).curve.theta
    assert first.any() and second.any() and not torch.equal(first, second)
    with pytest.warns(Notice, match="stays its start"):
        assert not fitted(*range(2, 8)).curve.theta.any()
    with pytest.raises(s4s.Error, match="at 5 evaluations are not finite: check the network"):
        fitted(1)


def test_each_small_number_keeps_its_own_best() -> None:
    draw = torch.Generator().manual_seed(0)
    begin = s4s.curve(start)
    end, at_4, at_5 = (begin.replace(theta=0.1 * torch.randn(begin.theta.shape, generator=draw)) for _ in range(3))
    kept = {nfe: Kept(HeldOut(None, 0.0), best.theta.flatten(), 0.1)  # type: ignore[arg-type]
            for nfe, best in ((4, at_4), (5, at_5))}  # fmt: skip
    made = together(end, kept | {6: Kept(HeldOut(None, 0.0))})  # type: ignore[arg-type]
    for nfe, of in ((3, end), (4, at_4), (5, at_5), (6, end), (7, end), (20, end)):
        torch.testing.assert_close(made.at(nfe).weight, of.at(nfe).weight, rtol=1e-12, atol=1e-12)
    alone = {8: Kept(HeldOut(None, 0.0), at_4.theta.flatten(), 0.1)}  # type: ignore[arg-type]
    assert torch.equal(together(end, alone).theta, at_4.theta)


def test_what_is_kept_is_judged_by_all_held_out_samples() -> None:
    """Of two curves that are passed, the one guessed nearer is looked at, and kept if it is."""
    near = fit((4, 6)).curve
    network = Frozen(denoise, None, 1e-3)
    kept = Kept(HeldOut(Objective(network, s4s.distance("l2"), TEACHER, 50, Tried(1.0, True)), 0.0))
    kept.look(s4s.curve(start), 4)
    first = kept.loss
    kept.glance(near, 4)
    kept.glance(s4s.curve(start), 4)
    kept.look(s4s.curve(start), 4)
    distances = s4s.distance("l2")(s4s.sample(near.at(4), denoise, TEACHER.x_T[150:]), TEACHER.y[150:])
    assert kept.loss == pytest.approx(distances.double().mean().item(), rel=1e-5) and kept.loss < first
    assert torch.equal(kept.theta, near.theta.flatten())


def test_each_number_counts_by_its_own_loss() -> None:
    descent = Descent.of(s4s.curve(start), 0)
    descent.scale = {3: 2.0, 20: 1e-4}
    far, near = (torch.full((4,), value, dtype=torch.float64) for value in (1.0, 1e-4))
    inf = math.inf
    seen = [Visit(3, torch.arange(4), inf, far), Visit(20, torch.arange(4), inf, near)]
    assert descent.loss(seen) == pytest.approx(0.5 + 1.0)
    broken = [Visit(3, torch.arange(4), inf, torch.full((4,), math.nan, dtype=torch.float64))]
    assert descent.loss(broken) == inf


def test_a_curve_goes_on_from_a_curve_and_is_polished_for_one_number() -> None:
    first = fit((4, 6)).curve
    again = s4s.fit_curve(first, [4, 6], denoise, TEACHER, sweeps=(1, 0))
    assert again.losses[4]["start"] < s4s.fit_curve(start, [4], denoise, TEACHER, sweeps=(1, 1)).losses[4]["start"]
    polished = s4s.fit_curve(first, [4], denoise, TEACHER, sweeps=(2, 4))
    assert polished.losses[4]["robust"] < 0.9 * first.provenance["val_loss"]["4"]


@pytest.mark.parametrize(("options", "message"), [
    ({"nfes": (2, 4)}, "a curve has solvers of 3 to 20 evaluations, not of 2"),
    ({"unseen": [21]}, "a curve has solvers of 3 to 20 evaluations, not of 21"),
    ({"nfes": ()}, "nfes holds no number of evaluations"),
    ({"sweeps": 3}, "sweeps = 3 must be two whole numbers, such as"),
    ({"sweeps": (-1, 0)}, "sweeps = -1 must be a whole number of at least 0"),
    ({"nfes": [4.0]}, "nfes = 4.0 must be a whole number"),
    ({"progress": True}, "progress = True must be text"),
    ({"unseen": [4, 5]}, "none of the unseen ones, \\[4, 5\\]"),
    ({"validation": 200}, "validation = 200 must leave some"),
    ({"distance": "l3"}, "unknown distance 'l3'"),
])  # fmt: skip
def test_what_cannot_be_fitted_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        fit(**options)
    assert "\n" not in str(caught.value)


def test_what_is_no_teacher_set_is_one_line() -> None:
    with pytest.raises(s4s.Error, match="a teacher set is needed"):
        s4s.fit_curve(start, [4], denoise, TEACHER.y)  # type: ignore[arg-type]


def test_another_first_level_is_one_line() -> None:
    other = s4s.EDM(0.002, 40.0)
    with pytest.raises(s4s.Error, match="the curve starts at level 40, the teacher's noises at 80"):
        s4s.fit_curve(lambda nfe: s4s.solver("ddim", s4s.grid("edm", other, nfe)), [4], denoise, TEACHER)
