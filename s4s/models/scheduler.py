"""What a diffusers scheduler says of the model: its noise process and what the network predicts, from class and config.

Only that is read. How a scheduler samples (spacing, clipping, thresholding, Karras levels) is no part of the model.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from s4s.discrete import VPDiscrete
from s4s.errors import Error, extra, require_choice
from s4s.integrations.plan import Plan, flows, plan_from_dict
from s4s.paths import Cosine
from s4s.process import Flow, Process

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow"}
DISCRETE = frozenset({
    "DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep",
    "DPMSolverMultistepInverse", "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete", "HeunDiscrete",
    "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD", "UniPCMultistep",
    "S4S",
})  # fmt: skip
FLOW = frozenset({"FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete"})
COSINE = "CosineDPMSolverMultistep"  # whose network's time is 2/pi atan(level)
LEAST = 2.0**-24  # diffusers' alphas_cumprod in place of 0, so that the level of pure noise is 4096


def schedule(
    kind: str, config: Mapping[str, Any], t_min: float | None = None, t_max: float | None = None
) -> tuple[Process, str, float]:
    """Process, prediction and what the network's time is multiplied by, from a scheduler's class and configuration.

    Raises:
        Error: a scheduler, schedule or prediction that is not a discrete variance-preserving process, a flow, or
            the trigonometric path of audio models.
    """
    require_choice("scheduler", kind, {f"{name}Scheduler" for name in DISCRETE | FLOW | {COSINE}})
    run = _as_run(kind, config)
    prediction = _prediction(kind, run, config)
    if (run.get("timestep_type") or "discrete") != "discrete":
        raise Error(f"{kind}: timestep_type {run['timestep_type']!r} is not supported, only 'discrete'")
    ends: dict[str, Any] = {key: value for key, value in (("t_min", t_min), ("t_max", t_max)) if value is not None}
    if kind == f"{COSINE}Scheduler":
        return Cosine(**_cosine_ends(run) | ends), prediction, 1.0
    if prediction == "flow":
        return Flow(**ends), "flow", float(run["num_train_timesteps"])
    table = alphas_cumprod(run)
    if table[-1] == 0:
        table = _ending(table, kind, prediction)
        whole = VPDiscrete(table, t_max=1.0)
        ends = {"t_max": whole.time(math.sqrt(1 / LEAST - 1)).clamp(max=1).item()} | ends
    return VPDiscrete(table, **ends), prediction, 1.0


def _as_run(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the class runs on: its own defaults where the configuration says nothing, and no keys it does not know."""
    if kind == "S4SScheduler":  # ours, which says everything
        flow = config.get("prediction_type") == "flow_prediction"
        if config.get("trained_betas") is None and not (flow and all(map(flows, _plans(config)))):
            raise Error(f"{kind}: its solver's process has no table of betas, so the model's own is not known")
        return dict(config)
    with extra("diffusers"):
        import diffusers

    signature = inspect.signature(getattr(diffusers, kind).__init__)
    known = {key: found.default for key, found in signature.parameters.items() if key != "self"}
    return known | {key: value for key, value in config.items() if key in known}


def _plans(config: Mapping[str, Any]) -> list[Plan]:
    """Of our own scheduler."""
    return [plan_from_dict(each) for each in config.get("solvers") or []]


