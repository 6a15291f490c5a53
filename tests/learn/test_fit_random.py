"""No fit breaks: random configurations, networks that return NaN, objectives that diverge."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import s4s
from s4s.learn import run
from s4s.learn.distance import Distance, perceptual, total
from s4s.learn.distances import distance
from s4s.learn.methods import APART, METHODS
from s4s.learn.moments import gap
from s4s.stages.cells import Cell
from s4s.stages.possible import require_held

PROCESS = s4s.EDM(0.002, 80.0)


def net(x: Tensor, sigma: Tensor) -> Tensor:
    """Posterior mean of three Gaussian blobs in 4 dimensions; a small nonlinear network with per-sample levels."""
    centres = torch.tensor([[1.0, 0.5, -0.5, 0.0], [-1.0, 0.0, 0.5, 1.0], [0.2, -1.0, 0.0, -0.7]]).to(x)
    flat, v = x.flatten(1), 0.04 + sigma.to(x)[:, None] ** 2
    score = -((flat[:, None] - centres) ** 2).sum(-1) / (2 * v)
    mean = (score.softmax(1)[..., None] * centres).sum(1)
    return (mean + 0.04 / v * (flat - mean)).reshape(x.shape)


denoise = PROCESS.denoiser(net, prediction="x0")
taps = perceptual(lambda x: [x, torch.tanh(3 * x[:, :, ::2])])
DISTANCES: dict[str, Distance] = {
    "l1": distance("l1"),
    "l2": distance("l2"),
    "perceptual": taps,
    "sum": total((1.0, distance("l2")), (0.5, distance("l1")), (0.1, taps)),
}


@cache
def teacher(n: int = 48) -> s4s.TeacherSet:
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 30), order=3)
    return s4s.teacher_set(strong, denoise, n, (1, 2, 2), dtype=torch.float64)


starts = st.sampled_from(
    [("ddim", {}), ("heun", {}), ("dpmpp", {"order": 2, "singlestep": True})]
    + [(name, {"order": k}) for name in ("dpmpp", "unipc", "ipndm", "deis") for k in (1, 2, 3)]
)
configurations = st.fixed_dictionaries(
    {
        "method": st.sampled_from(sorted(name for name, spec in METHODS.items() if spec.family not in APART)),
        "family": st.sampled_from([None, None, "lms", "pc", "ss", "guided", "full"]),
        "order": st.sampled_from([None, None, 1, 2, 3, 4]),
        "start": starts,
        "schedule": st.sampled_from(["logsnr", "edm", "quadratic", "uniform", "dmn"]),
        "nfe": st.integers(1, 10),
        "radius": st.sampled_from([0.0, 0.001, 0.05, 1.0]),
        "moments": st.sampled_from([0.0, 0.0, 10.0]),
        "distance": st.sampled_from(sorted(DISTANCES)),
        "convert": st.sampled_from(["eval", "grid"]),
        "seed": st.integers(0, 1000),
    }
)


def possible(case: dict[str, Any]) -> bool:
    """Whether a config may ask for it; others are refused in one line, which is tested elsewhere."""
    (name, options), nfe = case["start"], case["nfe"]
    order = 2 if name == "heun" or options.get("singlestep") else 1
    try:
        require_held(Cell(case["method"], name, options, "edm", nfe, 0, case["family"], case["order"]))
    except s4s.Error:
        return False
    return nfe % order == 0 and nfe // order >= (1 if order > 1 else options.get("order", 1))


@given(configurations.filter(possible))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_no_fit_ends_above_its_start(case: dict[str, Any]) -> None:
    name, options = case.pop("start")
    steps = case["nfe"] // 2 if name == "heun" or options.get("singlestep") else case["nfe"]
    start = s4s.solver(name, s4s.grid(case.pop("schedule"), PROCESS, steps), **options)
    case |= {"distance": DISTANCES[case["distance"]]}
    assert start.nfe == case.pop("nfe")
    found = s4s.fit(start, denoise, teacher(), **case, rounds=3)
    assert found.val_loss <= found.start_loss
    x_T, y = teacher().x_T[-12:], teacher().y[-12:]
    again, d = s4s.sample(found.solver, denoise, x_T), case["distance"]
    value = d(again, y).mean().item() + case["moments"] * gap([(d.features(again), d.features(y))])
    assert value == pytest.approx(found.val_loss, rel=1e-9)
    assert all(getattr(found.solver, key).isfinite().all() for key in ("sigma", "sigma_eval", "start", "weight"))
    falls = found.solver.sigma.diff() < 0
    assert falls.all() or (name == "heun" and falls[::2].all()), (
        "the last stage of Heun may stay at the end of its step"
    )
    assert found.solver.sigma[0] == 80.0 and found.solver.sigma[-1] == pytest.approx(0.002)
    assert (found.solver.sigma_eval <= 80.0).all() and (found.solver.sigma_eval >= 0.002).all()


def test_steps_into_nan_are_refused() -> None:
    """Outputs turn to NaN a little way from the start's levels: steps that reach there are refused."""
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4))
    good = {level.item() for level in start.sigma_eval}

    def brittle(x: Tensor, sigma: Tensor) -> Tensor:
        known = torch.tensor([min(abs(s / g - 1) for g in good) < 2e-3 for s in sigma.flatten().tolist()])
        return torch.where(known.all(), denoise(x, sigma), torch.nan)

    found = s4s.fit(start, brittle, teacher(), "ld3", rounds=2)
    assert found.val_loss <= found.start_loss < float("inf")
    assert torch.allclose(found.solver.sigma_eval, start.sigma_eval, rtol=2e-3)


@pytest.mark.parametrize("radius", [0.0, 0.1])
def test_derivatives_that_are_nan_move_nothing(radius: float) -> None:
    """The network is right only at the levels of the start, so derivatives by the levels are NaN."""
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4))

    def brittle(x: Tensor, sigma: Tensor) -> Tensor:
        known = (sigma.flatten()[:, None] / start.sigma_eval - 1).abs().amin(1).max() < 1e-6  # as float32 has them
        return torch.where(known, denoise(x, sigma), torch.nan)

    found = s4s.fit(start, brittle, teacher(), "joint", rounds=2, radius=radius)
    assert found.val_loss <= found.start_loss and torch.allclose(found.solver.sigma_eval, start.sigma_eval)


def test_a_fit_that_diverges_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second round ends far off: the third leaves from the best so far, with more damping."""
    ends: list[tuple[Tensor, float]] = []
    begins: list[tuple[Tensor, float]] = []
    turn = run.Run.turn

    def leaping(self: run.Run, stream: Any, k: int) -> None:
        begins.append((stream.theta, stream.damping))
        turn(self, stream, k)
        ends.append((self.likely, stream.damping))
        if k == 1:
            stream.theta = self.likely = stream.theta + 3

    monkeypatch.setattr(run.Run, "turn", leaping)
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4))
    found = s4s.fit(start, denoise, teacher(), "s4s", rounds=4, patience=9)
    losses = [record["val_loss"] for record in found.history]
    assert losses[1] > 10 * found.start_loss
    assert any(torch.equal(begins[2][0], theta) for theta in (begins[0][0], ends[0][0]))
    assert begins[2][1] == pytest.approx(36 * ends[1][1])
    assert losses[0] < found.start_loss and losses[2] < found.start_loss and found.val_loss <= min(losses)


def test_a_start_that_is_not_finite_is_refused() -> None:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4))
    with pytest.raises(s4s.Error, match="samples of ipndm3 are not finite, so there is nothing to fit"):
        s4s.fit(start, lambda x, sigma: x * torch.nan, teacher())
