"""A solver's own guidance in hosts that mix the outputs with and without the condition themselves, once a step.

``s4s.merge_guidance(solver)`` gives what they can take: a solver of mixed outputs, and a scale for every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.integrations.comfyui.sampler import flows, to_host
from s4s.integrations.sigmas import NEAR
from s4s.solver import Solver, require_solver
from s4s.values import doubles

SAME = 1e-6  # up to which scales are one scale, rounded


def diffusers_callback(scales: Sequence[float]) -> Callable[..., dict[str, Any]]:
    """A ``callback_on_step_end`` that gives every step of a diffusers pipeline a guidance scale of its own.

    Call the pipeline with ``guidance_scale=scales[0]``, this callback, and
    ``callback_on_step_end_tensor_inputs=["prompt_embeds"]``. At a scale of 1 the call without the prompt is not made.

    Args:
        scales: of all steps, as ``s4s.merge_guidance`` gives them.

    Raises:
        Error: a scale below 1, or a first of 1: diffusers' pipelines then do not guide at all.
    """
    scales = _checked(scales)
    if low := [scale for scale in scales if scale < 1]:
        raise Error(f"a scale of {low[0]:.4g}: diffusers' pipelines take scales below 1 for no guidance; fit with more "
                    "evaluations, or sample with s4s.sample")  # fmt: skip
    if scales[0] <= 1:
        raise Error("the first scale is 1: a diffusers pipeline then prepares no negative prompt for the others")
    both: list[Tensor] = []

    def callback(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if step == 0:
            both[:] = [inputs["prompt_embeds"]]
        if step + 1 < len(scales):
            pipe._guidance_scale = scales[step + 1]
            alone = scales[step + 1] <= 1
            inputs["prompt_embeds"] = both[0].chunk(2)[1] if alone else both[0]
        return inputs

    return callback


def comfyui_function(solver: Solver, scales: Sequence[float]) -> Callable[[dict[str, Any]], Tensor]:
    """A function for ComfyUI's ``model.set_model_sampler_cfg_function``: every level of the solver has its scale.

    Where the host finishes the solver by one more evaluation, that has the last scale too.

    Args:
        solver, scales: as ``s4s.merge_guidance`` gives them; the solver may be finished.

    Raises:
        Error: another number of scales, or two scales at one level, whose evaluations the host cannot tell apart.
    """
    require_solver(solver)
    own, of = solver.detach(), _checked(scales)
    told = torch.cat([own.sigma_eval, own.sigma[-1:]]) if own.sigma[-1] > 0 else own.sigma_eval
    before = own.nfe - (own.provenance.get("finish") == "one more evaluation")
    if len(of) not in (own.nfe, before):
        raise Error(f"{len(of)} scales for the {own.nfe} evaluations of {own.name}: one is needed for each")
    of += of[-1:] * (len(told) - len(of))
    _require_told_apart(own.name, told, of)

    def mixed(args: dict[str, Any]) -> Tensor:
        sigma = torch.as_tensor(args["sigma"]).flatten()[0].double().cpu()
        off = (to_host(told, flows(args["model"].model_sampling)) / sigma).log().abs()
        if off.min() > NEAR:
            raise Error(f"{solver.name} is not asked at sigma {sigma.item():.6g}: sample on its own SIGMAS")
        out: Tensor = args["uncond"] + of[int(off.argmin())] * (args["cond"] - args["uncond"])
        return out

    return mixed


def _checked(scales: Sequence[float]) -> list[float]:
    """Of evaluations one after the other, as plain numbers."""
    made = doubles(scales, "scales")
    if made.ndim != 1 or not len(made) or not made.isfinite().all():
        raise Error(f"scales must be finite numbers, one for every step, got {made.tolist()!r:.60}")
    found: list[float] = made.tolist()
    return found


def _require_told_apart(name: str, told: Tensor, scales: Sequence[float]) -> None:
    """Raise for evaluations at one level, in the host's float32, that have scales of their own."""
    at: dict[float, float] = {}
    for level, scale in zip(told.float().tolist(), scales, strict=True):
        if not math.isclose(at.setdefault(level, scale), scale, rel_tol=SAME, abs_tol=SAME):
            raise Error(f"{name} has two scales at level {level:.4g}, which ComfyUI cannot tell apart")
