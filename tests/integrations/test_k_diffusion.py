"""The k-diffusion sampler against what k-diffusion 0.1.1.post1 does, by a stand-in that keeps its conventions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from problems import TwoPoints
from torch import Tensor

import s4s
from s4s.cli.main import cli
from s4s.integrations.k_diffusion import denoiser, get_sigmas_s4s, sample_s4s

PROCESS = s4s.EDM(0.03, 14.0)
SOLVER = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 5), order=2)
X = 14.0 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


class Model:
    """A model as k-diffusion has them: sigma is a vector [B], other arguments by keyword, the result x_0.

    Sampling takes no gradients, a fit does.
    """

    def __init__(self, fitted: bool = False) -> None:
        self.fitted = fitted
        self.sigmas: list[Tensor] = []
        self.extra: list[dict[str, Any]] = []

    def __call__(self, x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
        assert sigma.shape == (len(x),) and sigma.dtype == x.dtype
        assert self.fitted or not torch.is_grad_enabled()
        self.sigmas.append(sigma[0])
        self.extra.append(extra)
        return TwoPoints().denoise(x.double(), sigma.double().reshape(-1, 1)).to(x)


def reference(model: Model, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M) by its recurrence in lam, first order in the first step and to level 0 (Lu et al. 2022)."""
    before: tuple[Tensor, Tensor] | None = None
    for s, s_next in pairwise(sigmas):
        D = model(x, s * x.new_ones(len(x)))
        used = D
        if before is not None and s_next > 0:
            step, last = (s / s_next).log(), (before[0] / s).log()
            used = D + step / (2 * last) * (D - before[1])
        x = s_next / s * x + (1 - s_next / s) * used
        before = s, D
    return x


def test_it_is_called_as_their_samplers_are() -> None:
    seen: list[dict[str, Any]] = []
    model = Model()
    sigmas = get_sigmas_s4s(SOLVER)
    sampler = partial(sample_s4s, solver=SOLVER)
    found = sampler(model, X, sigmas, extra_args={"cond": 3}, callback=seen.append, disable=True)
    assert model.extra == [{"cond": 3}] * 5 and torch.equal(torch.stack(model.sigmas), sigmas[:-1])
    assert [step["i"] for step in seen] == [0, 1, 2, 3, 4] and torch.equal(seen[0]["x"], X)
    for step, sigma in zip(seen, sigmas[:-1], strict=True):
        assert {*step} == {"x", "i", "sigma", "sigma_hat", "denoised"}
        assert step["sigma"] == step["sigma_hat"] == sigma
        torch.testing.assert_close(step["denoised"], TwoPoints().denoise(step["x"], sigma))
    with torch.no_grad():
        torch.testing.assert_close(found, s4s.sample(SOLVER, denoiser(Model()), X), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: get_sigmas_s4s(s4s.Bundle({5: SOLVER})), "one solver is needed, got a Bundle: take that of a number"),  # type: ignore[arg-type]
    (lambda: get_sigmas_s4s(None), "a solver is needed, got a NoneType"),  # type: ignore[arg-type]
    (lambda: denoiser(None), "a model of k-diffusion must be a function"),  # type: ignore[arg-type]
])  # fmt: skip
def test_what_is_no_solver_and_no_model(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        call()


def test_their_dpmpp_2m_is_ours_on_the_same_sigmas() -> None:
    sigmas = torch.tensor([14.0, 4.8, 1.3, 0.25, 0.03, 0.0])
    ended = s4s.solver("dpmpp", s4s.grid(sigmas, PROCESS, 5), order=2, lower_order_final=True)
    with torch.no_grad():
        theirs = reference(Model(), X, sigmas)
    torch.testing.assert_close(sample_s4s(Model(), X, sigmas, disable=True, solver=ended), theirs, rtol=1e-5, atol=1e-5)


def test_a_final_zero_finishes_the_solver() -> None:
    sigmas = get_sigmas_s4s(SOLVER, finish=True)
    assert sigmas[-1] == 0 and len(sigmas) == 7
    model = Model()
    found = sample_s4s(model, X, sigmas, disable=True, solver=SOLVER)
    last = sample_s4s(Model(), X, get_sigmas_s4s(SOLVER), disable=True, solver=SOLVER)
    assert len(model.sigmas) == 6
    torch.testing.assert_close(found, TwoPoints().denoise(last, sigmas[-2]))


def test_a_solver_starts_from_its_own_noise() -> None:
    moved, noise = SOLVER.replace(noise=s4s.Start(2.0, 12.0)), X / 14
    found = sample_s4s(Model(), X, moved.sigma, solver=moved, disable=True)
    model = denoiser(Model(fitted=True))
    assert torch.allclose(found, s4s.sample(moved, model, moved.x_T(noise)), atol=1e-5)


def test_a_bundle_picks_by_the_number_of_sigmas() -> None:
    bundle = s4s.Bundle({n: s4s.solver("unipc", s4s.grid("logsnr", PROCESS, n)) for n in (4, 5, 6)})
    curve = s4s.curve(lambda n: s4s.solver("unipc", s4s.grid("logsnr", PROCESS, n)))
    for of, nfe, finish in ((bundle, 4, False), (bundle, 5, False), (bundle, 5, True), (bundle, 6, True),
                            (curve, 7, False), (curve, 7, True)):  # fmt: skip
        model = Model()
        sample_s4s(model, X, get_sigmas_s4s(of[nfe], finish=finish), disable=True, solver=of)
        assert len(model.sigmas) == nfe + finish


def test_sigmas_that_went_through_text_are_the_solver_s_own() -> None:
    rough = torch.tensor([float(f"{value:.4g}") for value in SOLVER.sigma.tolist()])
    exact = sample_s4s(Model(), X, get_sigmas_s4s(SOLVER), disable=True, solver=SOLVER)
    assert torch.equal(sample_s4s(Model(), X, rough, disable=True, solver=SOLVER), exact)


@pytest.mark.parametrize(("sigmas", "message"), [
    (s4s.grid("edm", PROCESS, 5), "these sigmas are not the solver's own, and its weights belong to its levels"),
    (s4s.grid("logsnr", PROCESS, 8), "9 sigmas are for 8 evaluations, the solver makes 5: take those of get_sigmas"),
    (SOLVER.sigma[2:], "4 sigmas are for 3 evaluations, the solver makes 5"),
    (SOLVER.sigma[0], "1 sigmas are for 0 evaluations, the solver makes 5"),
    (torch.cat([SOLVER.sigma[:-1], torch.zeros(1)]), "these sigmas are not the solver's own"),
])  # fmt: skip
def test_foreign_sigmas_are_refused(sigmas: Tensor, message: str) -> None:
    """Another schedule, denoise below 1 (which drops the first sigmas), a last level put to 0."""
    model = Model()
    with pytest.raises(s4s.Error, match=message):
        sample_s4s(model, X, sigmas.float(), disable=True, solver=SOLVER)
    assert not model.sigmas


def test_a_list_of_solvers_is_refused() -> None:
    with pytest.raises(s4s.Error, match="a solver is needed, or a bundle or curve of them, got list"):
        sample_s4s(Model(), X, get_sigmas_s4s(SOLVER), disable=True, solver=[SOLVER])  # type: ignore[arg-type]


def test_a_fit_on_such_a_model() -> None:
    denoise = denoiser(Model(fitted=True), {"cond": 1})
    with torch.no_grad():
        strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 30))
        teacher = s4s.teacher_set(strong, denoise, 48, (3,))
        result = s4s.fit(SOLVER, denoise, teacher, "s4s", rounds=2)
    assert result.val_loss < result.start_loss


