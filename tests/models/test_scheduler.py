"""Noise schedules read from a scheduler's configuration, against the tables that diffusers' own classes make of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pipelines import diffusers
from torch import Tensor

from s4s.discrete import VPDiscrete
from s4s.errors import Error
from s4s.models.scheduler import DISCRETE, FLOW, schedule
from s4s.process import Flow

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # numpy's, in diffusers' schedulers
V = {"prediction_type": "v_prediction"}
ZERO = {"rescale_betas_zero_snr": True} | V


def theirs(kind: str, config: dict[str, Any]) -> Tensor:
    """``alphas_cumprod`` [K] of diffusers' scheduler, float32."""
    table: Tensor = getattr(diffusers, f"{kind}Scheduler").from_config(config).alphas_cumprod
    return table.double()


def ours(kind: str, config: dict[str, Any], **ends: float) -> tuple[VPDiscrete, Tensor, str]:
    process, prediction, scale = schedule(f"{kind}Scheduler", config, **ends)
    assert isinstance(process, VPDiscrete) and scale == 1
    count = config.get("num_train_timesteps") or len(config.get("trained_betas", ())) or 1000
    return process, process.alpha(torch.arange(1, count + 1) / count) ** 2, prediction


def agree(found: Tensor, expected: Tensor) -> None:
    """To what float32 leaves of diffusers' tables."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-7)


@pytest.mark.filterwarnings("ignore:the table's last step")
@pytest.mark.parametrize("kind", sorted(DISCRETE - {"S4S"}))
def test_every_class_has_the_table_that_diffusers_gives_it(kind: str) -> None:
    for config in ({}, {"num_train_timesteps": 100}, {"beta_schedule": "scaled_linear", "beta_end": 0.015},
                   {"beta_schedule": "squaredcos_cap_v2"}, {"trained_betas": [0.01, 0.02, 0.4, 0.5]},
                   {"unknown_key": 3, "beta_start": 0.002}):  # fmt: skip
        _, found, prediction = ours(kind, config)
        agree(found, theirs(kind, config))
        assert prediction == "eps"


@pytest.mark.filterwarnings("ignore:the table's last step")
@pytest.mark.parametrize("count", [1000, 50])
@pytest.mark.parametrize(("kind", "name"), [
    ("DDPM", "sigmoid"), ("DDPM", "laplace"), ("DDPMParallel", "sigmoid"), ("DDPMParallel", "laplace"),
    ("HeunDiscrete", "exp"),
])  # fmt: skip
def test_rarer_beta_schedules(kind: str, name: str, count: int) -> None:
    config = {"beta_schedule": name, "num_train_timesteps": count}
    agree(ours(kind, config)[1], theirs(kind, config))


@pytest.mark.parametrize("kind", ["HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LCM", "TCD"])
def test_a_class_keeps_the_betas_it_has_by_default(kind: str) -> None:
    assert not torch.allclose(ours(kind, {})[1], theirs("DDPM", {}), rtol=1e-2)
    agree(ours(kind, {"beta_end": 0.02})[1], theirs(kind, {"beta_end": 0.02}))


@pytest.mark.parametrize("kind", ["EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep", "UniPCMultistep"])
@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_pure_noise_is_level_4096_as_in_diffusers(kind: str, prediction: str) -> None:
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    config |= {"rescale_betas_zero_snr": True, "prediction_type": prediction}
    process, found, _ = ours(kind, config)
    agree(found, theirs(kind, config))
    assert process.sigma_max == pytest.approx(4096, rel=1e-6)
    assert float(process.model_time(process.sigma_max)) == pytest.approx(999, abs=1e-6)
    scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(config)
    scheduler.set_timesteps(5)
    first = scheduler.sigmas[0].item()
    assert first == pytest.approx(process.sigma_max, rel=1e-3)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM", "LCM", "TCD", "EulerDiscrete", "UniPCMultistep"])
@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2", "sigmoid"])
def test_every_table_rescaled_to_pure_noise_falls_and_starts_at_4096(kind: str, betas: str) -> None:
    config = {"beta_schedule": betas} | ZERO
    process, found, _ = ours(kind, config)
    assert process.sigma_max == pytest.approx(4096, rel=1e-6) and (found.diff() < 0).all()
    assert 990 < float(process.model_time(4096.0)) < 999.001
    if kind == "DDPM" or betas != "sigmoid":
        agree(found[:-1], theirs(kind, config)[:-1])
    assert ours(kind, config, t_max=0.5)[0].sigma_max == process.level(0.5).item()


def net(x: Tensor, t: Any) -> Tensor:
    """Stands for a network: of the state and of the time, which must be the one that it was trained with."""
    time = torch.as_tensor(t, dtype=x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return torch.tanh(1.7 * x) + torch.cos(time / 300) * x.flip(-1)


@pytest.mark.parametrize(("kind", "betas"), [
    *((kind, betas) for kind in ("DDPM", "DDIM", "DDPMParallel", "DDIMParallel") for betas in ({}, ZERO, V)),
    *((kind, {"beta_schedule": name}) for kind in ("DDPM", "DDPMParallel") for name in ("sigmoid", "laplace")),
])  # fmt: skip
def test_denoise_is_what_the_schedulers_step_predicts(kind: str, betas: dict[str, Any]) -> None:
    scheduler = getattr(diffusers, f"{kind}Scheduler")(clip_sample=False, **betas)
    process, table, prediction = ours(kind, dict(scheduler.config), t_max=1.0)
    scheduler.set_timesteps(1000)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for index in (5, 400, 990):
        expected = scheduler.step(net(x, index), index, x).pred_original_sample
        found = process.denoiser(net, prediction)(x / table[index].sqrt(), process.level((index + 1) / 1000))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["EulerDiscrete", "EulerAncestralDiscrete"])
def test_denoise_at_pure_noise_is_what_the_schedulers_step_predicts(kind: str) -> None:
    config = ZERO | {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler = getattr(diffusers, f"{kind}Scheduler")(timestep_spacing="trailing", **config)
    process, _, prediction = ours(kind, dict(scheduler.config))
    scheduler.set_timesteps(4)
    x = 4096 * torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        expected = scheduler.step(net(scheduler.scale_model_input(x, t), t), t, x).pred_original_sample
        torch.testing.assert_close(process.denoiser(net, prediction)(x, sigma), expected, rtol=1e-3, atol=2e-3)


def test_a_class_that_ignores_zero_snr_is_read_as_it_runs() -> None:
    for kind in ("HeunDiscrete", "DEISMultistep", "LMSDiscrete"):
        agree(ours(kind, ZERO)[1], theirs(kind, ZERO))


def test_betas_that_end_in_1_are_pure_noise_too() -> None:
    process, found, _ = ours("DDPM", {"trained_betas": [0.1, 0.5, 0.9, 1.0]} | V)
    assert process.sigma_max == pytest.approx(4096, rel=1e-6)
    agree(found[:-1], theirs("DDPM", {"trained_betas": [0.1, 0.5, 0.9, 1.0]})[:-1])


def test_what_the_network_predicts() -> None:
    for said, prediction in (("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")):
        assert ours("DDPM", {"prediction_type": said})[2] == prediction
    assert ours("DDPM", {"predict_epsilon": False})[2] == "x0"
    assert ours("DDPM", {"predict_epsilon": True})[2] == "eps"
    assert ours("DDPM", {"predict_epsilon": False, "prediction_type": "sample"})[2] == "x0"
    assert ours("DDPM", {"predict_epsilon": True, "prediction_type": "v_prediction"})[2] == "v"


@pytest.mark.parametrize("kind", sorted(FLOW))
def test_flows(kind: str) -> None:
    process, prediction, scale = schedule(f"{kind}Scheduler", {"num_train_timesteps": 500, "shift": 3.0}, t_max=0.9)
    assert isinstance(process, Flow) and process.t_max == 0.9 and (prediction, scale) == ("flow", 500)
    process, prediction, scale = schedule(
        "UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    )
    assert isinstance(process, Flow) and (prediction, scale) == ("flow", 1000)


@pytest.mark.parametrize(("kind", "config", "message"), [
    ("S4S", {"prediction_type": "epsilon", "trained_betas": None}, "S4SScheduler: its solver's process has no table"),
    ("EDMEuler", {}, "unknown scheduler 'EDMEulerScheduler'; choose one of: Cosine"),
    ("Mine", {}, "unknown scheduler 'MineScheduler'"),
    ("DDPM", {"beta_schedule": "cosine"}, "unknown beta_schedule 'cosine'; choose one of: exp, laplace, linear"),
    ("DDPM", {"prediction_type": "score"}, "unknown prediction_type 'score'"),
    ("DDPM", {"predict_epsilon": False, "prediction_type": "epsilon"}, "predict_epsilon is false and prediction_type"),
    ("DDIM", {"rescale_betas_zero_snr": True}, "zero terminal SNR with prediction_type 'epsilon'"),
    ("DDPM", {"trained_betas": [0.1, 1.0]}, "zero terminal SNR with prediction_type 'epsilon'"),
    ("DDPM", {"trained_betas": [0.1, 1.0, 0.2]}, "must be below 1, all but the last"),
    ("DDPM", {"trained_betas": [0.1, math.nan]}, "must be numbers from 0 to 1"),
    ("DDPM", {"beta_end": 1.5}, "must be numbers from 0 to 1"),
    ("DDPM", {"trained_betas": [0.0, 0.0]}, "falling sequence"),
    ("DPMSolverMultistep", {"use_flow_sigmas": True}, "use_flow_sigmas is not supported"),
    ("FlowMatchEulerDiscrete", {"invert_sigmas": True}, "invert_sigmas is not supported"),
    ("FlowMatchEulerDiscrete", {"prediction_type": "epsilon"}, "a flow predicts the flow"),
    ("EulerDiscrete", {"timestep_type": "continuous"}, "only 'discrete'"),
])  # fmt: skip
def test_refusals(kind: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(Error, match=message) as caught:
        schedule(f"{kind}Scheduler", config)
    assert str(caught.value).isprintable()