def _prediction(kind: str, known: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What the network predicts, in our words. ``predict_epsilon`` is how it was said in 2022."""
    flow = kind.removesuffix("Scheduler") in FLOW
    for key in ("invert_sigmas", "use_flow_sigmas"):
        if known.get(key) and (flow or config.get("prediction_type") != "flow_prediction"):
            raise Error(f"{kind}: {key} is not supported")
    said = config.get("prediction_type")
    if config.get("predict_epsilon") is False and said in (None, "sample"):
        said = "sample"
    elif config.get("predict_epsilon") is False:
        raise Error(f"{kind}: predict_epsilon is false and prediction_type is {said!r}; remove the one that is wrong")
    said = said or ("flow_prediction" if flow else known.get("prediction_type", "epsilon"))
    require_choice("prediction_type", said, PREDICTIONS)
    if flow and said != "flow_prediction":
        raise Error(f"{kind}: prediction_type {said!r} is not supported; a flow predicts the flow")
    return PREDICTIONS[said]


def _cosine_ends(run: Mapping[str, Any]) -> dict[str, float]:
    """Ends of sampling of a trigonometric path, from the levels of its scheduler."""
    if run["sigma_data"] != 1:
        raise Error(f"{COSINE}Scheduler: sigma_data {run['sigma_data']!r} is not supported, only 1")
    return {end: Cosine().time(run[f"sigma_{end[2:]}"]).item() for end in ("t_min", "t_max")}


def alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """The table of a discrete scheduler, float64 [K], falling; 0 at its end if it ends in pure noise."""
    table = (1 - betas(config)).cumprod(0)
    if config.get("rescale_betas_zero_snr"):  # Lin et al. 2024, Alg. 1
        root = table.sqrt()
        table = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return table


def _ending(table: Tensor, kind: str, prediction: str) -> Tensor:
    """The table with a number in place of its last 0: what diffusers takes, or less where the table must fall."""
    if prediction == "eps":
        raise Error(f"{kind}: zero terminal SNR with prediction_type 'epsilon': at pure noise a prediction of the noise"
                    " says nothing of the data; such a network predicts 'v_prediction' or 'sample'")  # fmt: skip
    before = table[-2].item()
    return torch.cat([table[:-1], table.new_tensor([LEAST if before > LEAST else before / 4])])


def betas(config: Mapping[str, Any]) -> Tensor:
    """The noise schedule of a discrete scheduler, float64 [K]. The last may be 1: a table that ends in pure noise."""
    count, kind = config.get("num_train_timesteps", 1000), config.get("beta_schedule", "linear")
    require_choice("beta_schedule", kind, BETAS)
    if type(count) is not int or not 2 <= count <= 100_000:
        raise Error(f"num_train_timesteps = {count!r} must be a whole number from 2 to 100000")
    trained, ends = config.get("trained_betas"), (config.get("beta_start", 1e-4), config.get("beta_end", 0.02))
    numbers = ends if trained is None else trained
    if not isinstance(numbers, list | tuple) or not all(type(b) in (int, float) and 0 <= b <= 1 for b in numbers):
        raise Error("the noise schedule's betas must be numbers from 0 to 1")
    if len(numbers) < 2:
        raise Error("the noise schedule's trained_betas must be at least two")
    made = BETAS[kind](*ends, count) if trained is None else torch.tensor(trained, dtype=torch.float64)
    if (made[:-1] == 1).any():
        raise Error("the noise schedule's betas must be below 1, all but the last")
    return made


def _from_bar(bar: Callable[[Tensor], Tensor]) -> Callable[[float, float, int], Tensor]:
    """Betas of a formula for alphas_cumprod in t from 0 to 1, none above 0.999 (Nichol & Dhariwal 2021, Eq. 17)."""

    def made(start: float, end: float, count: int) -> Tensor:
        values = bar(torch.arange(count + 1, dtype=torch.float64) / count)
        return (1 - values[1:] / values[:-1]).clamp(max=0.999)

    return made


def _laplace(t: Tensor) -> Tensor:
    """``sqrt(snr / (1 + snr))``, the root included: as diffusers has it."""
    half = 0.5 - t
    log_snr = -0.5 * torch.copysign(torch.ones_like(t), half) * (1 - 2 * half.abs() + 1e-6).log()
    return log_snr.exp().div(1 + log_snr.exp()).sqrt()


def _linear(start: float, end: float, count: int) -> Tensor:
    return torch.linspace(start, end, count, dtype=torch.float64)


BETAS: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": _linear,
    "scaled_linear": lambda start, end, count: _linear(start**0.5, end**0.5, count) ** 2,
    "squaredcos_cap_v2": _from_bar(lambda t: ((t + 0.008) / 1.008 * torch.pi / 2).cos() ** 2),
    "sigmoid": lambda start, end, count: _linear(-6, 6, count).sigmoid() * (end - start) + start,
    "laplace": _from_bar(_laplace),
    "exp": _from_bar(lambda t: (-12 * t).exp()),
}