# --- s4s show --sigmas ---


def show(path: Path, *options: str) -> Any:
    return CliRunner().invoke(cli, ["show", str(path), "--sigmas", *options])


def test_one_line_to_paste(tmp_path: Path) -> None:
    told = SOLVER.sigma[:-1] * torch.tensor([1.0, 0.95, 1, 1, 1], dtype=torch.float64)
    SOLVER.replace(sigma_eval=told, noise=s4s.Start(0.0, 14.2)).save(tmp_path / "solver.json")
    shown = show(tmp_path / "solver.json")
    assert shown.exit_code == 0
    (line,) = shown.stdout.splitlines()
    values = torch.tensor([float(word) for word in line.split(", ")])
    assert torch.equal(values[:-1], SOLVER.sigma[:-1].float()) and values[-1] == 0
    (lost,) = shown.stderr.splitlines()
    assert lost == (
        "lost: levels of dpmpp2, 5 evaluations; the host's own sampler gives the weights; "
        "the network is asked at these levels, not up to 5.26% beside them as fitted; "
        "the last step goes to 0, not to 0.03; noise starts as the host has it, not at mean 0, scale 14.2"
    )


def test_times_of_a_flow(tmp_path: Path) -> None:
    s4s.solver("ddim", [999.0, 3.0, 1.0, 0.0]).save(tmp_path / "solver.json")
    shown = show(tmp_path / "solver.json", "--flow")
    assert shown.stdout == "0.999, 0.75, 0.5, 0\n"
    assert shown.stderr == "lost: levels of ddim, 3 evaluations; the host's own sampler gives the weights\n"


def test_of_a_bundle_one_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "bundle.json"
    s4s.Bundle({n: s4s.solver("heun", s4s.grid("edm", PROCESS, n // 2)) for n in (4, 6)}).save(path)
    assert len(show(path, "--nfe", "6").stdout.split(",")) == 4
    for options, message in (([], "one line is of one solver; give --nfe, one of: 4, 6"),
                             (["--nfe", "5"], "no solver makes 5 evaluations here, only 4, 6")):  # fmt: skip
        failed = show(path, *options)
        assert failed.exit_code and message in str(failed.exception)
    failed = CliRunner().invoke(cli, ["show", str(path), "--flow"])
    assert "--flow belongs to --sigmas" in str(failed.exception)
